"""What defines a model: its sizes, its conventions and its compute settings, as frozen dataclasses. Imports no JAX.

Everything that weights were trained with and no tensor shows is decided here and nowhere else: activation, epsilon of
the LayerNorms, how images are resized and normalised, tokenizer, the end-of-text token, and whether the text tower is
causal. `flair_jax.models.description` is the JSON form, `flair_jax.models.presets` has the named models.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from typing import Any

from flair_jax.errors import ConfigError

DTYPES = ("float32", "bfloat16")
# Fields of `FlairConfig` that belong to a run, and not to the weights.
COMPUTE_SETTINGS = ("dtype", "remat", "unroll", "attention", "residual_dtype")
REMAT_POLICIES = ("none", "dots", "attention", "full")  # from the least to the most that is computed again
ATTENTIONS = ("auto", "xla", "cudnn", "pallas")
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZE_MODES = ("shortest", "longest", "squash")

# No model comes near these; a description beyond them is damaged or hostile, and must allocate nothing.
_MOST = {"image_size": 1 << 14, "layers": 1 << 12, "context_length": 1 << 20, "vocab_size": 1 << 24, "unroll": 1 << 12}
_MOST |= {"fill_color": 255}
_MOST_OF_WIDTHS, _MOST_OF_FLOATS = 1 << 17, 1000

# A convention, unlike a size, is written into a description only where it is not the default: what was written before
# there was a choice means the default too.
_CONVENTION = {"convention": True}


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Vision tower: images of `image_size` pixels a side, in patches of `patch_size`.

    Attributes:
      image_size: S, pixels of a side.
      patch_size: pixels of a patch's side.
      width: W of the tower's layers.
      layers: how many.
      head_width: C, width of an attention head.
      mlp_ratio: hidden units of an MLP, as a multiple of its width.
      layer_norm_eps: epsilon that each LayerNorm adds to the variance.
      image_mean: mean of the red, green and blue channels of pixels scaled to [0, 1], which is subtracted from them.
      image_std: their standard deviation, by which the difference is divided.
      interpolation: how pictures are resized, always antialiased: "bicubic" or "bilinear".
      resize_mode: what becomes of a picture that is no square: "shortest", the shorter side is resized to S and the
        centre cut out; "longest", the longer side is, and the rest filled; "squash", both are.
      fill_color: of the rest, from 0 to 255 in each channel.
      tower: which module it is, a name in `flair_jax.models.towers.VISION_TOWERS`.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    head_width: int = 64
    mlp_ratio: float = 4.0
    layer_norm_eps: float = dataclasses.field(default=1e-5, metadata=_CONVENTION)
    # Of CLIP's training images (Radford et al. 2021), which FLAIR keeps. A description has them in `preprocess_cfg`.
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0
    tower: str = dataclasses.field(default="clip", metadata=_CONVENTION)

    @property
    def heads(self) -> int:
        """Attention heads of the tower's layers."""
        return self.width // self.head_width

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Text tower over `vocab_size` tokens.

    Attributes:
      context_length: T, the most tokens that the tower reads, those of start and end included.
      vocab_size: V; token ids are below it.
      width: W of the tower's layers.
      layers: how many.
      heads: attention heads of a layer.
      mlp_ratio: hidden units of an MLP, as a multiple of its width.
      layer_norm_eps: epsilon that each LayerNorm adds to the variance.
      tokenizer: its name in `flair_jax.data.tokenizer.TOKENIZERS`.
      end_of_text_id: id of the token whose first occurrence gives the text's feature; None: the highest id of the row,
        as in CLIP.
      causal: whether a token attends only to itself and those before it. Then whatever follows the end of a text
        changes nothing; otherwise padding is attended to like any other token.
      tower: which module it is, a name in `flair_jax.models.towers.TEXT_TOWERS`.
    """

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    layers: int = 12
    heads: int = 8
    mlp_ratio: float = 4.0
    layer_norm_eps: float = dataclasses.field(default=1e-5, metadata=_CONVENTION)
    tokenizer: str = dataclasses.field(default="clip", metadata=_CONVENTION)
    end_of_text_id: int | None = dataclasses.field(default=None, metadata=_CONVENTION)
    causal: bool = dataclasses.field(default=True, metadata=_CONVENTION)
    tower: str = dataclasses.field(default="clip", metadata=_CONVENTION)


@dataclasses.dataclass(frozen=True)
class FlairConfig:
    """All that defines a FLAIR model, and how it is computed.

    Attributes:
      embed_dim: width D of the space that images and texts share.
      vision: the vision tower.
      text: the text tower.
      pooling_heads: heads of the text-conditioned pooling.
      pooling_layer_norm_eps: epsilon that each of its LayerNorms adds to the variance.
      quick_gelu: the activation of both towers' MLPs: x * sigmoid(1.702 x), as in OpenAI's CLIP, instead of the exact
        (erf) GELU, FLAIR's own. It belongs to the weights, and no tensor shows it.
      init_logit_scale: initial log of the factor on cosine similarities.
      init_logit_bias: initial logit bias.
      dtype: compute dtype, "float32" or "bfloat16". Parameters are float32 either way, as are LayerNorm statistics,
        softmax and normalisation. "float32" asks for full float32 matrix products on every platform.
      remat: rematerialisation in the backward pass: "none", "dots" (all but matrix products and attention), "attention"
        (all but what attention takes and gives) or "full" (whole blocks).
      unroll: how many of the stacked layers each step of the layer loop runs; changes speed only.
      attention: who computes the towers' attention: "xla", "cudnn" (NVIDIA GPUs), "pallas" (the project's kernel for
        TPUs; interpreted elsewhere), or "auto": what is expected to be fastest where it runs, see docs/attention.md.
      residual_dtype: of the towers' residual stream, "float32" as under PyTorch's autocast, or "bfloat16", which needs
        `dtype` to be that too: less memory and traffic, and features that differ more; docs/model.md has how much.
    """

    embed_dim: int = 512
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    pooling_heads: int = 8
    pooling_layer_norm_eps: float = dataclasses.field(default=1e-5, metadata=_CONVENTION)
    quick_gelu: bool = dataclasses.field(default=False, metadata=_CONVENTION)
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float = -10.0
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    residual_dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raises ConfigError if a number is invalid, the sizes do not fit together, or a setting is unknown."""
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
        _check_conventions(self.vision, self.text)
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
        if self.residual_dtype not in DTYPES or DTYPES.index(self.residual_dtype) > DTYPES.index(self.dtype):
            raise ConfigError(
                f"residual_dtype={self.residual_dtype!r} with dtype={self.dtype!r}: it is float32, or bfloat16 where "
                "dtype is that too"
            )
        if self.attention not in ATTENTIONS:
            raise ConfigError(f"attention={self.attention!r} is unknown; choose one of {', '.join(ATTENTIONS)}")
        if self.remat not in REMAT_POLICIES:
            raise ConfigError(f"remat={self.remat!r} is unknown; choose one of {', '.join(REMAT_POLICIES)}")


