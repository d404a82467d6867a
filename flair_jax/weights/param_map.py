"""The one table that says which PyTorch tensor is which parameter, used in both directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from flair_jax.errors import FlairError, plural
from flair_jax.models.config import FlairConfig
from flair_jax.models.flair import Flair, Params
from flair_jax.models.module import FlairModule


class ConversionError(FlairError):
    """A weight file that is not, tensor for tensor, the model it should be."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One PyTorch tensor and the parameter, or the parameters packed into it, that it becomes.

    Attributes:
      torch: the tensor's name; `{}` stands for the layer where layers are stacked.
      params: paths in the parameter tree; several split the tensor's first axis into equal parts.
      axes: a parameter is the (part of the) tensor transposed by these axes; empty: as it is.
    """

    torch: str
    params: tuple[str, ...]
    axes: tuple[int, ...] = ()


LINEAR = (1, 0)  # [out, in] -> [in, out]
CONV = (2, 3, 1, 0)  # [out, in, height, width] -> [height, width, in, out]


def layer_norm_rows(torch: str, params: str) -> list[Row]:
    """A LayerNorm by its names in PyTorch and in the parameter tree."""
    return [Row(f"{torch}.weight", (f"{params}/scale",)), Row(f"{torch}.bias", (f"{params}/bias",))]


def linear_rows(torch: str, params: str) -> list[Row]:
    """A linear layer with a bias, likewise."""
    return [Row(f"{torch}.weight", (f"{params}/kernel",), LINEAR), Row(f"{torch}.bias", (f"{params}/bias",))]


def packed_attention_rows(torch: str, params: str) -> list[Row]:
    """A `torch.nn.MultiheadAttention`, likewise."""
    packed = [f"{params}/{name}" for name in ("query", "key", "value")]
    return [
        Row(f"{torch}.in_proj_weight", tuple(f"{name}/kernel" for name in packed), LINEAR),
        Row(f"{torch}.in_proj_bias", tuple(f"{name}/bias" for name in packed)),
        *linear_rows(f"{torch}.out_proj", f"{params}/out"),
    ]


def _blocks(torch: str, params: str) -> list[Row]:
    torch += ".resblocks.{}"
    return [
        *layer_norm_rows(f"{torch}.ln_1", f"{params}/ln_1"),
        *packed_attention_rows(f"{torch}.attn", f"{params}/attention"),
        *layer_norm_rows(f"{torch}.ln_2", f"{params}/ln_2"),
        *linear_rows(f"{torch}.mlp.c_fc", f"{params}/mlp/up"),
        *linear_rows(f"{torch}.mlp.c_proj", f"{params}/mlp/down"),
    ]


TABLE: tuple[Row, ...] = (
    Row("positional_embedding", ("text/position_embedding",)),
    Row("logit_scale", ("logit_scale",)),
    Row("logit_bias", ("logit_bias",)),
    Row("visual.class_embedding", ("vision/class_token",)),
    Row("visual.positional_embedding", ("vision/position_embedding",)),
    Row("visual.conv1.weight", ("vision/patch_embedding",), CONV),
    *layer_norm_rows("visual.ln_pre", "vision/ln_pre"),
    *_blocks("visual.transformer", "vision/blocks"),
    *layer_norm_rows("visual.ln_post", "vision/ln_post"),
    *packed_attention_rows("visual_proj.attn", "pooling"),
    *layer_norm_rows("visual_proj.ln_q", "pooling/ln_q"),
    *layer_norm_rows("visual_proj.ln_k", "pooling/ln_k"),
    *layer_norm_rows("visual_proj.ln_v", "pooling/ln_v"),
    *_blocks("transformer", "text/blocks"),
    Row("token_embedding.weight", ("text/token_embedding",)),
    *layer_norm_rows("ln_final", "text/ln_final"),
    Row("image_post.proj", ("vision/projection/kernel",)),
    Row("text_post.proj", ("text/projection/kernel",)),
)


def _layers(row: Row, config: FlairConfig) -> int | None:
    """How many tensors a row stands for; None if it is a single one."""
    if "{}" not in row.torch:
        return None
    return (config.vision if row.params[0].startswith("vision/") else config.text).layers


def _tensor_names(row: Row, config: FlairConfig) -> list[str]:
    layers = _layers(row, config)
    return [row.torch] if layers is None else [row.torch.format(layer) for layer in range(layers)]


def torch_shapes(config: FlairConfig, rows: Iterable[Row] = TABLE) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that rows take of the PyTorch model that `config` describes."""
    params = flatten_dict(Flair(config).abstract_params(), sep="/")
    shapes = {}
    for row in rows:
        shape = params[row.params[0]].shape
        if _layers(row, config) is not None:
            shape = shape[1:]
        shape = tuple(shape[axis] for axis in np.argsort(row.axes)) if row.axes else shape
        if len(row.params) > 1:
            shape = (len(row.params) * shape[0], *shape[1:])
        shapes.update(dict.fromkeys(_tensor_names(row, config), shape))
    return shapes


