"""Where a checkpoint is: its folder on this machine, and the file in it that describes it. Imports no JAX."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from flair_jax.buckets import is_remote
from flair_jax.errors import CheckpointError
from flair_jax.files import expand

_LOGGER = logging.getLogger(__name__)

# The folder of a training run's checkpoints, in its workdir.
RUN_FOLDER = "checkpoints"

# What Orbax writes into a checkpoint in a bucket when all else is there.
COMPLETE = "commit_success.txt"

# A model's description in a folder or hub repository.
CONFIG = "config.json"

# In a training run's checkpoint the description is a JSON item of Orbax's.
DESCRIPTION = "description"

# Checkpoints that a message names.
_MOST_NAMED = 8


def locate(name: str | Path) -> Path:
    """Where a checkpoint is on this machine; one on the hub is fetched into the hub's cache first.

    Within a process, a hub name keeps referring to the commit that it first resolved to.

    Args:
      name: a path, `~` being the home folder, where WORKDIR or WORKDIR/checkpoints of a training run means its newest
        checkpoint, and a line of the log says which that is; `hf://OWNER/REPOSITORY[@REVISION]` for a folder that
        `flair-jax export` put there; or `hf://OWNER/REPOSITORY[@REVISION]/FILE` for a `.pt` or `.safetensors` file.

    Raises:
      CheckpointError: if the name is empty.
      ConversionError: if the name is malformed, or what it names cannot be fetched.
    """
    if not str(name):  # a shell's variable that is not set, and to `Path` the current folder
        raise CheckpointError("the checkpoint's name is empty; name a folder or a weight file")
    scheme, colon, rest = str(name).partition(":/")
    if scheme == "hf" and colon:  # `Path` collapses two slashes into one
        return _fetch(f"hf://{rest.lstrip('/')}")
    return _newest_of_run(expand(name))


def _newest_of_run(path: Path) -> Path:
    """The newest checkpoint in the folder of a training run; any other path as it is."""
    if not path.is_dir() or description_file(path).is_file():
        return path
    if steps := _steps_of(path):
        newest = max(steps, key=lambda each: int(each.name))
        _say_newest(path, newest)
        return newest
    return path


@functools.cache
def _say_newest(path: Path, newest: Path) -> None:
    _LOGGER.info("%s: taking the newest checkpoint, %s", path, newest)


def _steps_of(path: Path) -> list[Path]:
    """The checkpoints of a training run, from its workdir or the folder of them; [] if it is neither."""
    for folder in (path / RUN_FOLDER, path):
        steps = [each for each in folder.iterdir() if _is_complete(each)] if folder.is_dir() else []
        if any(description_file(each).is_file() for each in steps):
            return steps
    return []


def no_checkpoint(path: Path) -> str:
    """A sentence that there is no checkpoint at `path`, with those that are near, or how to make one."""
    missing = f"{path}: no checkpoint here"
    with contextlib.suppress(OSError):  # a folder that may not be read
        for folder, where in ((path, "in it"), (path / RUN_FOLDER, f"in its {RUN_FOLDER}"), (path.parent, "beside it")):
            if folder == path.parent and (path / RUN_FOLDER).is_dir():
                return f"{missing}; the training run has saved none yet"
            if steps := sorted(int(step.name) for step in _steps_of(folder)):
                return f"{missing}; steps {where}: {_last(steps)}"
            inside = [each for each in folder.iterdir() if _is_checkpoint(each)] if folder.is_dir() else []
            if inside:
                return f"{missing}; checkpoints {where}: {_last(sorted(inside))}"
    what = f"no {CONFIG}" if path.is_dir() else "no such file or folder"
    return f"{missing} ({what}); make one with `flair-jax convert FILE DIR`, or name its folder or a weight file"


def _is_checkpoint(folder: Path) -> bool:
    return folder.is_dir() and (description_file(folder).is_file() or bool(_steps_of(folder)))


def _last(names: Sequence[object]) -> str:
    return ("..., " if len(names) > _MOST_NAMED else "") + ", ".join(map(str, names[-_MOST_NAMED:]))


def _is_complete(step: Path) -> bool:
    """Whether it is a run's checkpoint; in a bucket, unfinished ones have their names already, and lack a last file."""
    return step.name.isdecimal() and (not is_remote(step) or (step / COMPLETE).exists())


def reported_name(name: str | Path, located: Path) -> str:
    """The name of a checkpoint in reports: its hub name, or else its path, which for a run includes the step."""
    return str(name) if str(name).startswith("hf:/") else str(located)


@functools.cache
def _fetch(name: str) -> Path:
    from flair_jax.weights import hub  # what is on disk does not need the hub's library

    return hub.download(name) if hub.split(name)[2] else hub.download_checkpoint(name)


def description_file(path: Path) -> Path:
    """Where a checkpoint's description is, or should be; a weight file is its own."""
    if path.is_file():
        return path
    of_run = path / DESCRIPTION / "metadata"
    return of_run if of_run.is_file() else path / CONFIG
