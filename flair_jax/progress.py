"""Progress bars on stderr, which say how fast they go in what they count. Imports no JAX.

On a terminal they stay where they are; in a file each of their states is a line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

BYTES = "B"
_IN_LOG = 10.0  # seconds between two states of a bar where each stays, as in a file
_LARGE = 1_000_000  # from here on, numbers are written with k, M and G

_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt}{counted} [{elapsed}<{remaining}, {speed}{postfix}]"
_WITHOUT_TOTAL = "{desc}: {n_fmt}{counted} [{elapsed}, {speed}{postfix}]"


class ProgressBar(tqdm):
    """A bar that counts things by their name: "12.0 texts/s" or, where one takes more than a second, "2.50 s/text"."""

    def __init__(
        self,
        items: Iterable[Any] | None = None,
        *,
        description: str,
        unit: str,
        total: int | None = None,
        done: int = 0,
        shown: bool = True,
        smoothing: float = 0.3,
    ) -> None:
        """Shows the bar.

        Args:
          items: to go through, if the bar is what a loop iterates over.
          description: what is being done, such as "index".
          unit: one of what is counted, such as "text", whose plural has an "s"; or `BYTES`, in powers of 1,000.
          total: how many there are; by default that of `items`, if they have a length.
          done: how many were done before, which do not count in the rate.
          shown: whether there is a bar at all.
          smoothing: weight of the latest speed against the mean, from 0 to 1.
        """
        self._one = unit
        self._in_log = not getattr(sys.stderr, "isatty", lambda: False)()
        rare = {"mininterval": _IN_LOG, "leave": True} if self._in_log else {}
        hidden = {} if shown else {"disable": True}  # else the variable TQDM_DISABLE may decide
        super().__init__(
            items,
            desc=description,
            total=total,
            initial=done,
            unit_scale=unit == BYTES or (total or 0) >= _LARGE,
            smoothing=smoothing,
            **rare,
            **hidden,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Prints a state: on a terminal in the bar's row, in a file as a line."""
        if not self._in_log:
            return super().display(msg, pos)
        text = str(self) if msg is None else msg
        self.fp.write(text if pos == 0 else f"{text}\n")  # only `close` names a row, and it ends the line itself
        self.fp.flush()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Takes the bar away while something else is printed; in a file nothing is in its way."""
        if not self._in_log:
            super().clear(nolock)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:
        """Prints the state; in a file not for having been taken away, when tqdm asks for it without its lock."""
        return (self._in_log and nolock) or super().refresh(nolock, lock_args)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm makes a bar's text from."""
        values: dict[str, Any] = super().format_dict
        rate = values["rate"]
        if rate is None and values["elapsed"]:
            rate = (values["n"] - values["initial"]) / values["elapsed"]
        values["bar_format"] = _WITHOUT_TOTAL if values["total"] is None else _FORMAT
        counted = self._one if self._one == BYTES else f" {self._named(values['total'])}"
        return {**values, "counted": counted, "speed": self._speed(rate or 0.0)}

    def _named(self, count: int | None) -> str:
        return self._one if count == 1 else f"{self._one}s"

    def _speed(self, rate: float) -> str:
        if self._one == BYTES:
            return f"{tqdm.format_sizeof(rate) if rate else '?'}B/s"
        if rate >= _LARGE:
            return f"{tqdm.format_sizeof(rate)} {self._named(None)}/s"
        if rate >= 1:
            return f"{rate:,.0f} {self._named(None)}/s" if rate >= 100 else f"{rate:.1f} {self._named(None)}/s"
        return f"{1 / rate:.2f} s/{self._one}" if rate else f"? {self._named(None)}/s"
