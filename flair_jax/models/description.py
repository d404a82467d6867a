"""A model's description as JSON: the form of the PyTorch release's model files. Imports no JAX."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flair_jax.errors import ConfigError, plural
from flair_jax.files import size_of
from flair_jax.models.config import COMPUTE_SETTINGS, FlairConfig, TextConfig, VisionConfig, is_convention

_MOST_BYTES = 1 << 20  # of a JSON file

# JSON names are the dataclasses', but for the towers'. Compute settings are not there: they belong to a run, not to a
# checkpoint. How images are prepared is in `preprocess_cfg`, under the names of open_clip's `PreprocessCfg`
# (src/open_clip/transform.py).
_TOWERS: dict[str, type] = {"vision_cfg": VisionConfig, "text_cfg": TextConfig}
_OF_A_RUN = ("vision", "text", *COMPUTE_SETTINGS)
_PREPROCESSING = "preprocess_cfg"
_OF_IMAGES = {
    "mean": "image_mean",
    "std": "image_std",
    **{name: name for name in ("interpolation", "resize_mode", "fill_color")},
}
# What a checkpoint's description has besides: where its weights come from, their digests, and modules not of ours.
_NOTES = ("source", "digests", "modules")


def config_to_json(config: FlairConfig) -> dict[str, Any]:
    """The model's description in the form of the PyTorch release's model files.

    Conventions that have their default are left out, so that such a description is the same as before there was a
    choice.
    """
    return {
        **_written(config, _OF_A_RUN),
        "vision_cfg": _written(config.vision, _OF_IMAGES.values()),
        "text_cfg": _written(config.text),
        **images_to_json(config.vision),
    }


def images_to_json(vision: VisionConfig) -> dict[str, Any]:
    """`preprocess_cfg` with what is not the default in how images are prepared; if all is, nothing."""
    images = {
        name: list(value) if isinstance(value := getattr(vision, field), tuple) else value
        for name, field in _OF_IMAGES.items()
        if getattr(vision, field) != getattr(VisionConfig, field)
    }
    return {_PREPROCESSING: images} if images else {}


def refused_by_release(config: FlairConfig) -> dict[str, Any]:
    """Names of fields of `config_to_release_json` for which the PyTorch release has no setting."""
    described = {**_written(config, _OF_A_RUN), **_written(config.vision), **_written(config.text)}
    ours = ("pooling_layer_norm_eps", "layer_norm_eps", "tokenizer", "end_of_text_id", "causal")
    refused = {name: described[name] for name in ours if name in described}
    return refused if config.pooling_heads == 8 else {"pooling_heads": config.pooling_heads, **refused}


def _written(part: Any, without: Any = ()) -> dict[str, Any]:
    """The fields of a dataclass without conventions that have their default; sizes first."""
    fields = [field for field in dataclasses.fields(part) if field.name not in without]
    sizes = [field for field in fields if not is_convention(field)]
    others = [field for field in fields if is_convention(field) and getattr(part, field.name) != field.default]
    return {field.name: getattr(part, field.name) for field in (*sizes, *others)}


def config_to_release_json(config: FlairConfig) -> dict[str, Any]:
    """The model's description as the PyTorch release's constructor takes it, for exports.

    That constructor always makes 8 pooling heads and has no setting for it: `pooling_heads` is there only for a model
    with another number, which it then refuses instead of computing something else. Likewise the conventions other than
    `quick_gelu`. How images are prepared is not part of it.
    """
    description = config_to_json(config)
    for name in ("pooling_heads", "init_logit_scale"):
        if description[name] == getattr(FlairConfig, name):
            del description[name]
    description.pop(_PREPROCESSING, None)
    description["vision_cfg"]["output_tokens"] = True  # its tower gives local tokens only if told to
    return description


def config_from_json(data: Mapping[str, Any], where: str = "model description") -> FlairConfig:
    """Reads the form that `config_to_json` writes and the PyTorch release ships.

    Args:
      data: `embed_dim`, `vision_cfg`, `text_cfg` and optionally other fields of `FlairConfig`. What is left out takes
        its default, the release's. Of `preprocess_cfg`, `mean`, `std`, `interpolation`, `resize_mode` and `fill_color`
        are used. What our own files note beside the model is ignored, as is all but `model_cfg` and `preprocess_cfg` of
        an `open_clip_config.json`.
      where: what to call the source in an error.

    Raises:
      ConfigError: if a field is missing, unknown or of the wrong type.
    """
    images = data.get(_PREPROCESSING) if isinstance(data, Mapping) else None
    if isinstance(data, Mapping) and "model_cfg" in data:
        data, where = data["model_cfg"], f"{where}, `model_cfg`"
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a JSON object, found {type(data).__name__}")
    for name in ("embed_dim", *_TOWERS):
        if name not in data:
            raise ConfigError(f"{where}: `{name}` is missing")
    types = {field.name: field.type for field in dataclasses.fields(FlairConfig) if field.name not in _OF_A_RUN}
    unknown = [name for name in data if name not in (*types, *_TOWERS, _PREPROCESSING, *_NOTES)]
    towers = {name: _tower(data[name], name, where, unknown) for name in _TOWERS}
    if unknown:
        names = ", ".join(name if name.replace(".", "").isidentifier() else reprlib.repr(name) for name in unknown[:9])
        raise ConfigError(f"{where}: {plural(len(unknown), 'unknown field')}: {names}; this model has no such setting")
    top = {name: _value(data[name], kind, f"{where}: `{name}`") for name, kind in types.items() if name in data}
    towers["vision_cfg"] |= _image_fields(images, where)
    try:
        return FlairConfig(vision=VisionConfig(**towers["vision_cfg"]), text=TextConfig(**towers["text_cfg"]), **top)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _tower(data: Any, name: str, where: str, unknown: list[str]) -> dict[str, Any]:
    """The fields of a tower; unknown names are added to `unknown`."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: `{name}` must be an object")
    # The release's files say `output_tokens: true` of a tower; FLAIR's towers always give their tokens.
    fields = {key: value for key, value in data.items() if key != "output_tokens"}
    known = {field.name: field.type for field in dataclasses.fields(_TOWERS[name])}
    for key in _OF_IMAGES.values():
        known.pop(key, None)
    unknown += [f"{name}.{key}" for key in fields if key not in known]
    return {
        key: _value(value, known[key], f"{where}: `{name}.{key}`")
        for key, value in fields.items()
        if key in known and not unknown
    }


