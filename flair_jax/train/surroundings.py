"""What a run needs around it: a folder of its own, the cache of compiled programs, and a quiet log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax

from flair_jax.errors import CheckpointError, ConfigError
from flair_jax.files import expand, locked
from flair_jax.parallel.processes import Processes


@contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of the folder, which this run's processes share.

    Raises:
      CheckpointError: if another run is at work there.
    """
    busy = CheckpointError(f"{workdir}: another run is at work in this folder; wait for it to end, or choose another")
    with ExitStack() as stack:
        Processes.all().first_does(lambda: stack.enter_context(locked(workdir, busy)))
        yield


@contextmanager
def compilation_cache(folder: str) -> Iterator[None]:
    """Keeps compiled programs in a folder until the end of the block; "": nowhere."""
    before = jax.config.values["jax_compilation_cache_dir"]
    if folder:
        try:
            jax.config.update("jax_compilation_cache_dir", str(expand(folder)))
        except ConfigError as error:
            print(f"flair-jax: compiled programs are not kept: config.compilation_cache={error}", file=sys.stderr)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@contextmanager
def no_tracebacks_logged() -> Iterator[None]:
    """Silences Orbax, which logs a failure in the background in hundreds of lines before it raises it."""

    def short(record: logging.LogRecord) -> bool:
        return not record.exc_info

    logger = logging.getLogger("absl")
    logger.addFilter(short)
    try:
        yield
    finally:
        logger.removeFilter(short)
