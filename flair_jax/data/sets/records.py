"""JSON files of annotations: read, and their fields checked, with errors that say where. Imports no JAX."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flair_jax.errors import DatasetError

CAPTIONS = ("caption", "captions")  # of users' own sets, either of which may hold one text or several
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


def own_captions(record: Any, where: str) -> list[str]:
    """The captions of an object of a user's own, which has an `image` and one of `CAPTIONS`; `where` as in `field`.

    Raises:
      DatasetError: if it is none, or what `captions` refuses.
    """
    if not isinstance(record, dict):
        found = type(record).__name__
        raise DatasetError(f'{where}: expected an object such as {{"image": PATH, "caption": TEXT}}, found {found}')
    if "image" not in record or not (name := one_of_captions(record, where)):
        keys = ", ".join(record) or "none"
        raise DatasetError(f"{where}: needs the keys image and caption, or image and captions; has {keys}")
    return captions(record, name, where)


def one_of_captions(names: Collection[str], where: str) -> str:
    """Which of `CAPTIONS` is among the names of keys or columns; "" if none is.

    Raises:
      DatasetError: if both are, since one would have to be passed over.
    """
    found = [name for name in CAPTIONS if name in names]
    if len(found) > 1:
        raise DatasetError(f"{where}: has both {' and '.join(found)}; keep one, which may be a list of texts")
    return next(iter(found), "")


def require_words(texts: Sequence[str], where: str) -> None:
    """Makes sure that no caption is empty, which would be scored as any other; `where` as in `field`.

    Raises:
      DatasetError: if one is.
    """
    if not all(map(str.strip, texts)):
        raise DatasetError(f"{where}: a caption is empty; write it, or take it out")
