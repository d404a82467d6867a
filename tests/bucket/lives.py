"""Runs in a bucket that are killed, and what they leave."""

import random
import subprocess
import time
from pathlib import Path

import impatient
import jax
import numpy as np

import flair_jax
from flair_jax import buckets
from flair_jax.train.logger import read_metrics

TRAIN = (impatient.__file__, "flair_jax.train")


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        words, errors = process.communicate(timeout=300)
        assert process.returncode == 0, words + errors


def saved_steps(run: Path) -> tuple[set[str], set[str]]:
    """Steps whose checkpoints have got their last file, and those whose have not."""
    files = buckets.list_files(run / "checkpoints")
    steps = {name.split("/")[0] for name in files}
    done = {step for step in steps if f"{step}/commit_success.txt" in files}
    return done, steps - done


def kill(process: subprocess.Popen, run: Path, rng: random.Random, when: str) -> bool:
    """Kills a run, and returns whether it was saving."""
    done_before, left = saved_steps(run)
    until = time.monotonic() + (rng.uniform(0, 8) if when == "anywhere" else 120)
    while time.monotonic() < until and process.poll() is None:
        done, unfinished = saved_steps(run)
        left &= unfinished  # what the run before left is removed by this one
        if when == "saving" and unfinished - left:
            break
        if when == "saved" and done - done_before:
            time.sleep(rng.uniform(0, 2))
            break
        time.sleep(0.05)
    process.kill()
    words, errors = process.communicate()
    assert process.returncode == -9, words + errors
    return bool(saved_steps(run)[1])


def assert_same_runs(one: Path, other: Path, step: int) -> None:
    """The same parameters to the last bit, and the same metrics of every step, once each."""
    first, second = (flair_jax.load(run / "checkpoints" / str(step))[1] for run in (one, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    logged = [[(line["step"], line.get("loss")) for line in read_metrics(run)] for run in (one, other)]
    assert logged[0] == logged[1]
