"""The command line of training: absl flags, with the configuration file's fields as `--config.FIELD`."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import ml_collections
from absl import flags
from ml_collections import config_flags

from flair_jax.configs.default import get_config
from flair_jax.errors import ConfigError
from flair_jax.fields import OTHER_NAMES, did_you_mean
from flair_jax.files import expand
from flair_jax.parallel.processes import CLUSTER_OPTIONS, check_cluster
from flair_jax.train.config_files import find_config

# What a configuration file is as a module: not a name such as `config`, which it may want to import itself.
_MODULE = "configuration_file"

# How Python's complaint about a value begins -> what is wanted.
_NUMBERS = {"invalid literal for int()": "whole number", "could not convert string to float": "number"}

USAGE = "flair-jax train --config=NAME|FILE [--config.FIELD=VALUE ...] --workdir=DIR [--distributed]"


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
      accept_changes: whether to resume a run even if other settings make it another one.
    """

    config: ml_collections.ConfigDict
    workdir: Path
    distributed: bool
    cluster: dict[str, str | int | None]
    stopped_status: int = 0
    accept_changes: bool = False


def parse(arguments: Sequence[str]) -> TrainOptions:
    """Reads the words after the command.

    Raises:
      ConfigError: if a flag or field does not exist, or its value is invalid; it says which.
    """
    values = _read(arguments, USAGE)
    if missing := [f"--{name}" for name in ("config", "workdir") if getattr(values, name) is None]:
        raise ConfigError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} needed; usage: {USAGE}")
    cluster = {name: getattr(values, name) for name, _, _ in CLUSTER_OPTIONS}
    check_cluster(values.distributed, cluster)
    if not values.workdir:
        raise ConfigError("--workdir is empty; name a folder")
    return TrainOptions(
        values.config,
        expand(values.workdir),
        values.distributed,
        cluster,
        stopped_status=getattr(values, "stopped-status"),
        accept_changes=getattr(values, "accept-changes"),
    )


