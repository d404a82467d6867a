"""Logs, record and status of a run in a bucket, which stands in memory here."""

import json

import fsspec
import pytest
from etils import epath
from etils.epath import backend
from test_logger import events_in

from flair_jax.errors import StorageError
from flair_jax.train.logger import MetricLogger, read_metrics
from flair_jax.train.status import read_status


@pytest.fixture
def bucket(monkeypatch) -> epath.Path:
    """A folder in an empty bucket."""
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    memory.store, memory.pseudo_dirs = {}, [""]
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: memory)
    return epath.Path("gs://bucket/run")


def test_metrics_arrive_whole_and_go_on(bucket) -> None:
    with MetricLogger(bucket, first_step=0, steps=9) as logger:
        for step in (1, 2):
            logger.write(step, {"loss": step / 4})
        logger.upload()
        assert read_metrics(bucket) == [{"step": 1, "loss": 0.25}, {"step": 2, "loss": 0.5}]
        logger.write(3, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(bucket)] == [1, 2, 3]
    with MetricLogger(bucket, first_step=3, steps=9) as logger:
        logger.write(4, {"loss": 2.0})
    assert [line["loss"] for line in read_metrics(bucket)] == [0.25, 0.5, 1.0, 2.0]
    boards = [path for path in bucket.iterdir() if path.name.startswith("events.")]
    scalars = [event.step for path in boards for event in events_in(path.read_bytes()) if event.summary.value]
    assert sorted(scalars) == [1, 2, 3, 4]
    starts = (bucket / "starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in starts] == [0, 3]


def test_a_bucket_that_refuses_is_one_sentence(bucket, monkeypatch) -> None:
    with MetricLogger(bucket, first_step=0, steps=9) as logger:
        logger.write(1, {"loss": 1.0})

        def refuse(*_arguments: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(bucket), "write_bytes", refuse)
        with pytest.raises(
            StorageError, match=r"metrics.jsonl: the metrics cannot be written: you may not write there"
        ):
            logger.upload()


def test_the_status_of_a_run_there(bucket) -> None:
    with MetricLogger(bucket, first_step=0, steps=9) as logger:
        logger.write(4, {"loss": 1.0, "images_per_second": 2.0})
    assert read_status(bucket).saved == []
    files = {
        "commit_success.txt": b"",
        "params/d/0": b"12345",
        "progress/metadata": b'{"run": {"total_steps": 9, "batch_size": 2}}',
    }
    for name, content in files.items():
        path = bucket / "checkpoints" / "4" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (bucket / "checkpoints" / "4" / "SHA256SUMS").write_text("".join(f"{'0' * 64}  {name}\n" for name in (*files, "x")))
    (bucket / "checkpoints" / "6").mkdir()
    (bucket / "checkpoints" / "6" / "params").write_bytes(b"1")
    status = read_status(bucket)
    assert status.unfinished == ["6"]
    assert (status.workdir, status.step, status.steps, status.eta) == ("gs://bucket/run", 4, 9, 5.0)
    (saved,) = status.saved
    assert (saved.step, saved.files) == (4, 4)
    assert status.damaged == ["gs://bucket/run/checkpoints/4: x is missing"]
