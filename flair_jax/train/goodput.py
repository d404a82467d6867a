"""How much of its time a run has spent on steps that counted, over all its starts. Imports no JAX.

WORKDIR/health.json has what a run is and an entry for each of its starts, the last of which is kept up to date while
the run is at work. A start that is killed loses what came after its last entry, at most `EVERY` seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flair_jax.errors import CheckpointError
from flair_jax.files import replace_when_complete

FILE = "health.json"

# Seconds between entries.
EVERY = 30.0

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
INTERRUPTED, KILLED = "interrupted", "killed"


@dataclasses.dataclass
class Start:
    """One start of a run, until its end or its last entry.

    Attributes:
      began: seconds since 1970.
      first: steps that were done before it.
      last: steps that were done in the end.
      seconds: from `began` on.
      stepping: of these, the seconds in steps, waiting for their data included.
      elsewhere: seconds by what else was done: "saving", "evaluating", "profiling".
      startup: seconds until the end of the first step, by phase, as far as they are over.
      at: what it is at before the first step, such as "compiling".
      on: the devices and processes, in words.
      state: "running", "finished", "stopped" by SIGTERM, "interrupted" by Ctrl-C, "failed" with an error, or "killed"
        if it just ended.
    """

    began: float
    first: int
    last: int
    seconds: float = 0.0
    stepping: float = 0.0
    elsewhere: dict[str, float] = dataclasses.field(default_factory=dict)
    startup: dict[str, float] = dataclasses.field(default_factory=dict)
    at: str = ""
    on: str = ""
    state: str = RUNNING


@dataclasses.dataclass
class Record:
    """What `FILE` holds.

    Attributes:
      run: from `identity.describe_run`.
      starts: oldest first.
    """

    run: dict[str, Any]
    starts: list[Start]

    def write(self, workdir: Path) -> None:
        """Writes it, whole or not at all."""
        with replace_when_complete(workdir / FILE) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read_record(workdir: Path) -> Record | None:
    """The record of a run; None if it has none, as before its first start.

    Raises:
      CheckpointError: if it is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_bytes())
        return Record(dict(values["run"]), [_start(each) for each in values["starts"]])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{path}: is damaged, so the time of earlier starts is not known; remove it to count from now on"
        ) from None


def _start(values: dict[str, Any]) -> Start:
    known = {field.name for field in dataclasses.fields(Start)}  # a later version may write more
    start = Start(**{name: value for name, value in values.items() if name in known})
    numbers = (start.began, start.first, start.last, start.seconds, start.stepping, *start.elsewhere.values())
    if not all(math.isfinite(each) for each in (*numbers, *start.startup.values())):
        raise ValueError(values)
    return start


def has_saved(starts: Sequence[Start], every_steps: int) -> bool:
    """Whether a run has left a checkpoint, as its starts tell: not all that did are known.

    Args:
      starts: oldest first.
      every_steps: steps between checkpoints. The second is begun when the first is complete.
    """
    return any(
        each.first > starts[0].first
        or (each.last > each.first and each.state in (FINISHED, STOPPED))
        or each.last // every_steps - each.first // every_steps > 1
        for each in starts
    )


def checkpoints_gone(workdir: Path, every_steps: int) -> str:
    """A sentence about a run that has left a checkpoint and has none; "" if it is not known to have.

    Args:
      workdir: of the run, in which there is no checkpoint.
      every_steps: as of `has_saved`.
    """
    record = None
    with contextlib.suppress(CheckpointError):  # a damaged one, of which `Health` tells
        record = read_record(workdir)
    if record is None or not has_saved(record.starts, every_steps):
        return ""
    return (
        f"{workdir}: has no checkpoint, but its {FILE} tells of {record.starts[-1].last:,} steps and of one; put it "
        f"back, or start again in another --workdir, or remove {workdir / FILE} to start here from step 1"
    )


def kept_steps(starts: Sequence[Start]) -> list[int]:
    """Of each start, the steps that later ones did not repeat."""
    kept, until = [], math.inf
    for start in reversed(starts):
        kept.append(int(max(0, min(start.last, until) - start.first)))
        until = min(until, start.first)
    return kept[::-1]


def repeated_steps(starts: Sequence[Start]) -> int:
    """Steps that were lost when a start ended without saving them, and were done again or are still to be."""
    return sum(start.last - start.first - kept for start, kept in zip(starts, kept_steps(starts), strict=True))


def goodput(starts: Sequence[Start]) -> float:
    """The share of all starts' time that went into steps that counted, from 0 to 1.

    Steps that were lost do not count, each at the mean of its start's steps. The time between starts is no part of it.
    """
    total = sum(start.seconds for start in starts)
    useful = sum(
        start.stepping * kept / (start.last - start.first)
        for start, kept in zip(starts, kept_steps(starts), strict=True)
        if kept
    )
    return useful / total if total > 0 else 0.0
