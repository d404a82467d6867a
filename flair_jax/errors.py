"""Errors that a user can act on: each says what is wrong, where, and what to do."""

from __future__ import annotations

import re

# Control characters, which a terminal obeys; those that turn the direction of writing; and lone surrogates, in which
# Python keeps the bytes of names that are not UTF-8 and which nothing can print.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, keep: str = "") -> str:
    """An untrusted name or sentence made safe to print on one line: control characters are escaped as Python does.

    Args:
      text: a string, or an object that `str` turns into one.
      keep: control characters that are kept.
    """
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), str(text)
    )


def plural(count: int, noun: str) -> str:
    """A count and what is counted, such as "1 process" or "12,000 processes".

    Args:
      count: how many.
      noun: one of them; its last word takes the ending, by English's regular rules.
    """
    if count == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{count:,} {noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}s"


def is_utf8(text: str) -> bool:
    """Whether a name or sentence was UTF-8; Python keeps the bytes of others as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def require_text(sentence: str) -> None:
    """Checks that a sentence is valid Unicode; input from a terminal or file in another encoding may not be.

    Raises:
      FlairError: if it holds a lone surrogate.
    """
    if not is_utf8(sentence):
        raise FlairError(f'the sentence "{sentence}" is not in UTF-8; write it in that encoding')


class FlairError(ValueError):
    """Bad input from outside the program; the command line prints it as one sentence and exits with its status.

    Attributes:
      status: 2, which launchers take as something that a person has to fix; with any other they restart.
    """

    status = 2

    def __str__(self) -> str:
        """The message, with control characters in names escaped, so that they cannot affect a terminal."""
        return printable(super().__str__(), keep="\n\t")


class ConfigError(FlairError):
    """A model description that is incomplete, unknown or contradicts itself."""


class CheckpointError(FlairError):
    """A checkpoint that is missing, damaged or does not fit the model."""


class AnotherRunError(CheckpointError):
    """A folder that holds a run with other settings.

    Attributes:
      changes: the old and new values, in words.
    """

    def __init__(self, message: str, changes: str = "") -> None:
        """An error with its message and the changes."""
        super().__init__(message)
        self.changes = changes


class ImageError(FlairError):
    """A picture that cannot be read; the message names the file.

    Attributes:
      kind: the kind of damage in a few words, the same for all of a kind; to count by.
    """

    def __init__(self, message: str, kind: str = "picture is broken") -> None:
        """An error with its message and kind."""
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return ImageError, (str(self), self.kind)


class DatasetError(FlairError):
    """A data set folder or annotation file that cannot be used."""


class StorageError(FlairError):
    """A disk or bucket that cannot be used: full, read-only, gone, forbidden."""


class UnwritableError(StorageError, OSError):
    """A file or folder that cannot be made or replaced; an OSError, too, since the system has refused it."""


class OutageError(StorageError):
    """A bucket that does not answer, which may pass."""

    status = 1


class WorkerError(FlairError):
    """A worker process died, which may not happen again."""

    status = 1


class PeerError(FlairError):
    """Another process of the run has ended, without which this one cannot go on.

    Attributes:
      status: that of the other process if it has given one, such as 2 for bad input; else 1, so that launchers restart.
    """

    status = 1


class SearchIndexError(FlairError):
    """A search index that is missing, damaged, in use, or of another checkpoint than the one at hand."""
