"""Metrics of a run: JSON lines, TensorBoard, optionally Weights & Biases, and the progress bar."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from flair_jax.buckets import is_remote
from flair_jax.errors import ConfigError, plural
from flair_jax.files import replace_when_complete, writing
from flair_jax.packages import how_to_install, versions
from flair_jax.progress import ProgressBar
from flair_jax.train.appended import open_appended

METRICS, STARTS = "metrics.jsonl", "starts.jsonl"
_TRAIN, _EVALUATION = "train", "evaluation/"


class MetricLogger:
    """Writes scalars by step; use it as a context manager.

    A run that resumes from an earlier step first drops the lines logged after that step. Each start adds a line to
    `STARTS`: after which step, and with which versions of the packages that the numbers depend on.
    """

    def __init__(
        self, workdir: Path, *, first_step: int, steps: int, wandb_project: str = "", active: bool = True
    ) -> None:
        """Opens the logs.

        Args:
          workdir: the run's folder.
          first_step: steps already done.
          steps: steps that are done when this start of the run ends.
          wandb_project: Weights & Biases' project; none if empty.
          active: False on all processes but one; then nothing is written or shown.

        Raises:
          ConfigError: if `wandb_project` is given and wandb is not installed.
          StorageError: if the folder cannot be written to.
        """
        self._active, self._shown = active, dict[str, str]()
        self._wandb = import_wandb() if wandb_project and active else None
        self._bar = ProgressBar(
            total=steps, done=first_step, description=_TRAIN, unit="step", shown=active, smoothing=0.1
        )
        if not active:
            return
        self._path = path = workdir / METRICS
        with writing(f"{path}: cannot be written"):
            if path.exists():
                _drop_after(path, first_step)
            with contextlib.closing(open_appended(workdir / STARTS)) as starts:
                starts.write(json.dumps({"step": first_step, "versions": versions()}).encode() + b"\n")
            self._lines = open_appended(path)
            self._board = _Board(workdir, first_step)
        if self._wandb:
            identity = workdir.name
            self._wandb.init(project=wandb_project, dir=_local(workdir), id=identity, name=identity, resume="allow")

    def __enter__(self) -> MetricLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._active:
            for each in (self._lines, self._board):
                with contextlib.suppress(Exception):  # what could not be written has been reported
                    each.close()
            if self._wandb:
                self._wandb.finish()

    def advance(self, images: int) -> None:
        """Advances the progress bar by one step of this many images; it shows the loss that was logged last."""
        self._bar.update()
        if rate := self._bar.format_dict["rate"]:
            self._show_beside("images/s", f"{rate * images:.1f}")

    def _show_beside(self, name: str, value: str) -> None:
        """Shows a number at the bar's end from its next state on."""
        self._shown[name] = value
        self._bar.set_postfix(self._shown, refresh=False)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Logs scalars of a step.

        Raises:
          StorageError: if they cannot be written, or the folder was replaced.
        """
        if not self._active:
            return
        if "loss" in values:
            self._show_beside("loss", f"{values['loss']:.3f}")
        with writing(f"{self._path}: the metrics of step {step:,} cannot be written"):
            anew = self._lines.write(json.dumps({"step": step, **values}).encode() + b"\n")
            self._board.write(step, values)
        if anew:
            self.say(f"{self._path} has been removed or replaced; metrics from here on are added to what is there")
        if self._wandb:
            self._wandb.log(values, step=step)

    def upload(self) -> None:
        """Returns once all that was written has arrived in the bucket, if the run's folder is in one.

        Raises:
          StorageError: if it cannot be written.
        """
        if self._active:
            with writing(f"{self._path}: the metrics cannot be written"):
                self._lines.upload()
                self._board.upload()

    def show(self, words: str) -> None:
        """Shows what the run is at, other than "train", before the progress bar; "": it trains."""
        if not words:
            self._bar.unpause()  # the time until now is none of the steps'
        self._bar.set_description(words or _TRAIN)

    @contextlib.contextmanager
    def doing(self, words: str) -> Iterator[None]:
        """Shows what the run is at during the block."""
        self._bar.set_description(words)
        try:
            yield
        finally:
            self._bar.set_description(_TRAIN, refresh=False)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._active:
            self._bar.write(text)


def evaluation_in_words(values: Mapping[str, float]) -> str:
    """The metrics of evaluations among a run's, for people, but for ties, and for what cuts nothing off; "" if none.

    Args:
      values: metrics by name; those of evaluations begin with "evaluation/".
    """
    return ", ".join(
        f"{name.removeprefix(_EVALUATION)} {value:.3f}"
        for name, value in values.items()
        if name.startswith(_EVALUATION) and not name.endswith("_ties") and (value or not name.endswith("_cut_off"))
    )


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines that were logged, oldest first.

    A last line that was cut off is left out; other damaged lines, as after a power cut, are left out with a warning.
    """
    values, damaged = parse_metrics((workdir / METRICS).read_bytes())
    if damaged:
        logging.warning("%s: %s", workdir / METRICS, damaged)
    return values


