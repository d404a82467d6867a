"""What a user calls the classes. Imports no JAX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flair_jax.data.sets.prompts import numbered_lines
from flair_jax.errors import DatasetError, plural
from flair_jax.files import expand


def read_words(path: str | Path, classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Words for each class, in the order of the classes: a line a class, alternatives separated by commas.

    Raises:
      DatasetError: if the file cannot be read, or its lines are not as many as the classes.
    """
    lines = numbered_lines(expand(path))
    if len(lines) != len(classes):
        found = plural(len(lines), "line")
        raise DatasetError(
            f"{path}: holds {found} for {len(classes)} classes, which go from {classes[0]} to {classes[-1]}"
        )
    words = [tuple(word.strip() for word in line.split(",") if word.strip()) for _, line in lines]
    for (number, _), alternatives in zip(lines, words, strict=True):
        if not alternatives:
            raise DatasetError(f"{path}, line {number}: names nothing")
    return tuple(words)
