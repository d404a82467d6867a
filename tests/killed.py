"""A command of `flair-jax` that is killed in the middle of its work."""

import signal
import subprocess
import sys

_SCRIPT = """
import importlib, os, signal, sys
from flair_jax.cli import main

module, kind, method, call, setup = sys.argv[1:6]
exec(setup)
owner, calls = getattr(importlib.import_module(module), kind), []
original = getattr(owner, method)

def killing(*arguments, **options):
    calls.append(1)
    return original(*arguments, **options) if len(calls) < int(call) else os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, method, killing)
main(sys.argv[6:])
"""


def run_killed(owner: type, method: str, call: int, *words: object, setup: str = "") -> None:
    """Runs a command that gets SIGKILL instead of its `call`-th call of a method; `setup` is code that runs first."""
    where = (owner.__module__, owner.__name__, method, call, setup)
    command = [sys.executable, "-c", _SCRIPT, *map(str, (*where, *words))]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
