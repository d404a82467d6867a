"""One of several processes that evaluate together, in all modes; a test starts them.

python shared_run.py CHECKPOINT DATA OUTPUT --distributed --coordinator=... --processes=... --process=...

With KILL_AFTER=N in the environment, the last process kills itself at its Nth block of scores.
"""

import argparse
import os
import signal
from pathlib import Path

from flair_jax.errors import FlairError
from flair_jax.parallel.processes import CLUSTER_OPTIONS, Processes, join_cluster

parser = argparse.ArgumentParser()
for name in ("checkpoint", "data", "output"):
    parser.add_argument(name, type=Path)
parser.add_argument("--distributed", action="store_true")
for name, kind, _ in CLUSTER_OPTIONS:
    parser.add_argument(f"--{name}", type=kind)
options = parser.parse_args()
join_cluster({name: getattr(options, name) for name, _, _ in CLUSTER_OPTIONS}, sigterm_saves=False)

from flair_jax.evaluate import retrieval_task
from flair_jax.evaluate.retrieval import RETRIEVAL_MODES, RetrievalSettings
from flair_jax.evaluate.tasks import Job, evaluate_checkpoint
from flair_jax.scoring.scorer import Retriever

processes = Processes.all()
embedded, scored = [], []
encode_images, score_all = Retriever.encode_images, Retriever.score_all


def counting_encode_images(self, pixels, **options):
    embedded.append(len(pixels))
    return encode_images(self, pixels, **options)


def counting_score_all(self, *arguments, **options):
    scored.append(1)
    if processes.index == processes.count - 1 and len(scored) == int(os.environ.get("KILL_AFTER", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return score_all(self, *arguments, **options)


Retriever.encode_images, Retriever.score_all = counting_encode_images, counting_score_all
for mode in RETRIEVAL_MODES:
    job = Job(retrieval_task.task(processes), RetrievalSettings(mode, top_k=5, batch_size=4, skip_broken=True))
    evaluate_checkpoint(
        *(options.checkpoint, "all", options.data, job),
        dtype="float32",
        output=options.output / f"{mode}.json",
        processes=processes,
    )
print(f"\nembedded {sum(embedded)} pictures")


def fail_on_the_last() -> None:
    if processes.index == processes.count - 1:
        raise FlairError("it has no disk")


try:
    processes.together(fail_on_the_last)
except FlairError as error:
    print(f"failed: {error}")
