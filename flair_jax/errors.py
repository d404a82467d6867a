"""Errors that a user can act on: each says what is wrong, where, and what to do."""

from __future__ import annotations


class FlairError(ValueError):
    """Bad input from outside the program; the command line prints it as one sentence and exits with its status.

    Attributes:
      status: 2, which launchers take for something that a person has to mend; with another they start again.
    """

    status = 2


class ConfigError(FlairError):
    """A model description that is incomplete, unknown or contradicts itself."""


class CheckpointError(FlairError):
    """A checkpoint that is missing, damaged or does not fit the model."""


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
    """A disk that cannot be written to: full, read-only, gone."""


class WorkerError(FlairError):
    """A process that helps this one has died, which may not happen again."""

    status = 1


class SearchIndexError(FlairError):
    """A search index that is missing, damaged, in use, or of another checkpoint than the one at hand."""
