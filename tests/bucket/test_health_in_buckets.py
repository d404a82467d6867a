"""Metrics and the status of a run in a bucket."""

import pytest
from own_bucket import Bucket, connected

from flair_jax.cli import main
from flair_jax.files import expand
from flair_jax.train.background import Background
from flair_jax.train.goodput import read_record
from flair_jax.train.health import Health
from flair_jax.train.logger import MetricLogger, read_metrics
from flair_jax.train.startup import Startup
from flair_jax.train.status import read_status

pytestmark = pytest.mark.bucket


def test_metrics_arrive_and_go_on(bucket: Bucket) -> None:
    """Nothing is added to an object, so they are written whole, and read again by the next start."""
    folder = expand(bucket.url) / "run"
    with MetricLogger(folder, first_step=0, steps=9) as logger:
        logger.write(1, {"loss": 0.5})
        assert not (folder / "metrics.jsonl").exists()
        logger.upload()
        assert read_metrics(folder) == [{"step": 1, "loss": 0.5}]
        logger.write(2, {"loss": 0.25})
    with MetricLogger(folder, first_step=2, steps=9) as logger:
        logger.write(3, {"loss": 0.125})
    assert [line["loss"] for line in read_metrics(folder)] == [0.5, 0.25, 0.125]
    status = read_status(folder)
    assert (status.workdir, status.step, status.restarts) == (f"{bucket.url}/run", 3, 1)


def test_the_checkpoints_there(bucket: Bucket) -> None:
    folder = expand(bucket.url) / "saved"
    files = {"commit_success.txt": b"", "params/d/0": b"12345", "progress/metadata": b'{"run": {"total_steps": 9}}'}
    sums = "".join(f"{'0' * 64}  {name}\n" for name in files).encode()
    for name, content in {"4": files | {"SHA256SUMS": sums}, "6": {"params/d/0": b"1"}}.items():
        for file, data in content.items():
            (folder / "checkpoints" / name / file).write_bytes(data)
    status = read_status(folder)
    (saved,) = status.saved
    assert (saved.step, saved.files, saved.bytes) == (4, 4, 5 + 27 + len(sums))
    assert (status.steps, status.unfinished, status.damaged) == (9, ["6"], [])


def test_the_record_there(bucket: Bucket, capsys) -> None:
    folder = expand(bucket.url) / "record"
    run = {"total_steps": 9, "batch_size": 2}
    for first in (0, 2):
        with (
            MetricLogger(folder, first_step=first, steps=9),
            Background(60) as background,
            Health(folder, run, first, Startup(), background) as health,
        ):
            assert read_record(folder).starts[-1].state == "running"
            health.begin_steps()
            health.step_done(first + 1)
    assert [each.state for each in read_record(folder).starts] == ["stopped"] * 2
    assert main(["status", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"{bucket.url}/record: stopped ")


def test_metrics_get_through_the_flaky_proxy(bucket: Bucket) -> None:
    with connected(bucket.flaky):
        folder = expand(bucket.url) / "flaky"
        with MetricLogger(folder, first_step=0, steps=99) as logger:
            for step in range(1, 13):
                logger.write(step, {"loss": 1 / step})
                logger.upload()
        assert len(read_metrics(folder)) == 12


def test_a_folder_without_a_run_is_one_sentence(bucket: Bucket, capsys) -> None:
    assert main(["status", f"{bucket.url}/gone"]) == 2
    assert capsys.readouterr().err.endswith("gone: there is no run; name the --workdir of one\n")
