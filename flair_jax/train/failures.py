"""Errors in what a user has written, as one sentence that says where."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flair_jax.errors import ConfigError, FlairError

# With this environment variable, the traceback is printed before the sentence.
TRACEBACK = "FLAIR_JAX_TRACEBACK"

# Where a user's code is not.
_OTHERS = (str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))


@contextmanager
def explained(what: str, file: str = "") -> Iterator[None]:
    """Raises ConfigError for any exception in the block, which is code of a user's and can raise anything.

    Args:
      what: has failed, in words.
      file: that the words name, so that a line in it is enough; elsewhere the file is named, too.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        lines = (str(error).strip() or type(error).__name__).splitlines()
        words = str(error) if isinstance(error, FlairError) else f"{type(error).__name__}: {lines[0]}"
        raise ConfigError(
            f"{what} has failed{_place(error, file)} ({' '.join(words.split())}); {TRACEBACK}=1 prints the traceback"
        ) from error


def _place(error: Exception, file: str) -> str:
    """Where in a user's code an error came from, if it did."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the block's
    if lines := [frame.lineno for frame in frames if frame.filename == file]:
        return f" in line {lines[-1]}"
    theirs = [frame for frame in frames if not frame.filename.startswith((*_OTHERS, "<")) and not _is_library(frame)]
    return f" in {theirs[-1].filename}, line {theirs[-1].lineno}" if theirs else ""


def _is_library(frame: traceback.FrameSummary) -> bool:
    return "site-packages" in Path(frame.filename).parts
