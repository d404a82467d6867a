"""Errors that a user can act on: each says what is wrong, where, and what to do."""


class FlairError(ValueError):
    """Bad input from outside the program; the command line prints it as one sentence and exits with 2."""


class ConfigError(FlairError):
    """A model description that is incomplete, unknown or contradicts itself."""


class CheckpointError(FlairError):
    """A checkpoint that is missing, damaged or does not fit the model."""


class ImageError(FlairError):
    """A picture that cannot be read; the message names the file."""


class DatasetError(FlairError):
    """A data set folder or annotation file that cannot be used."""
