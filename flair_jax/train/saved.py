"""The checkpoints in a run's folder: how large they are, and whether they are whole. Imports no JAX."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from flair_jax import buckets
from flair_jax.buckets import is_remote
from flair_jax.errors import CheckpointError
from flair_jax.files import list_files
from flair_jax.weights import digests
from flair_jax.weights.locate import COMPLETE, DESCRIPTION, RUN_FOLDER

_UNFINISHED = ".orbax-checkpoint-tmp"
# What is in a run's checkpoint and has digests; the average only where there is one.
ITEMS = (DESCRIPTION, "ema", "optimizer", "params", "progress")


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint.

    Attributes:
      step: after which it was saved.
      bytes: of all its files.
      files: how many.
    """

    step: int
    bytes: int
    files: int


def find_saved(workdir: Path, *, verify: bool) -> tuple[list[Saved], list[str], list[str]]:
    """The checkpoints of a run, oldest first; the names of unfinished ones; and what is damaged, in words.

    Args:
      workdir: the run's folder.
      verify: whether to compare all contents with their digests.
    """
    folder, aside = workdir / RUN_FOLDER, workdir / "damaged"
    names = [each.name for each in folder.iterdir()] if folder.exists() else []
    saved: list[Saved] = []
    damaged: list[str] = []
    unfinished = sorted(name for name in names if _UNFINISHED in name)
    for step in sorted(int(name) for name in names if name.isdecimal()):
        try:
            sizes = _sizes(folder / str(step))
            if _is_unfinished(folder, sizes):
                unfinished.append(str(step))
                continue
            words = _damage(folder / str(step), sizes, verify=verify)
        except FileNotFoundError:
            words = "is not complete"
        if words and not (folder / str(step)).exists():  # the run has removed it meanwhile
            continue
        saved.append(Saved(step, sum(sizes.values()), len(sizes)))
        damaged += [f"{folder / str(step)}: {words}"] if words else []
    damaged += [f"{each}: set aside" for each in sorted(aside.iterdir())] if aside.exists() else []
    return saved, unfinished, damaged


def _is_unfinished(folder: Path, sizes: dict[str, int]) -> bool:
    """Buckets cannot rename: there a checkpoint has its name from the start, and Orbax marks it once it is complete."""
    return is_remote(folder) and COMPLETE not in sizes


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of all files by their names, relative to the checkpoint."""
    if is_remote(folder):
        return buckets.list_files(folder)
    return {name: (folder / name).stat().st_size for name in list_files(folder)}


def _damage(folder: Path, sizes: dict[str, int], *, verify: bool) -> str | None:
    if digests.FILE not in sizes:
        return _without_digests(folder, verify=verify)
    lines = (folder / digests.FILE).read_bytes().decode(errors="replace").splitlines()
    missing = [name for name in (line[66:] for line in lines) if name not in sizes]
    if missing:
        return f"{min(missing)} is missing" + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
    if not verify:
        return None
    try:
        return digests.find_damage(folder, ITEMS)
    except CheckpointError as error:
        return str(error)


def _without_digests(folder: Path, *, verify: bool) -> str | None:
    """Whether a checkpoint should have digests; its description says so."""
    try:
        described = json.loads((folder / DESCRIPTION / "metadata").read_bytes())
    except (OSError, ValueError):
        return "its description is damaged"
    if "digests" in described:
        return f"{digests.FILE} is missing"
    return "cannot be verified: it is of a version that wrote no digests" if verify else None
