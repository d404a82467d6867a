"""What a user calls the classes. Imports no JAX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flair_jax.errors import DatasetError


def read_words(path: str | Path, classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Words for each class, in the order of the classes: a line a class, alternatives separated by commas.

    Raises:
      DatasetError: if the file cannot be read, or its lines are not as many as the classes.
    """
    lines = _lines(Path(path))
    if len(lines) != len(classes):
        raise DatasetError(
            f"{path}: holds {len(lines)} lines for {len(classes)} classes, which go from {classes[0]} to {classes[-1]}"
        )
    words = [tuple(word.strip() for word in line.split(",") if word.strip()) for _, line in lines]
    for (number, _), alternatives in zip(lines, words, strict=True):
        if not alternatives:
            raise DatasetError(f"{path}, line {number}: names nothing")
    return tuple(words)


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not empty, stripped, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as text in UTF-8 ({error})") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
