"""How a run is doing: the time of its steps, its memory, and the share of its time that was of use."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from flair_jax import interrupts
from flair_jax.errors import CheckpointError, plural
from flair_jax.files import replace_when_complete, writing
from flair_jax.parallel.processes import Processes
from flair_jax.train.background import Background
from flair_jax.train.goodput import (
    FAILED,
    FILE,
    FINISHED,
    INTERRUPTED,
    KILLED,
    RUNNING,
    STOPPED,
    Record,
    Start,
    goodput,
    read_record,
)
from flair_jax.train.startup import Startup

# What a run does beside steps, once it is started.
_ELSEWHERE = ("saving", "evaluating", "profiling")


class Health:
    """Measures a start of a run, and keeps WORKDIR/health.json up to date in the background; a context manager.

    Only the first process writes.
    """

    def __init__(
        self, workdir: Path, run: dict[str, Any], first: int, startup: Startup, background: Background
    ) -> None:
        """Reads the run's record.

        Args:
          workdir: the run's folder.
          run: from `identity.describe_run`.
          first: steps already done.
          startup: what came before.
          background: writes the record.
        """
        self._workdir, self._startup, self._background = workdir, startup, background
        self._active = Processes.all().index == 0
        self._steps = run["total_steps"]
        devices = plural(jax.device_count(), f"{jax.devices()[0].device_kind} device")
        on = f"{devices}, {plural(jax.process_count(), 'process')}"
        self._start = Start(startup.began, first, first, elsewhere=dict.fromkeys(_ELSEWHERE, 0.0), on=on)
        self._earlier = self._read() if self._active else []
        self._record = Record(run, [*self._earlier, self._start])
        self._intervals: list[float] = []
        self._last = time.monotonic()
        self._told = False
        self._writing = threading.Lock()
        self._devices = [device for device in jax.local_devices() if _memory(device)]

    def _read(self) -> list[Start]:
        try:
            record = read_record(self._workdir)
        except CheckpointError as error:
            aside = self._workdir / f"damaged-{FILE}"
            with replace_when_complete(aside) as partial:
                partial.write_bytes((self._workdir / FILE).read_bytes())
            logging.warning("%s; it is now %s, and goodput counts from this start on", error, aside)
            return []
        starts = record.starts if record else []
        return [dataclasses.replace(each, state=KILLED) if each.state == RUNNING else each for each in starts]

    def __enter__(self) -> Health:
        if self._active:
            with writing(f"{self._workdir / FILE}: cannot be written"):
                self._write()
            self._background.add(f"{self._workdir / FILE} cannot be written", self._write)
            interrupts.tell_at_end(self._end_by_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupts.tell_no_more(self._end_by_signal)
        if error is not None:
            self._start.state = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        else:
            self._start.state = FINISHED if self._start.last >= self._steps else STOPPED

    def _end_by_signal(self, status: int, _sentence: str) -> None:
        """The process ends now, while the main thread is in compiled code."""
        self._start.state = INTERRUPTED if status == interrupts.STATUS else STOPPED
        self._write()

    def begin_steps(self) -> None:
        """The program is compiled, and the first step begins."""
        self._last = time.monotonic()

    def step_done(self, step: int) -> None:
        """A step's metrics have arrived."""
        now = time.monotonic()
        self._intervals.append(now - self._last)
        self._start.stepping += now - self._last
        self._start.last = step
        self._last = now

    @contextlib.contextmanager
    def outside(self, what: str) -> Iterator[None]:
        """The block is no part of a step: "saving", "evaluating", "profiling"; all steps' metrics have arrived."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._start.elsewhere[what] += self._last - start

    def values(self) -> dict[str, float]:
        """Metrics since the last call: steps' seconds, goodput, restarts, memory, and once those of the start."""
        median, late = np.percentile(self._intervals, (50, 95))
        values = {
            "step_seconds/p50": float(median),
            "step_seconds/p95": float(late),
            "step_seconds/max": max(self._intervals),
            "goodput": goodput([*self._earlier, self._now()]),
            "restarts": float(len(self._earlier)),
            **self._memory_values(),
        }
        if not self._told and not self._startup.running:
            self._told = True
            values |= {f"startup/{name}": seconds for name, seconds in self._startup.phases.items()}
        self._intervals.clear()
        return values

    def _memory_values(self) -> dict[str, float]:
        """Of the device of this process that holds most; {} where devices do not tell, as CPUs."""
        stats = [_memory(device) for device in self._devices]
        names = ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")
        return {
            f"memory/{name}": float(max(each[name] for each in stats)) for name in names if stats and name in stats[0]
        }

    def _now(self) -> Start:
        return dataclasses.replace(self._start, seconds=self._startup.seconds)

    def _write(self) -> None:
        with self._writing:  # or an older state could come last
            self._start.seconds = self._startup.seconds
            self._start.startup, self._start.at = dict(self._startup.phases), self._startup.at
            self._record.write(self._workdir)


def _memory(device: jax.Device) -> dict[str, int]:
    """What a device tells of its memory; {} if it tells nothing."""
    try:
        return device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # a plugin's device that does not implement it
        return {}