def parse_config(arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """The configuration alone, with the fields that were given on the command line.

    Raises:
      ConfigError: as `parse`.
    """
    usage = "--config=NAME|FILE [--config.FIELD=VALUE ...]"
    config = _read(arguments, usage).config
    if config is None:
        raise ConfigError(f"--config is needed; usage: {usage}")
    return config


def _read(arguments: Sequence[str], usage: str) -> flags.FlagValues:
    words = ["flair-jax train", *arguments]
    try:
        values = _define(words)
        rest = values(words)[1:]
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        near = _fields_named(get_config(), name) or did_you_mean(name, values)
        raise ConfigError(f"--{name}: no such option; usage: {usage}{near}") from None
    except Exception as error:  # absl's own types, and whatever ml_collections raises for a value
        # absl wraps what a parser raises in a sentence of its own.
        own = error.__context__ if isinstance(error.__context__, ConfigError) else ConfigError(_of_value(error))
        raise own from None
    if rest:
        raise ConfigError(f"unknown argument {rest[0]!r}; usage: {usage}")
    return values


class _Configuration(flags.ArgumentParser):  # type: ignore[type-arg]
    """Parses `--config`: runs a file, or one of the shipped configurations by its name, and locks what it gives."""

    def __init__(self, words: Sequence[str]) -> None:
        """Takes the command line, which may name fields that the configuration lacks."""
        self._words = words

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        """The configuration of `NAME|FILE[:PARAMETER]`.

        Raises:
          ConfigError: if there is none, it cannot be run, or it lacks a field of the command line.
        """
        scheme, separator, rest = argument.partition("://")
        name, colon, parameter = (rest if separator else argument).partition(":")
        path = find_config(f"{scheme}://{name}" if separator else name)
        try:
            loader = importlib.machinery.SourceFileLoader(_MODULE, str(path))
            spec = importlib.util.spec_from_loader(_MODULE, loader)
            module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            # Dataclasses, and so Flax's modules, look for the module that they are defined in; workers do not have it.
            sys.modules[_MODULE] = module
            cloudpickle.register_pickle_by_value(module)
            spec.loader.exec_module(module)  # type: ignore[union-attr]
            config = module.get_config(*([parameter] if colon else []))
        except (Exception, SystemExit) as error:  # it is a program, and can raise anything
            raise ConfigError(
                f"--config={argument}: cannot be run ({type(error).__name__}: {_sentence(error)})"
                f"{_line_in(str(path), error)}"
            ) from None
        if not isinstance(config, ml_collections.ConfigDict):
            found = type(config).__name__
            raise ConfigError(
                f"--config={argument}: get_config() must return an ml_collections.ConfigDict, not {found}"
            )
        for word in self._words:
            if match := re.match(r"--?(?:no)?config\.([^=]*)", word):
                _require_field(config, match[1])
        return config.lock()


def _line_in(path: str, error: BaseException) -> str:
    """Where a file was when the error came; "" if it was not run so far, or says it itself."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f" in line {lines[-1]}" if lines else ""


def _require_field(config: ml_collections.ConfigDict, name: str) -> None:
    """Raises ConfigError if a configuration lacks a field, by its dotted name, or a command line cannot set it."""
    if name.split(".")[0] == "factories":
        raise ConfigError(f"--config.{name}: is a function, which only a configuration file can set")
    group: Any = config
    for part in name.split("."):
        if not isinstance(group, ml_collections.ConfigDict) or part not in group:
            known = group if isinstance(group, ml_collections.ConfigDict) else ()
            where = "the configuration file defines those of `extra`"
            where = where if name.startswith("extra.") else "`flair-jax configs default` lists all"
            near = did_you_mean(part, known) or _fields_named(config, part)
            raise ConfigError(f"--config.{name}: no such field; {where}{near}")
        group = group[part]


def _fields_named(config: ml_collections.ConfigDict, name: str) -> str:
    """A sentence that suggests the fields, in any group, that have this name or stand for it; "" if none does."""
    wanted = (name, OTHER_NAMES.get(name))
    alike = [each for each in _names(config) if each.rpartition(".")[2] in wanted]
    alike = [each for each in alike if each in wanted] or alike  # what is in no group is meant first
    return f". Did you mean --config.{' or --config.'.join(alike)}?" if alike else ""


def _names(group: ml_collections.ConfigDict) -> Iterator[str]:
    """The dotted names of all fields."""
    for name, value in group.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from (f"{name}.{each}" for each in _names(value))
        else:
            yield str(name)


def _define(words: list[str]) -> flags.FlagValues:
    """The flags, new each time: reading a configuration adds one for each of its fields."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "Configuration file.", flag_values=values, sys_argv=words)
    values["config"].parser = _Configuration(words)
    flags.DEFINE_string("workdir", None, "Folder for checkpoints and metrics.", flag_values=values)
    flags.DEFINE_boolean("distributed", False, "Run as several processes.", flag_values=values)
    for name, kind, meaning in CLUSTER_OPTIONS:
        define = flags.DEFINE_string if kind is str else flags.DEFINE_integer
        define(name, None, meaning, flag_values=values)
    flags.DEFINE_integer("stopped-status", 0, "Exit status of a run that SIGTERM stopped.", 0, 255, flag_values=values)
    flags.DEFINE_boolean(
        "accept-changes", False, "Resume even if other settings make the run another one.", flag_values=values
    )
    return values


def _of_value(error: BaseException) -> str:
    """A sentence about a flag's value; Python's own about numbers is written anew."""
    sentence = _sentence(error)
    for start, wanted in _NUMBERS.items():
        flag, found, _ = sentence.partition(f": {start}")
        if found:
            return f"{flag.removeprefix('flag ')}: must be a {wanted}"
    return sentence


def _sentence(error: BaseException) -> str:
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    if isinstance(error, SyntaxError):
        return f"{error.msg}, line {error.lineno}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)  # else in quotes
    text = re.sub(r'Other fields present: "\{.*\}"', "", text, flags=re.DOTALL)  # ml_collections lists all values
    return " ".join(text.split()) or type(error).__name__
