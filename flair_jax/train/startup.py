"""The time from a run's start to the end of its first step, by phase. Imports no JAX."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

# What the progress bar says meanwhile.
_WORDS = {
    "imports": "loading",
    "devices": "starting devices",
    "data": "waiting for data",
    "restore": "restoring",
    "compile": "compiling",
    "first_step": "first step",
}
_OVER: AbstractContextManager[None] = contextlib.nullcontext()


class Startup:
    """Measures the phases until `finish`; from then on, `phase` costs nothing.

    Attributes:
      began: when the run started, in seconds since 1970.
      running: whether the first step is still to come.
      at: what is shown of the phase that it is at, such as "compiling"; "" between phases.
      phases: seconds by phase; once all are over, with "other" they add up to "total".
      show: is called with what to show at the start of a phase, and with "" at the end of the last.
    """

    def __init__(self, began: float | None = None) -> None:
        """Starts to measure.

        Args:
          began: `time.time()` before anything was imported; now if not given.
        """
        now = time.time()
        self.began = now if began is None else began
        self.running, self.at = True, ""
        self.show: Callable[[str], None] = lambda words: None
        self._start = time.monotonic() - (now - self.began)
        self.phases = dict.fromkeys(_WORDS, 0.0) | {"imports": now - self.began}

    @property
    def seconds(self) -> float:
        """Since the run started."""
        return time.monotonic() - self._start

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Counts the block as "devices", "data", "restore", "compile" or "first_step"; a phase may come in parts."""
        return self._measured(name) if self.running else _OVER

    @contextlib.contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        self.at = _WORDS[name]
        self.show(self.at)
        start = time.monotonic()
        try:
            yield
        finally:
            self.at = ""
            self.phases[name] += time.monotonic() - start

    def finish(self) -> None:
        """Ends the last phase: the first step is done."""
        self.running = False
        total = self.seconds
        self.phases |= {"other": total - sum(self.phases.values()), "total": total}
        self.show("")
