"""Writes a checkpoint as StableHLO; `stablehlo` describes the result, and reads it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from flair_jax import checkpoint
from flair_jax.convert.folder import preprocessing
from flair_jax.convert.stablehlo import DESCRIPTION, FILES, FORMAT, PARAMS, digest, digest_of_file, require_flatbuffers
from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.errors import CheckpointError
from flair_jax.files import absolute, expand, replace_when_complete
from flair_jax.models.description import config_to_json
from flair_jax.models.flair import Flair
from flair_jax.weights.locate import locate
from flair_jax.weights.read import check_finite
from flair_jax.weights.write import save_safetensors

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class _Function:
    """What is exported under a name: a method of `Flair`, the prefix of its parameters, its arguments and results."""

    params: str
    arguments: dict[str, jax.ShapeDtypeStruct]
    results: tuple[str, ...]


def export(
    source: str | Path, target: str | Path, *, dtype: str = "float32", model: Flair | None = None
) -> dict[str, Any]:
    """Writes a checkpoint's `encode_image`, `encode_text` and `pool`, with their parameters, as a folder.

    Args:
      source: a checkpoint, as `flair_jax.load` takes it.
      target: folder to make, NAME.stablehlo; an older export there is replaced.
      dtype: compute dtype, "float32" or "bfloat16"; parameters, arguments and results are float32 either way.
      model: the checkpoint's model, if it has modules of its own; see `flair_jax.load`. `dtype` is then its config's.

    Returns:
      The contents of the folder's `description.json`.

    Raises:
      CheckpointError: if `source` is no checkpoint, or `target` exists and is something else.
      FlairError: if flatbuffers is not installed.
    """
    require_flatbuffers(f"writing {target}")
    target = absolute(expand(target))
    if target.exists() and not (target.is_dir() and {entry.name for entry in target.iterdir()} <= set(FILES)):
        raise CheckpointError(f"{target}: exists and is not an exported model; choose another name or remove it")
    source = locate(source)
    model, nested = checkpoint.load(source, model=model, dtype=dtype)
    # By XLA on every platform: an export is for all of them, and its batch has no fixed size.
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, attention="xla"))
    tokenizer = find_tokenizer(model.config.text.tokenizer)
    params = flatten_dict(jax.device_get(nested), sep="/")
    check_finite(source, params)
    exported = {name: (function, _export(model, name, function, params)) for name, function in _table(model).items()}
    files = {name: bytes(each.serialize(vjp_order=0)) for name, (_, each) in exported.items()}
    description = {
        "format": FORMAT,
        "functions": {
            name: {**_signature(function, each), "sha256": digest(files[name])}
            for name, (function, each) in exported.items()
        },
        "compute_dtype": model.config.dtype,
        "platforms": list(PLATFORMS),
        "calling_convention_version": exported["pool"][1].calling_convention_version,
        "versions": {name: metadata.version(name) for name in ("flair-jax", "jax", "jaxlib")},
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
    with replace_when_complete(target) as partial:
        partial.mkdir()
        for name, content in files.items():
            (partial / f"{name}.bin").write_bytes(content)
        save_safetensors(partial / PARAMS, params)
        description["params"] = {"sha256": digest_of_file(partial / PARAMS)}
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return description


def _table(model: Flair) -> dict[str, _Function]:
    vision, text, width = model.config.vision, model.config.text, model.config.embed_dim
    images, texts = jax_export.symbolic_shape("B, N")
    pictures = jax.ShapeDtypeStruct((images, vision.image_size, vision.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((texts, text.context_length), jnp.int32)
    local = jax.ShapeDtypeStruct((images, vision.grid**2, width), jnp.float32)
    features = jax.ShapeDtypeStruct((texts, width), jnp.float32)
    return {
        "encode_image": _Function("vision/", {"images": pictures}, ("global", "local")),
        "encode_text": _Function("text/", {"tokens": tokens}, ("text",)),
        "pool": _Function("pooling/", {"local": local, "text": features}, ("pooled",)),
    }


def _export(model: Flair, name: str, function: _Function, params: dict[str, Any]) -> jax_export.Exported:
    method: Callable[..., Any] = getattr(model, name)

    def run(part: dict[str, Any], *arrays: jax.Array) -> Any:
        # The module wants its scalars bound, though no feature depends on them.
        return method(unflatten_dict({**part, "logit_scale": 0.0, "logit_bias": 0.0}, sep="/"), *arrays)

    run.__name__ = name
    part = {
        key: jax.ShapeDtypeStruct(value.shape, value.dtype)
        for key, value in params.items()
        if key.startswith(function.params)
    }
    return jax_export.export(jax.jit(run), platforms=PLATFORMS)(part, *function.arguments.values())


def _signature(function: _Function, exported: jax_export.Exported) -> dict[str, Any]:
    return {
        "params": function.params,
        "arguments": {name: _shaped(each) for name, each in function.arguments.items()},
        "results": {name: _shaped(each) for name, each in zip(function.results, exported.out_avals, strict=True)},
    }


def _shaped(array: Any) -> dict[str, Any]:
    sizes = [size if isinstance(size, int) else str(size) for size in array.shape]
    return {"shape": sizes, "dtype": str(array.dtype)}
