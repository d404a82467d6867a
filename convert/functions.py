"""A model's functions as exports give them to other programs, and what the exports say about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from flair_jax import checkpoint
from flair_jax.convert.folder import preprocessing
from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.errors import CheckpointError
from flair_jax.files import absolute, expand
from flair_jax.models.config import FlairConfig
from flair_jax.models.description import config_to_json
from flair_jax.models.flair import Flair
from flair_jax.weights.locate import locate
from flair_jax.weights.read import check_finite

FlatParams = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Function:
    """What is exported under a name.

    Attributes:
      params: what the names of its parameters begin with.
      run: a function of these parameters, flat, and of arrays.
      arguments: name -> shape, in which B and N are free, and dtype.
      results: names of what `run` returns.
    """

    params: str | tuple[str, ...]
    run: Callable[..., Any]
    arguments: dict[str, jax.ShapeDtypeStruct]
    results: tuple[str, ...]

    def own(self, params: FlatParams) -> FlatParams:
        """Its share of all parameters."""
        return {name: each for name, each in params.items() if name.startswith(self.params)}


@dataclasses.dataclass(frozen=True)
class Exported:
    """A checkpoint, read for export.

    Attributes:
      model: computes by XLA on every platform: an export is for all of them, and its batch has no fixed size.
      params: name -> float32 array.
      description: what is said about the model, whatever the form of the export.
    """

    model: Flair
    params: dict[str, np.ndarray]
    description: dict[str, Any]


def read(source: str | Path, dtype: str, model: Flair | None) -> Exported:
    """Reads a checkpoint for export; arguments as in `stablehlo_export.export`.

    Raises:
      CheckpointError: if `source` is no checkpoint.
      ConversionError: if a weight is NaN or infinite.
    """
    source = locate(source)
    model, nested = checkpoint.load(source, model=model, dtype=dtype)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, attention="xla"))
    params = flatten_dict(jax.device_get(nested), sep="/")
    check_finite(source, params)
    tokenizer = find_tokenizer(model.config.text.tokenizer)
    description = {
        "preprocessing": preprocessing(model.config),
        "tokenizer": {
            "name": tokenizer.description,
            "context_length": model.config.text.context_length,
            "vocab_size": model.config.text.vocab_size,
            "padding": tokenizer.padding,
        },
        "model": config_to_json(model.config),
        "source": checkpoint.read_description(source).get("source", {}),
    }
    return Exported(model, params, description)


def target_folder(target: str | Path, files: Collection[str]) -> Path:
    """The folder to make; `files` are those of an older export there, which is replaced.

    Raises:
      CheckpointError: if it is there and something else.
    """
    target = absolute(expand(target))
    if target.exists() and not (target.is_dir() and {entry.name for entry in target.iterdir()} <= set(files)):
        raise CheckpointError(f"{target}: exists and is not an exported model; choose another name or remove it")
    return target


def functions(model: Flair) -> dict[str, Function]:
    """`encode_image`, `encode_text` and `pool`, as methods of `Flair`."""
    vision, text, width = model.config.vision, model.config.text, model.config.embed_dim
    images, texts = jax_export.symbolic_shape("B, N")
    pictures = jax.ShapeDtypeStruct((images, vision.image_size, vision.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((texts, text.context_length), jnp.int32)
    local = jax.ShapeDtypeStruct((images, vision.grid**2, width), jnp.float32)
    features = jax.ShapeDtypeStruct((texts, width), jnp.float32)
    return {
        "encode_image": Function("vision/", flat(model.encode_image), {"images": pictures}, ("global", "local")),
        "encode_text": Function("text/", flat(model.encode_text), {"tokens": tokens}, ("text",)),
        "pool": Function("pooling/", flat(model.pool), {"local": local, "text": features}, ("pooled",)),
    }


def flat(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of `Flair` as a function of flat parameters, of which there need be no more than it uses."""

    def run(part: FlatParams, *arrays: Any) -> Any:
        # The module wants its scalars bound, though not every result depends on them.
        return method(unflatten_dict({"logit_scale": 0.0, "logit_bias": 0.0, **part}, sep="/"), *arrays)

    run.__name__ = method.__name__
    return run


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of what wrote an export."""
    return {name: metadata.version(name) for name in ("flair-jax", *packages)}


def shaped(arrays: dict[str, Any]) -> dict[str, Any]:
    """Shapes and dtypes by name, for the description."""
    return {
        name: {
            "shape": [size if isinstance(size, int) else str(size) for size in array.shape],
            "dtype": str(array.dtype),
        }
        for name, array in arrays.items()
    }


def random_inputs(config: FlairConfig, images: int, texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Fixed random images [B, S, S, 3] and tokens [N, T] that end at the last position, for comparisons."""
    rng = np.random.default_rng(0)
    size, text = config.vision.image_size, config.text
    pictures = rng.standard_normal((images, size, size, 3), dtype=np.float32)
    tokens = rng.integers(1, text.vocab_size - 1, (texts, text.context_length), dtype=np.int32)
    tokens[:, -1] = text.vocab_size - 1 if text.end_of_text_id is None else text.end_of_text_id
    return pictures, tokens
