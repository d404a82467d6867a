"""JSON files of annotations: read, and their fields checked, with errors that say where. Imports no JAX."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from flair_jax.errors import DatasetError

_Value = TypeVar("_Value")


def read_json(path: Path) -> Any:
    """A JSON file's contents.

    Raises:
      DatasetError: if it cannot be read as JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error})") from None


def json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    """The values of a file of JSON lines, each with its place, which is the file and a number from 1.

    Raises:
      DatasetError: if it cannot be read as that, in UTF-8.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{where}: not JSON in UTF-8 ({error})") from None
            yield value, where


def field(record: Any, name: str | int, kind: type[_Value], where: str) -> _Value:
    """record[name], if it is there and of that kind; `where` is the record's place, for the error.

    Raises:
      DatasetError: if not.
    """
    try:
        value = record[name]
    except (KeyError, IndexError, TypeError):
        raise DatasetError(f"{where}: `{name}` is missing") from None
    if not isinstance(value, kind):
        raise DatasetError(f"{where}: `{name}` must be a {kind.__name__}, found {type(value).__name__}")
    return value


def rows(records: Any, path: Path) -> Iterator[tuple[Any, str]]:
    """The items of a list, each with its place, which is the file and a number from 1.

    Raises:
      DatasetError: if it is no list.
    """
    if not isinstance(records, list):
        raise DatasetError(f"{path}: expected a list, found {type(records).__name__}")
    for number, record in enumerate(records, start=1):
        yield record, f"{path}, record {number}"


def captions(record: Any, name: str, where: str) -> list[str]:
    """record[name], which is a caption or a list of captions; `where` as in `field`.

    Raises:
      DatasetError: if it is neither.
    """
    value = field(record, name, object, where)
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(caption, str) for caption in listed):
        raise DatasetError(f"{where}: `{name}` must be a text or a list of texts")
    return listed
