"""Damaged or unusable samples: named, and counted by reason. Imports no JAX."""

from __future__ import annotations

import collections
import dataclasses

from flair_jax.errors import printable

FOLDER, HIDDEN = "a folder", "a hidden file, or one that macOS adds"
# Leaving these out loses nothing, so they are not damage.
_HARMLESS = (FOLDER, HIDDEN)
_MOST_NAMED = 1000


@dataclasses.dataclass(frozen=True)
class Damage:
    """A sample or file that is left out.

    Attributes:
      file: path or URL of the tar or table.
      place: the member or row; "" if the file itself is meant.
      reason: a few words, the same for all of a kind.
    """

    file: str
    place: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.file}{': ' + self.place if self.place else ''}: {self.reason}")

    @property
    def harmless(self) -> bool:
        """Whether leaving it out loses nothing."""
        return is_harmless(self.reason)


def is_harmless(reason: str) -> bool:
    """Whether leaving something out for this reason loses nothing."""
    return reason in _HARMLESS


@dataclasses.dataclass
class LeftOut:
    """Counts of what is left out, of which the first are named.

    Attributes:
      reasons: how many, by reason.
      first: the first ones.
    """

    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first: list[Damage] = dataclasses.field(default_factory=list)

    def add(self, damage: Damage) -> None:
        """Counts one more."""
        self.reasons[damage.reason] += 1
        if len(self.first) < _MOST_NAMED:
            self.first.append(damage)
