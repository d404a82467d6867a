"""What a run's folder tells of it, while it is at work and afterwards. Imports no JAX, and changes nothing."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flair_jax.errors import CheckpointError
from flair_jax.files import expand
from flair_jax.train.goodput import EVERY, RUNNING, Record, Start, goodput, read_record, repeated_steps
from flair_jax.train.logger import METRICS, STARTS, parse_metrics
from flair_jax.train.saved import Saved, find_saved
from flair_jax.weights.locate import RUN_FOLDER

# A run that writes an entry every so often, and has not for so many times that, may be gone.
_PATIENCE = 3
_LATELY = 10  # lines of the metrics
SILENT, UNKNOWN = "silent", "unknown"


@dataclasses.dataclass(frozen=True)
class Status:
    """What is known of a run.

    Attributes:
      workdir: its folder.
      state: "running"; "finished", "stopped", "interrupted", "failed" as it ended; "silent" if it did not say that it
        ended and shows no more signs of life; "unknown" if it has no record, as those of earlier versions.
      seen: seconds since its last sign of life; None if there was none.
      step: that is done.
      steps: of the whole run; None if that is not known.
      eta: seconds to its end at its speed lately, if it is running or would be; None if that is not known.
      run: its settings, from `identity.describe_run`; {} if they are not known.
      starts: how often it was started, what each did, and how it ended; of earlier versions none is recorded.
      restarts: how often it was started again.
      goodput: see `goodput.goodput`; None without a record.
      repeated_steps: that were lost and done again.
      metrics: the newest value of each metric.
      losses: of the newest lines, by step.
      saved: checkpoints.
      unfinished: names of those that are being saved, or whose saving was cut off; the next start removes them.
      damaged: what is, in words.
    """

    workdir: str
    state: str
    seen: float | None
    step: int
    steps: int | None
    eta: float | None
    run: Mapping[str, Any]
    starts: list[Start]
    restarts: int
    goodput: float | None
    repeated_steps: int
    metrics: Mapping[str, float]
    losses: Mapping[int, float]
    saved: list[Saved]
    unfinished: list[str]
    damaged: list[str]


def read_status(workdir: str | Path, *, verify: bool = False) -> Status:
    """The status of a run.

    Args:
      workdir: its folder.
      verify: whether to read all checkpoints and compare them with their digests; otherwise missing files alone are
        noticed.

    Raises:
      CheckpointError: if there is no run in the folder.
    """
    folder = expand(workdir)
    if not any((folder / name).exists() for name in (METRICS, STARTS, RUN_FOLDER)):
        raise CheckpointError(f"{workdir}: there is no run; name the --workdir of one")
    damaged: list[str] = []
    record = _record(folder, damaged)
    lines = _lines(folder, damaged)
    saved, unfinished, of_saved = find_saved(folder, verify=verify)
    damaged += of_saved
    starts = record.starts if record else []
    run = record.run if record else _run_of(folder, saved)
    state, seen = _state(starts)
    # The record is up to half a minute behind, and the log up to one interval.
    first = starts[-1].first if starts else 0
    done = [starts[-1].last] if starts else [each.step for each in saved]
    step = max([first, *done, *(line["step"] for line in lines[-1:])])
    steps = run["total_steps"] if isinstance(run.get("total_steps"), int) else None
    return Status(
        workdir=str(workdir),
        state=state,
        seen=seen,
        step=step,
        steps=steps,
        eta=_eta(lines, run, step, steps),
        run=run,
        starts=starts,
        restarts=max(len(starts), _count_starts(folder)) - 1,
        goodput=goodput(starts) if starts else None,
        repeated_steps=repeated_steps(starts),
        metrics={name: value for line in lines for name, value in line.items() if name != "step"},
        losses={line["step"]: line["loss"] for line in lines[-_LATELY:] if "loss" in line},
        saved=saved,
        unfinished=unfinished,
        damaged=damaged,
    )


def _record(workdir: Path, damaged: list[str]) -> Record | None:
    try:
        return read_record(workdir)
    except CheckpointError as error:
        damaged.append(str(error))
        return None


def _lines(folder: Path, damaged: list[str]) -> list[dict[str, Any]]:
    path = folder / METRICS
    if not path.exists():
        return []
    lines, words = parse_metrics(path.read_bytes())
    damaged += [f"{path}: {words}"] if words else []
    numbers = (int, float)
    return [{name: value for name, value in line.items() if isinstance(value, numbers)} for line in lines]


def _count_starts(folder: Path) -> int:
    path = folder / STARTS
    return max(path.read_bytes().count(b"\n") if path.exists() else 0, 1)


def _run_of(folder: Path, saved: list[Saved]) -> dict[str, Any]:
    """The settings in the newest checkpoint that tells them."""
    for each in reversed(saved):
        try:
            return dict(
                json.loads((folder / RUN_FOLDER / str(each.step) / "progress" / "metadata").read_bytes())["run"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def _state(starts: list[Start]) -> tuple[str, float | None]:
    if not starts:
        return UNKNOWN, None
    seen = max(0.0, time.time() - starts[-1].began - starts[-1].seconds)
    state = starts[-1].state
    return SILENT if state == RUNNING and seen > _PATIENCE * EVERY else state, seen


def _eta(lines: list[dict[str, Any]], run: Mapping[str, Any], step: int, steps: int | None) -> float | None:
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line][-_LATELY:]
    images = run.get("batch_size")
    if not speeds or not steps or step >= steps or not isinstance(images, int) or not all(x > 0 for x in speeds):
        return None
    return float((steps - step) * images * sum(1 / speed for speed in speeds) / len(speeds))
