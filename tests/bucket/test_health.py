"""Metrics and the status of a run in a bucket."""

import pytest
from etils import epath
from own_bucket import Bucket

from flair_jax.train.logger import MetricLogger, read_metrics
from flair_jax.train.status import read_status

pytestmark = pytest.mark.bucket


def test_metrics_arrive_and_go_on(bucket: Bucket) -> None:
    """Nothing is added to an object, so they are written whole, and read again by the next start."""
    folder = epath.Path(bucket.url) / "run"
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
    folder = epath.Path(bucket.url) / "saved"
    files = {"commit_success.txt": b"", "params/d/0": b"12345", "progress/metadata": b'{"run": {"total_steps": 9}}'}
    sums = "".join(f"{'0' * 64}  {name}\n" for name in files).encode()
    for name, content in {"4": files | {"SHA256SUMS": sums}, "6": {"params/d/0": b"1"}}.items():
        for file, data in content.items():
            (folder / "checkpoints" / name / file).write_bytes(data)
    status = read_status(folder)
    (saved,) = status.saved
    assert (saved.step, saved.files, saved.bytes) == (4, 4, 5 + 27 + len(sums))
    assert (status.steps, status.unfinished, status.damaged) == (9, ["6"], [])