def _image_fields(data: Any, where: str) -> dict[str, Any]:
    """How images are prepared, by an open_clip `preprocess_cfg`; what that leaves out is left out here too."""
    if data is None:
        return {}
    where = f"{where}: `{_PREPROCESSING}"
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}` must be an object, found {reprlib.repr(data)}")
    if data.get("mode") not in (None, "RGB"):
        raise ConfigError(f"{where}.mode` is {reprlib.repr(data['mode'])}; pictures are in RGB here")
    known = {field.name: field.type for field in dataclasses.fields(VisionConfig)}
    found: dict[str, Any] = {}
    for name, field in _OF_IMAGES.items():
        value, whose = data.get(name), f"{where}.{name}`"
        if value is None:
            continue
        if known[field] in ("str", "int"):
            found[field] = _value(value, known[field], whose)
        elif isinstance(value, list | tuple):
            found[field] = tuple(_value(each, "float", whose) for each in value)
        else:
            raise ConfigError(f"{whose} must be a list, found {reprlib.repr(value)}")
    if found.get("interpolation") == "random":  # either, in training alone; open_clip evaluates such models so
        found["interpolation"] = "bicubic"
    return found


def _value(value: Any, kind: Any, where: str) -> Any:
    """A value of the JSON form, for a field of type `kind`."""
    if kind == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"{where} must be true or false, found {reprlib.repr(value)}")
        return value
    if kind == "str":
        if not isinstance(value, str):
            raise ConfigError(f"{where} must be a text, found {reprlib.repr(value)}")
        return value
    if kind == "int | None" and value is None:
        return None
    whole = kind != "float"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ConfigError(f"{where} must be a {'whole ' if whole else ''}number, found {reprlib.repr(value)}")
    try:
        return value if whole else float(value)
    except OverflowError:
        return math.inf  # which no field takes


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file whose content is an object, as text in UTF-8.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is something else; the message says what.
    """
    if size_of(path) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, found {reprlib.repr(data)}")
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
