"""A run of two processes that lives in a bucket, behind a network that fails."""

import random

import pytest
import runs
from lives import TRAIN, assert_same_runs, finish, kill
from own_bucket import Bucket, connected

from flair_jax.files import expand

pytestmark = [pytest.mark.bucket, pytest.mark.timeout(900)]


def test_two_processes_of_which_one_is_killed(gcs: Bucket, indexed_tars, tmp_path) -> None:
    """The other ends by itself, and both go on from what they had saved together."""
    run, config = expand(f"{gcs.url}/two"), runs.write_config(tmp_path, tmp_path)
    train = (*TRAIN, f"--config={config}", f"--config.data.name={indexed_tars}")
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
