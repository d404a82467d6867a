"""What a run would find in its folder, which is only read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

from flair_jax.buckets import is_remote
from flair_jax.checkpoint import find_damage
from flair_jax.dry_run.findings import Findings
from flair_jax.errors import CheckpointError, StorageError, plural
from flair_jax.settings import CheckpointSettings
from flair_jax.train.goodput import checkpoints_gone
from flair_jax.train.resuming import UNREADABLE, changes_to_resume, check_step, recorded_run
from flair_jax.train.run import find_workdir
from flair_jax.train.saved import ITEMS, Saved, find_saved
from flair_jax.weights.locate import RUN_FOLDER

_LOCK = ".lock"  # of `files.locked`


def check_workdir(
    found: Findings,
    workdir: Path,
    settings: CheckpointSettings,
    run: dict[str, Any] | None,
    *,
    accept_changes: bool,
) -> tuple[Path, int] | None:
    """Says whether a run would start, resume or be refused, and whether it could write.

    Args:
      found: gets what is found.
      workdir: the run's folder.
      settings: how often the run saves.
      run: from `identity.describe_run`; None if it is not known.
      accept_changes: as of `train`.

    Returns:
      The checkpoint that the run would resume from, and its step; None if it would start anew.
    """
    with found.checking("workdir"):
        find_workdir(workdir)
        _check_writable(workdir)
        _check_alone(workdir)
    with found.checking("workdir"):
        saved, unfinished, _ = find_saved(workdir, verify=False)
        if unfinished:
            found.remark(
                f"{plural(len(unfinished), 'unfinished checkpoint')} would be removed: {', '.join(unfinished)}"
            )
        if newest := _newest_whole(found, workdir, saved):
            _compare(found, newest, run, accept_changes=accept_changes)
            return newest, int(newest.name)
        _check_never_had_any(workdir, saved, settings.every_steps)
        found.say("workdir", f"{workdir}: holds no checkpoint; the run would start at step 1")
    return None


def check_space(found: Findings, workdir: Path, settings: CheckpointSettings, size: int) -> None:
    """Compares the free space with what checkpoints of `size` bytes take.

    Args:
      found: gets what is found.
      workdir: the run's folder.
      settings: how many checkpoints are kept.
      size: bytes of one.
    """
    if is_remote(workdir):
        return
    free, at_once = shutil.disk_usage(_existing(workdir)).free, settings.keep + 1
    if free < size:
        needed, left = in_bytes(size), in_bytes(free)
        found.problem(
            "workdir", f"{workdir}: a checkpoint has up to {needed}, and the disk has {left} left; make room there"
        )
    elif free < at_once * size:
        found.remark(
            f"{workdir}: the {at_once} checkpoints that are there at once have up to {in_bytes(at_once * size)}, and "
            f"the disk has {in_bytes(free)} left"
        )


def in_bytes(size: float) -> str:
    """A number of bytes in words, in powers of 1,000."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:,.0f} {units[0]}" if units[0] == "bytes" or size >= 100 else f"{size:.1f} {units[0]}"


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _check_writable(workdir: Path) -> None:
    """Raises StorageError if the folder is a file or cannot be written to; of buckets it is not known."""
    if is_remote(workdir):
        return
    place = _existing(workdir)
    if not place.is_dir():
        raise StorageError(f"{workdir}: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(
            f"{workdir}: {place} may not be written to; ask for the permission, or choose another folder"
        )


def _check_alone(workdir: Path) -> None:
    """Raises CheckpointError if a run is at work in the folder, which holds its lock."""
    if is_remote(workdir):
        return
    with contextlib.suppress(OSError), (workdir / _LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{workdir}: another run is at work in this folder; wait for it to end, or choose another"
            ) from None


def _newest_whole(found: Findings, workdir: Path, saved: list[Saved]) -> Path | None:
    """The newest checkpoint whose files are as they were written; damaged ones are named."""
    for each in reversed(saved):
        path = workdir / RUN_FOLDER / str(each.step)
        if (reason := find_damage(path, ITEMS)) is None:
            return path
        found.remark(f"{path}: is damaged ({reason}); the run would set it aside")
    return None


def _check_never_had_any(workdir: Path, saved: list[Saved], every_steps: int) -> None:
    if saved:
        raise CheckpointError(
            f"{workdir / RUN_FOLDER}: none of the checkpoints there is whole; put back a copy of one, or "
            "start the run again in another --workdir"
        )
    aside = workdir / "damaged"
    if aside.is_dir() and any(aside.iterdir()):
        raise CheckpointError(
            f"{workdir}: has no checkpoint, but some of this run were set aside in {aside}; put back one that is "
            f"whole, or remove {aside} to start again from step 1"
        )
    if every_steps > 0 and (gone := checkpoints_gone(workdir, every_steps)):
        raise CheckpointError(gone)


def _compare(found: Findings, newest: Path, run: dict[str, Any] | None, *, accept_changes: bool) -> None:
    """Says whether the run could resume from a checkpoint."""
    try:
        recorded, saved_as = recorded_run(newest)
    except UNREADABLE as error:
        raise CheckpointError(f"{newest}: cannot be resumed from ({' '.join(str(error).split())[:200]})") from None
    check_step(newest, saved_as)
    if run is None:
        found.say("workdir", f"{newest}: is the newest checkpoint")
        return
    accepted, refusal = changes_to_resume(newest, recorded, run, accept_changes)
    for change in accepted:
        found.remark(str(change))
    if refusal:
        raise refusal
    steps, step = run["total_steps"], int(newest.name)
    would = "the run is finished" if step == steps else f"the run would resume after step {step:,} of {steps:,}"
    found.say("workdir", f"{newest.parent.parent}: {would}")
