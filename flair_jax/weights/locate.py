"""Where a checkpoint is: its folder on this machine, and the file in it that describes it. Imports no JAX."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from flair_jax.buckets import is_remote
from flair_jax.files import expand

# The folder of a training run's checkpoints, in its workdir.
RUN_FOLDER = "checkpoints"

# What Orbax writes into a checkpoint in a bucket when all else is there.
COMPLETE = "commit_success.txt"

# A model's description in a folder or hub repository.
CONFIG = "config.json"

# In a training run's checkpoint the description is a JSON item of Orbax's.
DESCRIPTION = "description"


def locate(name: str | Path) -> Path:
    """Where a checkpoint is on this machine; one on the hub is fetched into the hub's cache first.

    Within a process, a hub name keeps referring to the commit that it first resolved to.

    Args:
      name: a path, `~` being the home folder, where WORKDIR or WORKDIR/checkpoints of a training run means its newest
        checkpoint, and a warning says which that is; `hf://OWNER/REPOSITORY[@REVISION]` for a folder that
        `flair-jax export` put there; or `hf://OWNER/REPOSITORY[@REVISION]/FILE` for a `.pt` or `.safetensors` file.

    Raises:
      ConversionError: if the name is malformed, or what it names cannot be fetched.
    """
    scheme, colon, rest = str(name).partition(":/")
    if scheme == "hf" and colon:  # `Path` collapses two slashes into one
        return _fetch(f"hf://{rest.lstrip('/')}")
    return _newest_of_run(expand(name))


def _newest_of_run(path: Path) -> Path:
    """The newest checkpoint in the folder of a training run; any other path as it is."""
    if not path.is_dir() or description_file(path).is_file():
        return path
    for folder in (path / RUN_FOLDER, path):
        steps = [each for each in folder.iterdir() if _is_complete(each)] if folder.is_dir() else []
        if any(description_file(each).is_file() for each in steps):
            newest = max(steps, key=lambda each: int(each.name))
            logging.warning("%s: taking the newest checkpoint, %s", path, newest)
            return newest
    return path


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