def params_from_torch(tensors: Mapping[str, np.ndarray], config: FlairConfig, rows: Sequence[Row] = TABLE) -> Params:
    """The parameter tree from a PyTorch state dict; every tensor is used exactly once.

    Args:
      tensors: name -> array of any floating-point dtype.
      config: the model that they should be.
      rows: the table of a layout other than FLAIR's.

    Returns:
      Nested dict of float32 NumPy arrays: of what rows name, which of FLAIR's is all.

    Raises:
      ConversionError: naming every tensor that is missing, left over, misshapen or not floating-point.
    """
    _check_tensors(tensors, torch_shapes(config, rows))
    params = {}
    for row in rows:
        layers = [np.asarray(tensors[name], np.float32) for name in _tensor_names(row, config)]
        parts = [np.split(layer, len(row.params)) if len(row.params) > 1 else [layer] for layer in layers]
        for path, part in zip(row.params, zip(*parts, strict=True), strict=True):
            arrays = [array.transpose(row.axes) if row.axes else array for array in part]
            params[path] = np.array(arrays[0], order="C") if _layers(row, config) is None else np.stack(arrays)
    return unflatten_dict(params, sep="/")


def torch_from_params(params: Params, config: FlairConfig) -> dict[str, np.ndarray]:
    """The PyTorch state dict from a parameter tree: the exact inverse of `params_from_torch`."""
    return _tensors(TABLE, params, config)


def _tensors(rows: Iterable[Row], params: Params, config: FlairConfig) -> dict[str, np.ndarray]:
    flat = {path: np.asarray(array) for path, array in flatten_dict(params, sep="/").items()}
    tensors = {}
    for row in rows:
        inverse = tuple(np.argsort(row.axes))
        for layer, name in enumerate(_tensor_names(row, config)):
            stacked = _layers(row, config) is not None
            parts = [flat[path][layer] if stacked else flat[path] for path in row.params]
            parts = [part.transpose(inverse) if row.axes else part for part in parts]
            # Always a new array in C order: safetensors writes the bytes as they lie in memory.
            joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
            tensors[name] = np.array(joined, order="C")
    return tensors


# Tensors of open_clip's CLIP that FLAIR has under another name, and those that it does not take over: CLIP's scale
# belongs to a softmax over the batch, not to a sigmoid with a bias.
_CLIP_NAMES = {"visual.proj": "image_post.proj", "text_projection": "text_post.proj"}
_CLIP_DROPPED = ("logit_scale", "logit_bias")


def is_clip(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict is a CLIP of open_clip: projections inside its towers, and no pooling."""
    return set(_CLIP_NAMES) <= set(tensors) and not any(name.startswith("visual_proj.") for name in tensors)


def towers_of_clip(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """CLIP's towers and projections under FLAIR's names; the pooling, scale and bias are missing."""
    return {_CLIP_NAMES.get(name, name): tensor for name, tensor in tensors.items() if name not in _CLIP_DROPPED}


def complete(tensors: Mapping[str, np.ndarray], config: FlairConfig) -> dict[str, np.ndarray]:
    """The towers of `towers_of_clip` with a pooling, scale and bias drawn as for training from nothing (seed 0)."""
    local, text = jnp.zeros((1, 1, config.embed_dim)), jnp.zeros((1, config.embed_dim))
    # What is drawn depends on a parameter's name alone, so the towers need not be drawn.
    drawn = FlairModule(config).init(
        jax.random.key(0),
        *(local, text),
        method=lambda module, *arrays: (module.pooling(*arrays), module.logit_scale, module.logit_bias),
    )
    rows = [row for row in TABLE if row.torch.startswith("visual_proj.") or row.torch in _CLIP_DROPPED]
    return {**_tensors(rows, jax.device_get(drawn["params"]), config), **tensors}


def _check_tensors(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"missing: {name} {list(shape)}" for name, shape in shapes.items() if name not in tensors]
    problems += [f"left over: {name} {list(np.shape(tensors[name]))}" for name in tensors if name not in shapes]
    for name, shape in shapes.items():
        if name not in tensors:
            continue
        if tensors[name].shape != shape:
            problems.append(f"wrong shape: {name} is {list(tensors[name].shape)}, the model needs {list(shape)}")
        elif not jnp.issubdtype(tensors[name].dtype, np.floating):
            problems.append(f"not floating-point: {name} is {tensors[name].dtype}")
    if problems:
        raise ConversionError(
            f"the tensors do not fit the model, {plural(len(problems), 'problem')}:\n  " + "\n  ".join(problems)
        )
