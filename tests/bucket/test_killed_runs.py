"""A run that lives in a bucket: killed again and again, behind a network that fails, it ends as one on a disk does."""

import json
import random

import impatient
import pytest
import runs
from lives import TRAIN, assert_same_runs, finish, kill
from own_bucket import Bucket, connected

from flair_jax.cli import main
from flair_jax.files import expand, list_files

pytestmark = [pytest.mark.bucket, pytest.mark.timeout(900)]

# How each life of a run ends: while it saves, some time after it has saved, or anywhere from its start on.
KILLS = ("saving", "saved", "anywhere", "saving", "anywhere", "saving", "anywhere", "saved", "anywhere", "saving")
STEPS = 15


def test_a_run_that_is_killed_again_and_again(gcs: Bucket, indexed_tars, photographs, tmp_path, capsys) -> None:
    run, rng = expand(f"{gcs.url}/run"), random.Random(0)
    config = runs.write_config(tmp_path, tmp_path)
    more = (f"--config.data.name={indexed_tars}", f"--config.steps={STEPS}")
    on_disk = runs.start(config, tmp_path / "disk", *more)

    train = (*TRAIN, f"--config={config}", f"--workdir={run}", *more)
    saving = []
    for when in KILLS:
        with connected(gcs.flaky):
            process = runs.spawn(*train)
        saving.append(kill(process, run, rng, when))
    assert sum(saving) >= 3
    finish(on_disk)
    scored = f"evaluate --checkpoint {run} --dataset coco --data-dir {photographs} --output {gcs.url}/coco.json"
    with connected(gcs.flaky):
        finish(runs.spawn(*train))
        finish(
            runs.spawn(impatient.__file__, "flair_jax.cli", *scored.split()),
            runs.spawn(impatient.__file__, "flair_jax.cli", "export", run, f"{gcs.url}/mine.safetensors"),
        )
    assert_same_runs(run, tmp_path / "disk", STEPS)
    assert json.loads(expand(f"{gcs.url}/coco.json").read_text())["results"][0]["dataset"] == "coco"
    assert list_files(expand(f"{gcs.url}/coco.json.partial")) == []
    assert expand(f"{gcs.url}/mine.safetensors").exists()
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    assert f"step         {STEPS} of {STEPS}" in capsys.readouterr().out
