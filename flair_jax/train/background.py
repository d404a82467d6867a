"""Work that is repeated in the background while a run trains. Imports no JAX."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType


class Background:
    """Does pieces of work from time to time, in one thread of its own; a context manager, which does all once more.

    What fails is named in a warning, once until it succeeds again, and tried again.
    """

    def __init__(self, every: float) -> None:
        """Prepares it.

        Args:
          every: seconds between two rounds.
        """
        self._every = every
        self._work: dict[str, Callable[[], None]] = {}
        self._failing: set[str] = set()
        self._wake, self._ended = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True, name="flair_jax background")

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join()

    def add(self, what: str, work: Callable[[], None]) -> None:
        """Adds a piece of work; `what` it does is for the warning, as in "health.json: cannot be written"."""
        self._work[what] = work

    def wake(self) -> None:
        """Lets the next round begin now."""
        self._wake.set()

    def _run(self) -> None:
        ended = False
        while not ended:
            self._wake.wait(self._every)
            self._wake.clear()
            ended = self._ended  # a round follows it
            for what, work in list(self._work.items()):
                self._do(what, work)

    def _do(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # of a disk or a bucket; the run ends only if a checkpoint cannot be written
            if what not in self._failing:
                logging.warning("%s, and is tried again: %s", what, str(error).strip() or type(error).__name__)
            self._failing.add(what)
        else:
            self._failing.discard(what)
