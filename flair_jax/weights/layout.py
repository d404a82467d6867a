"""What is the same for every model in the layout of the library transformers: `config.json` and its neighbours.

A folder there has `config.json` with `model_type`, weights in `model.safetensors`, and mostly
`preprocessor_config.json`, how pictures are prepared, and `tokenizer.json`. Fields of `config.json` that have their
default are not always in it, so each reader brings the defaults of the library's configuration class.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from flair_jax.models.config import FlairConfig, VisionConfig
from flair_jax.weights.param_map import ConversionError, Row

PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer.json"
# Numbers of Pillow's filters, which `resample` is.
_FILTERS = {2: "bilinear", 3: "bicubic"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one kind of model there becomes one of ours.

    Attributes:
      name: of the model, in words.
      describe: from the contents of `config.json` to the model; raises ConversionError where that is another kind.
      rows: the tensors that are taken; what no row makes is drawn at random.
      passed_over: names of tensors that are left out, being of no use here.
      vision: how pictures are prepared where `preprocessor_config.json` does not say it.
      tokenizer: the kind of tokenizer that `tokenizer.json` is, see `flair_jax.data.tokenizer_files`; "" for a model
        without texts, which gets a random text tower, FLAIR's own or that of `--config`.
    """

    name: str
    describe: Callable[[Mapping[str, Any]], FlairConfig]
    rows: tuple[Row, ...]
    passed_over: tuple[str, ...]
    vision: VisionConfig
    tokenizer: str


def read_fields(data: Any, where: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a part of `config.json` that have defaults, each of the type of its default.

    Raises:
      ConversionError: if one is of another type, or the part is no object.
    """
    if not isinstance(data, Mapping):
        raise ConversionError(f"config.json: {where or 'it'} must be an object, found {reprlib.repr(data)}")
    fields = {name: data.get(name, default) for name, default in defaults.items()}
    for name, value in fields.items():
        kinds = (int, float) if isinstance(defaults[name], float) else (type(defaults[name]),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(defaults[name], bool):
            raise ConversionError(
                f"config.json: {where}{name} is {reprlib.repr(value)}, and a value like {defaults[name]!r} is read"
            )
    return fields


def require(fields: Mapping[str, Any], where: str, wanted: Mapping[str, Any]) -> None:
    """Raises ConversionError unless fields have the values of the only kind of model that is read."""
    for name, value in wanted.items():
        if fields[name] != value:
            raise ConversionError(
                f"config.json: {where}{name} is {fields[name]!r}, and these towers are read with {value!r} alone"
            )


def sizes(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Width, layers, MLP and epsilon of a tower, as `VisionConfig` and `TextConfig` name them.

    Raises:
      ConversionError: if a size is not positive.
    """
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if fields[name] < 1:
            raise ConversionError(f"config.json: {where}{name} is {fields[name]}; a positive number is needed")
    width, hidden = fields["hidden_size"], fields["intermediate_size"]
    ratio = hidden / width
    if int(width * ratio) < hidden:  # rounded down by a last bit
        ratio = math.nextafter(ratio, math.inf)
    return {
        "width": width,
        "layers": fields["num_hidden_layers"],
        "mlp_ratio": ratio,
        "layer_norm_eps": float(fields["layer_norm_eps"]),
    }


def head_width(fields: Mapping[str, Any], where: str) -> int:
    """C, the width of an attention head.

    Raises:
      ConversionError: if the heads do not divide the layers' width.
    """
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if width % heads:
        raise ConversionError(f"config.json: {where}hidden_size={width} is no multiple of num_attention_heads={heads}")
    return int(width // heads)


def prepared(vision: VisionConfig, data: Mapping[str, Any]) -> tuple[VisionConfig, list[str]]:
    """How pictures are prepared, by the contents of `preprocessor_config.json`; and remarks on what is not followed.

    Fields are those of transformers' image processors (`image_processing_utils.py` there): `image_mean`, `image_std`,
    `resample`, and `size` with height and width, to which pictures are squashed, or with `shortest_edge`.

    Args:
      vision: the tower, prepared as it is usual for its kind.
      data: the contents; empty if there is no such file.

    Raises:
      ConversionError: if mean or deviation are not three numbers.
    """
    if not data:
        return vision, [f"no {PREPROCESSOR} beside the weights; pictures are prepared as is usual for this kind"]
    found: dict[str, Any] = {}
    remarks = []
    for name in ("image_mean", "image_std"):
        if (values := data.get(name)) is None:
            continue
        if not isinstance(values, list) or [type(each) in (int, float) for each in values] != [True] * 3:
            raise ConversionError(f"{PREPROCESSOR}: {name} is {reprlib.repr(values)}, and three numbers are needed")
        found[name] = tuple(float(each) for each in values)
    if isinstance(resample := data.get("resample"), int) and resample in _FILTERS:
        found["interpolation"] = _FILTERS[resample]
    elif resample is not None:
        remarks.append(
            f"{PREPROCESSOR}: resample is {resample!r}, and pictures are resized {vision.interpolation} here"
        )
    size = data.get("size")
    sides = [size]
    if isinstance(size, Mapping) and "shortest_edge" in size:
        found["resize_mode"], sides = "shortest", [size["shortest_edge"]]
    elif isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        found["resize_mode"], sides = "squash", [size["height"], size["width"]]
    if any(side not in (None, vision.image_size) for side in sides):
        listed = " x ".join(map(reprlib.repr, sides))
        remarks.append(f"{PREPROCESSOR}: size is {listed}, and pictures have {vision.image_size} pixels a side here")
    factor = data.get("rescale_factor", 1 / 255)
    scaled = isinstance(factor, (int, float)) and math.isclose(factor, 1 / 255, rel_tol=1e-4)
    if not scaled or False in (data.get("do_normalize"), data.get("do_rescale")):
        raise ConversionError(f"{PREPROCESSOR}: pixels are scaled otherwise than to [0, 1] and by mean and deviation")
    return dataclasses.replace(vision, **found), remarks
