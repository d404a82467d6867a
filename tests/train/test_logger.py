"""Logs as they lie on the disk, and on one that fails."""

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from flair_jax.errors import StorageError
from flair_jax.train.logger import MetricLogger, evaluation_in_words, read_metrics


def events_in(data: bytes) -> list[Event]:
    """Those of a file; each stands between its length and check sums."""
    events = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def tensorboard(folder: Path) -> list[Event]:
    """All events of a folder."""
    return [event for path in folder.glob("events.out.tfevents.*") for event in events_in(path.read_bytes())]


def test_scalars_are_on_the_disk_at_once(tmp_path: Path) -> None:
    """And a run that goes on drops what was logged after its step, for TensorBoard by a mark."""
    with MetricLogger(tmp_path, first_step=0, steps=9) as logger:
        for step in (1, 2):
            logger.write(step, {"loss": step / 4})
        assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.25}, {"step": 2, "loss": 0.5}]
        scalars = [(event.step, event.summary.value[0]) for event in tensorboard(tmp_path) if event.summary.value]
        assert [(step, value.tag, value.simple_value) for step, value in scalars] == [
            (1, "loss", 0.25),
            (2, "loss", 0.5),
        ]
    with MetricLogger(tmp_path, first_step=1, steps=9):
        assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.25}]
    marks = [event.step for event in tensorboard(tmp_path) if event.HasField("session_log")]
    assert sorted(marks) == [1, 2]
    assert {event.file_version for event in tensorboard(tmp_path)} == {"", "brain.Event:2"}


@pytest.mark.parametrize("log", ["lines", "board"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, log: str) -> None:
    with MetricLogger(tmp_path, first_step=0, steps=9) as logger:
        (path,) = tmp_path.glob("metrics.jsonl" if log == "lines" else "events.out.tfevents.*")
        path.unlink()
        path.symlink_to("/dev/full")
        with pytest.raises(StorageError, match=r"metrics.jsonl: the metrics of step 1 .*: the disk is full; make room"):
            logger.write(1, {"loss": 1.0})


def test_a_folder_that_was_removed_is_one_sentence(tmp_path: Path) -> None:
    """Though it is there again, as when a checkpoint is saved; the logs that are open are those of the removed one."""
    folder = tmp_path / "run"
    folder.mkdir()
    with MetricLogger(folder, first_step=0, steps=9) as logger:
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        with pytest.raises(StorageError, match="metrics of step 1 cannot be written: the folder is gone"):
            logger.write(1, {"loss": 1.0})


@pytest.mark.parametrize("replaced", [False, True])
def test_metrics_removed_or_replaced_meanwhile_are_begun_anew_and_said(tmp_path: Path, capsys, replaced: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricLogger(tmp_path, first_step=0, steps=9) as logger:
        logger.write(1, {"loss": 1.0})
        path.rename(tmp_path / "moved")
        if replaced:
            path.write_text('{"step": 0}\n')
        for step in (2, 3):
            logger.write(step, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 2, 3][not replaced :]
    assert capsys.readouterr().out.count(f"{path} has been removed or replaced") == 1


def test_the_bar_ends_where_the_run_does_and_shows_the_loss_logged_last(tmp_path: Path, capsys) -> None:
    with MetricLogger(tmp_path, first_step=2, steps=4) as logger:
        for step in (3, 4):
            logger.advance(8)
            logger.write(step, {"loss": step / 8, "grad_norm": 9.0})
        logger.write(4, {"evaluation/x": 7.0})
    shown = capsys.readouterr().err.splitlines()[-1]
    assert "4/4 steps" in shown
    assert shown.endswith("loss=0.500]")


def test_evaluations_in_words() -> None:
    values = {"loss": 1.0, "evaluation/R@1": 0.25, "evaluation/long/R@1_ties": 0.5, "evaluation/long/R@1": 0.125}
    cut = {"evaluation/texts_cut_off": 0.0, "evaluation/tokens_cut_off": 0.03}
    assert evaluation_in_words(values | cut) == "R@1 0.250, long/R@1 0.125, tokens_cut_off 0.030"
    assert evaluation_in_words({"loss": 1.0}) == ""


def test_lines_that_a_power_cut_damaged_are_left_out_and_counted(tmp_path: Path, caplog) -> None:
    damaged = [
        b"\0" * 9,
        b'{"step": 2, "x": "\xe9"}',
        b'{"step": 2, ',
        b'{"step": "2"}',
        b'{"loss": 1}',
        b"[1]",
        b"3",
        b"",
    ]
    for line in damaged:
        (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n{"step": 4}\n{"st')
        with MetricLogger(tmp_path, first_step=3, steps=9):
            assert caplog.messages[0].endswith("1 line is damaged and left out; the first is line 2"), line
            assert read_metrics(tmp_path) == [{"step": 1}, {"step": 3}]
        assert len(caplog.messages) == 1
        caplog.clear()
