"""One of several processes that share a run and end in a way that the test names.

python peers_run.py HOW VICTIM --coordinator=... --processes=... --process=... --distributed
"""

import argparse
import os
import signal
import sys
import time

from flair_jax import interrupts
from flair_jax.console import run_command
from flair_jax.errors import FlairError
from flair_jax.parallel import peers
from flair_jax.parallel.processes import CLUSTER_OPTIONS, Processes, join_cluster


def end(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "bad input":
        raise FlairError("the disk is full; make room")
    if how == "frozen":  # as a machine that has vanished: its connections stay
        os.kill(peers._watch.watchman.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)


def run() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("how")
    parser.add_argument("victim", type=int)
    parser.add_argument("--distributed", action="store_true")
    for name, kind, _ in CLUSTER_OPTIONS:
        parser.add_argument(f"--{name}", type=kind)
    options = parser.parse_args()
    join_cluster({name: getattr(options, name) for name, _, _ in CLUSTER_OPTIONS}, sigterm_saves=True)
    processes = Processes.all()
    with peers.ending_together():
        processes.gather(1)
        if processes.index == options.victim:
            print(f"at {time.time()}; watchman {peers._watch.watchman.pid}", flush=True)
            end(options.how)
        processes.gather(2)
    print("finished")
    return 0


sys.exit(interrupts.run(lambda: run_command(run)))