def parse_metrics(content: bytes) -> tuple[list[dict[str, Any]], str]:
    """The lines of a metrics file that are whole, oldest first, and how many are damaged, in words; "" if none is.

    A last line that was cut off is left out, and no damage: it may be being written.
    """
    *lines, _ = content.split(b"\n")
    parsed = [_parse(line) for line in lines]
    damaged = [number for number, values in enumerate(parsed, 1) if values is None]
    whole = [values for values in parsed if values is not None]
    if not damaged:
        return whole, ""
    are = "is" if len(damaged) == 1 else "are"
    return whole, f"{plural(len(damaged), 'line')} {are} damaged and left out; the first is line {damaged[0]}"


def _parse(line: bytes) -> dict[str, Any] | None:
    """What `MetricLogger.write` wrote, or None if it cannot have written this."""
    try:
        values = json.loads(line)
        return values if isinstance(values["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _drop_after(path: Path, step: int) -> None:
    kept = "".join(json.dumps(line) + "\n" for line in read_metrics(path.parent) if line["step"] <= step).encode()
    if kept != path.read_bytes():
        with replace_when_complete(path) as partial:
            partial.write_bytes(kept)


class _Board:
    """TensorBoard's file, written at once.

    The writer thread of `tensorboardX.SummaryWriter` dies when the disk is full, and is then awaited in vain.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._event, self._summary, self._checksum = _import_tensorboard()
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = open_appended(folder / name)
        self._add(file_version="brain.Event:2")
        # Events of earlier files for steps from here on no longer count.
        self._add(step=first_step + 1, session_log=self._event.SessionLog(status=self._event.SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        scalars = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step=step, summary=self._summary.Summary(value=scalars))

    def _add(self, **fields: Any) -> None:
        """Writes a record: its length and its bytes, each with a checksum."""
        data = self._event.Event(wall_time=time.time(), **fields).SerializeToString()
        parts = (struct.pack("<Q", len(data)), data)
        self._file.write(b"".join(part + struct.pack("<I", self._checksum(part)) for part in parts))

    def upload(self) -> None:
        self._file.upload()

    def close(self) -> None:
        self._file.close()


def _local(workdir: Path) -> str:
    """A folder on this machine for W&B's own files, which it uploads itself."""
    return tempfile.mkdtemp(prefix="flair-jax-wandb-") if is_remote(workdir) else str(workdir)


def _import_tensorboard() -> Any:
    """Imports tensorboardX without torch, whose import would take seconds and which scalars do not need."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c
    finally:
        if hide:
            del sys.modules["torch"]
    return event_pb2, summary_pb2, masked_crc32c


def import_wandb() -> Any:
    """Weights & Biases' package; raises ConfigError if it is not installed."""
    try:
        import wandb
    except ImportError:
        raise ConfigError(f"config.wandb_project is set: {how_to_install('wandb')}, or leave it empty") from None
    return wandb
