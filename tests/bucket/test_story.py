"""Runs that live in a bucket: killed again and again, behind a network that fails, they end as those on a disk do."""

import json
import random
import subprocess
import time
from pathlib import Path

import impatient
import jax
import numpy as np
import pytest
import runs
from made_tars import write_tars
from own_bucket import Bucket, connected

import flair_jax
from flair_jax import buckets
from flair_jax.cli import main
from flair_jax.files import expand
from flair_jax.train.logger import read_metrics

pytestmark = [pytest.mark.bucket, pytest.mark.timeout(900)]

# How each life of a run ends: while it saves, some time after it has saved, or anywhere from its start on.
KILLS = ("saving", "saved", "anywhere", "saving", "saved", "saving", "anywhere", "saved", "anywhere", "saving")
STEPS = 21
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


@pytest.fixture(scope="module")
def tars(gcs: Bucket, tmp_path_factory) -> str:
    """Three tars in the bucket, indexed there."""
    folder = tmp_path_factory.mktemp("tars")
    write_tars(folder, 3, 16)
    buckets.upload(folder, expand(f"{gcs.url}/tars"))
    pattern = f"{gcs.url}/tars/{{00000..00002}}.tar"
    assert main(["data", "index", pattern]) == 0
    return pattern


def test_a_run_that_is_killed_again_and_again(gcs: Bucket, tars, photographs, tmp_path, capsys) -> None:
    run, rng = expand(f"{gcs.url}/run"), random.Random(0)
    config = runs.write_config(tmp_path, tmp_path)
    more = (f"--config.data.name={tars}", f"--config.steps={STEPS}")
    status, _, errors = runs.run(config, tmp_path / "disk", *more)
    assert status == 0, errors

    train = (*TRAIN, f"--config={config}", f"--workdir={run}", *more)
    saving = []
    for when in KILLS:
        with connected(gcs.flaky):
            process = runs.spawn(*train)
        saving.append(kill(process, run, rng, when))
    assert sum(saving) >= 3
    scored = f"evaluate --checkpoint {run} --dataset coco --data-dir {photographs} --output {gcs.url}/coco.json"
    with connected(gcs.flaky):
        finish(runs.spawn(*train))
        finish(
            runs.spawn(impatient.__file__, "flair_jax.cli", *scored.split()),
            runs.spawn(impatient.__file__, "flair_jax.cli", "export", run, f"{gcs.url}/mine.safetensors"),
        )
    assert_same_runs(run, tmp_path / "disk", STEPS)
    assert json.loads(expand(f"{gcs.url}/coco.json").read_text())["results"][0]["dataset"] == "coco"
    assert expand(f"{gcs.url}/mine.safetensors").exists()
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    assert f"step         {STEPS} of {STEPS}" in capsys.readouterr().out


def test_two_processes_of_which_one_is_killed(gcs: Bucket, tars, tmp_path) -> None:
    """The other ends by itself, and both go on from what they had saved together."""
    run, config = expand(f"{gcs.url}/two"), runs.write_config(tmp_path, tmp_path)
    train = (*TRAIN, f"--config={config}", f"--config.data.name={tars}")
    on_disk = runs.spawn_all(*train, f"--workdir={tmp_path / 'disk'}", processes=2, devices=1)
    finish(*on_disk)
    with connected(gcs.flaky):
        first, second = runs.spawn_all(*train, f"--workdir={run}", processes=2, devices=1)
    kill(second, run, random.Random(0), "saved")
    first.communicate(timeout=60)
    assert first.returncode not in (0, None)
    with connected(gcs.flaky):
        finish(*runs.spawn_all(*train, f"--workdir={run}", processes=2, devices=1))
    assert_same_runs(run, tmp_path / "disk", 12)
