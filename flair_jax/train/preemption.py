"""SIGTERM while a run trains: save its state, if a step is done, and end the run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from flair_jax import interrupts


class Preempted(BaseException):
    """SIGTERM has come at a moment that `Preemption.may_break` marks."""


class Preemption:
    """Handles SIGTERM; a context manager.

    Until `await_steps` there is nothing to save, and the process ends at once if it is under `interrupts.run`: a
    scheduler may give 25 seconds, and compiling takes longer. From then on `reached` says when to stop. With several
    processes, JAX's preemption service receives the signal and makes all stop at the same step.
    """

    def __init__(self, stopped_status: int) -> None:
        """Prepares it.

        Args:
          stopped_status: exit status with which the process ends at once.
        """
        self._status = stopped_status
        self._several = jax.process_count() > 1
        self._received = self._breaks = False

    def __enter__(self) -> Preemption:
        if not self._several:
            try:
                self._before = signal.signal(signal.SIGTERM, self._receive)
            except ValueError:  # not the main thread: the caller has to handle signals
                self._before = None
        interrupts.end_at_sigterm(
            self._status, "stopped by SIGTERM before the first step; nothing was lost. The same command resumes."
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupts.pass_sigterm_on()
        if not self._several and self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def await_steps(self) -> None:
        """From now on there is something to save. May be called again."""
        interrupts.pass_sigterm_on()

    def reached(self, step: int) -> bool:
        """Whether to save and stop after this step; every process must call this for each step."""
        return multihost_utils.reached_preemption_sync_point(step) if self._several else self._received

    @contextmanager
    def may_break(self) -> Iterator[None]:
        """Marks long work that may be abandoned; in a single process SIGTERM raises Preempted in it."""
        if self._received:
            raise Preempted
        self._breaks = True
        try:
            yield
        finally:
            self._breaks = False

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._received = True
        if self._breaks:
            raise Preempted