def is_convention(field: dataclasses.Field[Any]) -> bool:
    """Whether a description has the field only where it is not the default."""
    return bool(field.metadata.get("convention"))


def _check_number(name: str, value: Any, field: dataclasses.Field[Any]) -> None:
    """Raises ConfigError if a number is of another type, or outside the range of any model."""
    kinds = (int,) if field.type == "int" else (int, float)
    low = -_MOST_OF_FLOATS if name.startswith("init_") else 0
    if field.type == "int" and field.name != "fill_color":
        low = 1
    high = _MOST_OF_FLOATS if field.type == "float" else _MOST.get(field.name, _MOST_OF_WIDTHS)
    # Written so that NaN fails.
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ConfigError(
            f"{name}={reprlib.repr(value)} must be a {'whole ' if kinds == (int,) else ''}number from {low} to {high}"
        )


def _check_conventions(vision: VisionConfig, text: TextConfig) -> None:
    """Raises ConfigError if how images are prepared, or the id of the end of a text, is invalid."""
    for name, values, low in (
        ("image_mean", vision.image_mean, -_MOST_OF_FLOATS),
        ("image_std", vision.image_std, 1e-6),
    ):
        in_range = isinstance(values, tuple) and all(low <= value <= _MOST_OF_FLOATS for value in values)
        if not in_range or len(values) != 3:
            raise ConfigError(
                f"vision.{name}={reprlib.repr(values)} must be a tuple of three numbers, of pixels from 0 to 1"
            )
    for name, known in (("interpolation", INTERPOLATIONS), ("resize_mode", RESIZE_MODES)):
        value = getattr(vision, name)
        if value not in known:
            raise ConfigError(f"vision.{name}={reprlib.repr(value)} is unknown; choose one of {', '.join(known)}")
    if text.end_of_text_id is not None and not 0 <= text.end_of_text_id < text.vocab_size:
        raise ConfigError(
            f"text.end_of_text_id={text.end_of_text_id} must be a token's id, below text.vocab_size={text.vocab_size}"
        )
