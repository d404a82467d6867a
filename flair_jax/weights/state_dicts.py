"""Which of the tensors in a file are the model's: wrappers' prefixes, containers, several models in one file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flair_jax.weights.param_map import ConversionError

# The tensor by which FLAIR and CLIP are recognised among an optimiser's state, a loss and other models.
_ANCHOR = "visual.conv1.weight"
# What torch.compile, data-parallel training (DDP, FSDP) and recomputed activations put into names, anywhere; no name of
# the model has these parts.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def plain_name(name: str) -> str:
    """A tensor's name without the parts that wrappers put in."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def choose_model(loaded: Any, is_tensor: Callable[[Any], bool], wanted: str | None) -> dict[str, Any]:
    """The one state dict among the contents of a file.

    Args:
      loaded: the file's contents: a state dict, or mappings with state dicts in them.
      is_tensor: tells tensors from other values.
      wanted: the name of the state dict, as errors of this function list it: where it is, with its own prefix. Then
        only tensors with this prefix are read.

    Returns:
      Name -> tensor, and numbers that are among them, with the prefixes of wrappers taken off.

    Raises:
      ConversionError: if there is none, or not the one wanted, or several and `wanted` is not given.
    """
    mappings = dict(_mappings(loaded, is_tensor))
    models = {
        _join(path, prefix): _renamed(own, functools.partial(_without, prefix))
        for path, entries in mappings.items()
        for prefix, own in _models(entries, only_own=wanted is not None)
    }
    if wanted is not None:
        if wanted not in models:
            known = ", ".join(f'"{name}"' for name in models) or "none"
            held = (
                "its only one has no name; leave --state-dict out"
                if [*models] == [""]
                else f"those that it holds: {known}"
            )
            raise ConversionError(f'holds no FLAIR or CLIP named "{wanted}"; {held}')
        return models[wanted]
    if len(models) > 1:
        listed = ", ".join(f'"{name}" ({len(entries)} tensors)' for name, entries in models.items())
        raise ConversionError(f"holds several models: {listed}; choose one with `flair-jax convert --state-dict NAME`")
    if models:
        return next(iter(models.values()))
    if not mappings:
        raise ConversionError("neither a state dict nor a training checkpoint with one in it")
    return max(mappings.values(), key=len)


def _without(prefix: str, name: str) -> str:
    return name.removeprefix(prefix and f"{prefix}.")


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _mappings(loaded: Any, is_tensor: Callable[[Any], bool]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path -> tensors, and numbers among them, of every mapping that has tensors, with plain names."""
    waiting, seen = [("", loaded)], set()
    for path, mapping in waiting:  # which grows meanwhile; a mapping may lie in itself, or very deep
        if isinstance(mapping, Mapping) and id(mapping) not in seen:
            seen.add(id(mapping))
            waiting += [
                (_join(path, str(name)), value) for name, value in mapping.items() if isinstance(value, Mapping)
            ]
            own = {name: value for name, value in mapping.items() if is_tensor(value) or isinstance(value, int | float)}
            if any(is_tensor(value) for value in own.values()):
                yield path, _renamed(own, plain_name)


def _renamed(entries: Mapping[Any, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in entries.items():
        new = rename(str(name))
        if new in renamed:
            raise ConversionError(f"{name} and another tensor are both {new} without their prefixes")
        renamed[new] = value
    return renamed


def _models(entries: dict[str, Any], *, only_own: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Prefix -> entries of each model in one state dict; a single one gets all, for errors, unless `only_own`."""
    prefixes = [name.removesuffix(_ANCHOR).rstrip(".") for name in entries if f".{name}".endswith(f".{_ANCHOR}")]
    for prefix in prefixes:
        if len(prefixes) == 1 and not only_own:
            yield prefix, entries
        else:
            others = tuple(f"{other}." for other in prefixes if len(other) > len(prefix))
            start = prefix and f"{prefix}."
            own = {name for name in entries if name.startswith(start) and not name.startswith(others)}
            yield prefix, {name: value for name, value in entries.items() if name in own}
