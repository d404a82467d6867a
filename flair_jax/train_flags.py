"""The command line of training: absl flags, with the configuration file's fields as `--config.FIELD`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from flair_jax.errors import ConfigError
from flair_jax.hosts import CLUSTER_OPTIONS, check_cluster

USAGE = "flair-jax train --config=FILE [--config.FIELD=VALUE ...] --workdir=DIR [--distributed]"


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The command line.

    Attributes:
      config: the configuration, with the fields that were given on the command line.
      workdir: the run's folder.
      distributed: whether there are several processes.
      cluster: of `CLUSTER_OPTIONS`, None where not given.
      stopped_status: exit status of a run that SIGTERM stopped before its last step, by which a launcher tells it from
        a finished one.
      accept_changes: whether a run goes on even if other settings make it another one.
    """

    config: Any
    workdir: Path
    distributed: bool
    cluster: dict[str, Any]
    stopped_status: int = 0
    accept_changes: bool = False


def parse(arguments: Sequence[str]) -> TrainOptions:
    """Reads the words after the command.

    Raises:
      ConfigError: if a flag or field does not exist, or its value cannot be; it says which.
    """
    values = _read(arguments, USAGE)
    if values.config is None or values.workdir is None:
        raise ConfigError(f"--config and --workdir are needed; usage: {USAGE}")
    cluster = {name: getattr(values, name) for name, _, _ in CLUSTER_OPTIONS}
    check_cluster(values.distributed, cluster)
    return TrainOptions(
        values.config,
        Path(values.workdir),
        values.distributed,
        cluster,
        stopped_status=getattr(values, "stopped-status"),
        accept_changes=getattr(values, "accept-changes"),
    )


def parse_config(arguments: Sequence[str]) -> Any:
    """The configuration alone, with the fields that were given on the command line.

    Raises:
      ConfigError: as `parse`.
    """
    usage = "--config=FILE [--config.FIELD=VALUE ...]"
    config = _read(arguments, usage).config
    if config is None:
        raise ConfigError(f"--config is needed; usage: {usage}")
    return config


def _read(arguments: Sequence[str], usage: str) -> flags.FlagValues:
    words = ["flair-jax train", *arguments]
    values = _define(words)
    for file in (word.removeprefix("--config=") for word in arguments if word.startswith("--config=")):
        if not Path(file.split(":")[0]).is_file():
            raise ConfigError(f"--config={file}: no such configuration file")
    try:
        rest = values(words)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(_first_sentence(error)) from None
    except Exception as error:  # the configuration file is a program, and can fail in any way
        raise ConfigError(
            f"--config: the file cannot be run ({type(error).__name__}: {_first_sentence(error)})"
        ) from None
    if rest:
        raise ConfigError(f"unknown argument {rest[0]!r}; usage: {usage}")
    return values


def _define(words: list[str]) -> flags.FlagValues:
    """The flags, new each time: reading a configuration adds one for each of its fields."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "Configuration file.", flag_values=values, sys_argv=words)
    flags.DEFINE_string("workdir", None, "Folder for checkpoints and metrics.", flag_values=values)
    flags.DEFINE_boolean("distributed", False, "Run as several processes.", flag_values=values)
    for name, kind, meaning in CLUSTER_OPTIONS:
        define = flags.DEFINE_string if kind is str else flags.DEFINE_integer
        define(name, None, meaning, flag_values=values)
    flags.DEFINE_integer("stopped-status", 0, "Exit status of a run that SIGTERM stopped.", 0, 255, flag_values=values)
    flags.DEFINE_boolean(
        "accept-changes", False, "Go on even if other settings make the run another one.", flag_values=values
    )
    return values


def _first_sentence(error: Exception) -> str:
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0]) if error.args else str(error)  # str of a KeyError has quotes around it
    return " ".join(text.split()) or type(error).__name__
