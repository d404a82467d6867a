"""Model descriptions: one frozen dataclass, its JSON form, and the named presets. Imports no JAX."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flair_jax.errors import ConfigError

DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "full")


# No model comes near these; a description with more is damaged or hostile, and nothing of its size may be made.
_MOST = {"image_size": 1 << 14, "layers": 1 << 12, "context_length": 1 << 20, "vocab_size": 1 << 24, "unroll": 1 << 12}
_MOST_OF_WIDTHS, _MOST_OF_FLOATS = 1 << 17, 1000
_MOST_BYTES = 1 << 20  # of a JSON file


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Vision transformer: pictures of `image_size` pixels a side in patches of `patch_size`."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    head_width: int = 64
    mlp_ratio: float = 4.0

    @property
    def heads(self) -> int:
        return self.width // self.head_width

    @property
    def grid(self) -> int:
        """Patches along one side of the picture."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Causal text transformer over `vocab_size` byte-pair tokens."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    layers: int = 12
    heads: int = 8
    mlp_ratio: float = 4.0


@dataclasses.dataclass(frozen=True)
class FlairConfig:
    """All that defines a FLAIR model, and how it is computed.

    Attributes:
      embed_dim: width D of the space that pictures and texts share.
      vision: the vision tower.
      text: the text tower.
      pooling_heads: heads of the text-conditioned pooling.
      quick_gelu: the activation of both towers' MLPs: x * sigmoid(1.702 x), as in OpenAI's CLIP, instead of the exact
        (erf) GELU, FLAIR's own. It belongs to the weights, and no tensor shows it.
      init_logit_scale: initial log of the factor on cosine similarities.
      init_logit_bias: initial logit bias.
      dtype: compute dtype, "float32" or "bfloat16". Parameters are float32 either way, as are LayerNorm statistics,
        softmax and normalisation. "float32" asks for full float32 matrix products on every platform.
      remat: what the backward pass recomputes: "none", "dots" (all but matrix products) or "full" (whole blocks).
      unroll: how many of the stacked layers each step of the layer loop runs; changes speed only.
    """

    embed_dim: int = 512
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    pooling_heads: int = 8
    quick_gelu: bool = False
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float = -10.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigError if a number cannot be, the sizes do not fit together, or a setting is unknown."""
        for prefix, part in (("", self), ("vision.", self.vision), ("text.", self.text)):
            for field in dataclasses.fields(part):
                if field.type in ("int", "float"):
                    _check_number(f"{prefix}{field.name}", getattr(part, field.name), field)
        divisions = (
            ("vision.image_size", self.vision.image_size, "vision.patch_size", self.vision.patch_size),
            ("vision.width", self.vision.width, "vision.head_width", self.vision.head_width),
            ("text.width", self.text.width, "text.heads", self.text.heads),
            ("embed_dim", self.embed_dim, "pooling_heads", self.pooling_heads),
        )
        for name, size, divisor_name, divisor in divisions:
            if size % divisor:
                raise ConfigError(f"{name}={size} is not a positive multiple of {divisor_name}={divisor}")
        for name, tower in (("vision", self.vision), ("text", self.text)):
            if int(tower.width * tower.mlp_ratio) < 1:
                raise ConfigError(f"{name}.mlp_ratio={tower.mlp_ratio} leaves no hidden unit of width {tower.width}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
        if self.remat not in REMAT_POLICIES:
            raise ConfigError(f"remat={self.remat!r} is unknown; choose one of {', '.join(REMAT_POLICIES)}")


def _check_number(name: str, value: Any, field: dataclasses.Field[Any]) -> None:
    """Raises ConfigError if a number is of another type, or outside of what any model has."""
    kinds = (int,) if field.type == "int" else (int, float)
    low = 1 if field.type == "int" else -_MOST_OF_FLOATS if name.startswith("init_") else 0
    high = _MOST_OF_FLOATS if field.type == "float" else _MOST.get(field.name, _MOST_OF_WIDTHS)
    # Written so that NaN fails.
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ConfigError(
            f"{name}={reprlib.repr(value)} must be a {'whole ' if kinds == (int,) else ''}number from {low} to {high}"
        )


# Fields of the JSON form, which is the one the PyTorch release uses: JSON name -> dataclass name. Compute settings are
# not in it: they belong to a run, not to a checkpoint.
_TOP_FIELDS = ("embed_dim", "pooling_heads", "init_logit_scale", "init_logit_bias")
_TOWERS: dict[str, type] = {"vision_cfg": VisionConfig, "text_cfg": TextConfig}
# What a checkpoint's description has besides: where its weights come from, and their digests.
_NOTES = ("source", "digests")


def config_to_json(config: FlairConfig) -> dict[str, Any]:
    """The model's description in the form of the PyTorch release's model files."""
    return {
        **{name: getattr(config, name) for name in _TOP_FIELDS},
        # As open_clip writes it; what was written before there was a choice means the same.
        **({"quick_gelu": True} if config.quick_gelu else {}),
        "vision_cfg": dataclasses.asdict(config.vision),
        "text_cfg": dataclasses.asdict(config.text),
    }


def config_to_release_json(config: FlairConfig) -> dict[str, Any]:
    """The model's description as the PyTorch release's constructor takes it, for what leaves this project.

    That constructor always makes 8 pooling heads and has no setting for it: `pooling_heads` is there only for a model
    with another number, which it then refuses instead of computing something else.
    """
    description = config_to_json(config)
    for name in ("pooling_heads", "init_logit_scale"):
        if description[name] == getattr(FlairConfig, name):
            del description[name]
    description["vision_cfg"]["output_tokens"] = True  # its tower gives local tokens only if told to
    return description


def config_from_json(data: Mapping[str, Any], where: str = "model description") -> FlairConfig:
    """Reads the form that `config_to_json` writes and the PyTorch release ships.

    Args:
      data: `embed_dim`, `vision_cfg`, `text_cfg` and optionally `pooling_heads`, `init_logit_scale`, `init_logit_bias`,
        `quick_gelu`. Sizes that are left out take the release's defaults; `quick_gelu` is false then, as in open_clip.
        What our own files note beside the model is passed over, as all but `model_cfg` of an `open_clip_config.json`.
      where: what to call the source in an error.

    Raises:
      ConfigError: if a field is missing, unknown or of the wrong type.
    """
    if isinstance(data, Mapping) and "model_cfg" in data:
        data, where = data["model_cfg"], f"{where}, `model_cfg`"
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a JSON object, found {type(data).__name__}")
    for name in ("embed_dim", *_TOWERS):
        if name not in data:
            raise ConfigError(f"{where}: `{name}` is missing")
    unknown = [name for name in data if name not in (*_TOP_FIELDS, *_TOWERS, "quick_gelu", *_NOTES)]
    towers = {}
    for name, tower in _TOWERS.items():
        if not isinstance(data[name], Mapping):
            raise ConfigError(f"{where}: `{name}` must be an object")
        # The release's files say `output_tokens: true` of a tower; FLAIR's towers always give their tokens.
        fields = {key: value for key, value in data[name].items() if key != "output_tokens"}
        known = {field.name: field.type for field in dataclasses.fields(tower)}
        unknown += [f"{name}.{key}" for key in fields if key not in known]
        if not unknown:
            numbers = {
                key: _number(value, f"{where}: `{name}.{key}`", whole=known[key] == "int")
                for key, value in fields.items()
            }
            towers[name] = tower(**numbers)
    if unknown:
        names = ", ".join(name if name.replace(".", "").isidentifier() else reprlib.repr(name) for name in unknown[:9])
        raise ConfigError(f"{where}: unknown field(s) {names}; this model has no such setting")
    top = {
        name: _number(data[name], f"{where}: `{name}`", whole=name in ("embed_dim", "pooling_heads"))
        for name in _TOP_FIELDS
        if name in data
    }
    quick_gelu = data.get("quick_gelu", False)
    if not isinstance(quick_gelu, bool):
        raise ConfigError(f"{where}: `quick_gelu` must be true or false, found {reprlib.repr(quick_gelu)}")
    try:
        return FlairConfig(vision=towers["vision_cfg"], text=towers["text_cfg"], quick_gelu=quick_gelu, **top)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _number(value: Any, where: str, whole: bool) -> Any:
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
      ValueError: if it is something else; the words say what.
    """
    if path.stat().st_size > _MOST_BYTES:
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
        raise ValueError("a name stands there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_config(name_or_path: str | Path) -> FlairConfig:
    """A preset by its name, or a model description from a JSON file.

    Raises:
      ConfigError: if it is neither, or the file cannot be read.
    """
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(f"{name_or_path}: neither a JSON file nor a preset; the presets are {', '.join(PRESETS)}")
    try:
        data = read_json_object(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from None
    return config_from_json(data, where=str(path))


_VISION_L = VisionConfig(patch_size=14, width=1024, layers=24)
_TEXT_L = TextConfig(width=768, heads=12)

# ViT-B-16-FLAIR is the released model; the others have the published ViT and CLIP shapes, for research, and no weights.
# Those that end in -quickgelu take OpenAI's towers.
PRESETS: dict[str, FlairConfig] = {
    "ViT-B-16-FLAIR": FlairConfig(),
    "ViT-B-32-FLAIR": FlairConfig(vision=VisionConfig(patch_size=32)),
    "ViT-L-14-FLAIR": FlairConfig(embed_dim=768, vision=_VISION_L, text=_TEXT_L),
    "ViT-L-16-FLAIR": FlairConfig(embed_dim=768, vision=dataclasses.replace(_VISION_L, patch_size=16), text=_TEXT_L),
    "tiny": FlairConfig(
        embed_dim=64,
        vision=VisionConfig(image_size=64, patch_size=16, width=96, layers=2, head_width=24),
        text=TextConfig(width=64, layers=2, heads=4),
    ),
    "scenes": FlairConfig(  # of the demonstration
        embed_dim=128,
        vision=VisionConfig(image_size=64, patch_size=8, width=64, layers=2, head_width=16),
        text=TextConfig(context_length=28, width=64, layers=2, heads=4),
    ),
}
PRESETS |= {
    f"{name}-quickgelu": dataclasses.replace(PRESETS[name], quick_gelu=True)
    for name in ("ViT-B-16-FLAIR", "ViT-B-32-FLAIR", "ViT-L-14-FLAIR")
}
