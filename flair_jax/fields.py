"""Frozen dataclasses read from configurations: every value must be one of its field's type. Imports no JAX."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from flair_jax.errors import ConfigError, plural

# Limits of 32 bits, in which counters, seeds, array sizes and fractions are stored.
_MOST = 2**32 - 1
_LARGEST = float(np.finfo(np.float32).max)


def read_fields(kind: Any, values: Any, where: str) -> Any:
    """A dataclass of numbers, texts, tuples of them, functions or None, dicts of JSON values or of one kind of
    dataclass, and further dataclasses.

    Args:
      kind: the dataclass.
      values: a mapping, or an `ml_collections.ConfigDict`, with the same names and nesting; a field for which the
        dataclass has a default may be missing.
      where: what to call it in an error, such as "config".

    Raises:
      ConfigError: if a field is missing or unknown, or its value is not of the field's type; it names the field.
    """
    if not hasattr(values, "keys"):
        raise ConfigError(f"{where}={reprlib.repr(values)} must be a group of fields")
    types = get_type_hints(kind)
    given = {str(name) for name in values}
    unset = dataclasses.MISSING
    optional = {
        each.name for each in dataclasses.fields(kind) if (each.default, each.default_factory) != (unset, unset)
    }
    for what, names in (("unknown", given - set(types)), ("missing", set(types) - given - optional)):
        if names:
            near = did_you_mean(min(names), types) if what == "unknown" else ""
            count, listed = plural(len(names), f"{what} field"), ", ".join(sorted(names))
            raise ConfigError(f"{where}: {count}: {listed}; `flair-jax configs default` lists all{near}")
    return kind(
        **{
            name: _read(expected, _get(values, name, where), f"{where}.{name}")
            for name, expected in types.items()
            if name in given
        }
    )


# What other programs call a field.
OTHER_NAMES = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size"}


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """A sentence that suggests the known names most like an unknown one, the likest first; "" if none is similar.

    Args:
      name: the unknown name.
      known: the names that there are.
      most: how many to suggest at most.
    """
    known = list(known)
    near = [other for other in (OTHER_NAMES.get(name),) if other in known]
    near = near or difflib.get_close_matches(name, known, most)
    near = near or [each for each in known if len(name) > 1 and each.startswith(name)][:most]
    named = '" or "'.join(near)
    return f'. Did you mean "{named}"?' if near else ""


def _get(values: Mapping[str, Any], name: str, where: str) -> Any:
    try:
        return values[name]
    except Exception as error:  # a placeholder of ml_collections that nobody filled, or a reference that fails
        raise ConfigError(f"{where}.{name}: {error}") from None


def _read(expected: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(expected):
        return read_fields(expected, value, where)
    if get_origin(expected) is tuple:
        return _tuple(get_args(expected), value, where)
    if get_origin(expected) is dict:
        kind = get_args(expected)[1]
        return _named(kind, value, where) if dataclasses.is_dataclass(kind) else _group(value, where)
    if get_origin(expected) is UnionType:
        return _function(value, where)
    found = f"{where}={reprlib.repr(value)}"
    if expected is str:
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{found} must be a text")
        return value
    number: Any = value
    whole = expected is int
    kinds: tuple[Any, ...] = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(number, bool) or not isinstance(number, kinds):
        raise ConfigError(f"{found} must be a {'whole ' if whole else ''}number")
    if whole and abs(int(number)) > _MOST:
        raise ConfigError(f"{found} is out of range; it may be up to {_MOST:,}")
    if not whole and not abs(number) <= _LARGEST:  # nor is NaN
        raise ConfigError(f"{found} must be a finite number, up to {_LARGEST:.1e}")
    return expected(number)


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}={reprlib.repr(value)} must be a tuple, as in `flair-jax configs default`")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{where}={reprlib.repr(value)} must have {len(kinds)} values")
    return tuple(
        _read(kind, each, f"{where}[{number}]") for number, (kind, each) in enumerate(zip(kinds, value, strict=True))
    )


def _named(kind: Any, values: Any, where: str) -> dict[str, Any]:
    """Dataclasses of one kind by any names."""
    return {name: read_fields(kind, _get(values, name, where), f"{where}.{name}") for name in _names(values, where)}


def _group(values: Any, where: str) -> dict[str, Any]:
    """Fields of any names, whose values JSON can hold."""
    return {name: _json(_get(values, name, where), f"{where}.{name}") for name in _names(values, where)}


def _names(values: Any, where: str) -> list[str]:
    if not hasattr(values, "keys"):
        raise ConfigError(f"{where}={reprlib.repr(values)} must be a group of fields")
    for name in values:
        if not isinstance(name, str) or not name or "." in name:
            raise ConfigError(f"{where}: a field is named {name!r}; names are texts without dots")
    return list(values)


def _json(value: Any, where: str) -> Any:
    if hasattr(value, "keys"):
        return _group(value, where)
    if isinstance(value, (list, tuple)):
        return tuple(_json(each, f"{where}[{number}]") for number, each in enumerate(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}={value} must be a finite number")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f"{where}={reprlib.repr(value)} must be a number, a text, a boolean, None, or a tuple or group of them"
    )


def _function(value: Any, where: str) -> Any:
    if value is None or (callable(value) and not isinstance(value, type)):
        return value
    raise ConfigError(f"{where}={reprlib.repr(value)} must be a function of the settings, or None")
