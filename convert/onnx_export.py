"""Writes a checkpoint as ONNX, for programs without JAX.

`flair-jax export CHECKPOINT NAME.onnx` writes a folder:

    encode_image.onnx    functions for any number of images and texts, with their parameters in float32
    encode_text.onnx
    pool.onnx            text-conditioned logits, features and attention weights
    description.json     arguments and results, preprocessing, versions; each file has the same in its metadata
    tokenizer.json       for the library `tokenizers`, transformers and transformers.js
    README.md            how to use them with NumPy and Pillow

ONNX Runtime has computed each function, and given what JAX gives, before the folder has its name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flair_jax.convert.functions import (
    Exported,
    FlatParams,
    Function,
    flat,
    functions,
    random_inputs,
    read,
    shaped,
    target_folder,
    versions,
)
from flair_jax.convert.onnx_graph import OPSET, require_onnx, to_onnx
from flair_jax.convert.onnx_guide import GUIDE, TOKENIZER, guide
from flair_jax.convert.tokenizer_file import tokenizer_file
from flair_jax.convert.transfer import VERIFY_TOLERANCE
from flair_jax.errors import FlairError
from flair_jax.files import replace_when_complete
from flair_jax.models.flair import Flair
from flair_jax.models.normalize import l2_normalize

FORMAT = "flair_jax ONNX 1"
DESCRIPTION = "description.json"
NAMES = ("encode_image", "encode_text", "pool")
FILES = (DESCRIPTION, GUIDE, TOKENIZER, *(f"{name}.onnx" for name in NAMES))

# Protocol buffers hold 2 GiB; the graph itself takes less than the rest.
_MOST_BYTES = 2**31 - 2**24
# Numbers of images and texts with which each function is compared; they differ, so that none is mistaken for the other.
_SIZES = ((1, 1), (2, 3))


def export(source: str | Path, target: str | Path, *, model: Flair | None = None) -> dict[str, Any]:
    """Writes a checkpoint's `encode_image`, `encode_text` and `pool` as a folder of ONNX files.

    Args:
      source: a checkpoint, as `flair_jax.load` takes it.
      target: folder to make, NAME.onnx; an older export there is replaced.
      model: the checkpoint's model, if it has modules of its own; see `flair_jax.load`.

    Returns:
      The contents of the folder's `description.json`.

    Raises:
      CheckpointError: if `source` is no checkpoint, or `target` exists and is something else.
      FlairError: if the extra `onnx` is not installed, a function is too large or has no ONNX form, or ONNX Runtime
        gives something else than JAX.
    """
    require_onnx(f"writing {target}")
    target = target_folder(target, FILES)
    held = read(source, "float32", model)
    if held.model.config.dtype != "float32":
        raise FlairError(
            f"{source}: its module computes in {held.model.config.dtype}, which ONNX Runtime cannot on CPUs; choose a "
            "DST that ends in .stablehlo"
        )
    table = _table(held.model)
    for name, function in table.items():
        _check_size(name, function.own(held.params))
    scalars = {name: float(held.params[name]) for name in ("logit_scale", "logit_bias")}
    description: dict[str, Any] = {
        "format": FORMAT,
        "opset": OPSET,
        "functions": {},
        "logit_scale": float(np.exp(scalars["logit_scale"])),
        "logit_bias": scalars["logit_bias"],
        "versions": versions(("jax", "jax2onnx", "onnxruntime")),
        **held.description,
    }
    with replace_when_complete(target) as partial:
        partial.mkdir()
        for name, function in table.items():
            description["functions"][name] = _write(partial / f"{name}.onnx", function, held, description)
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        (partial / GUIDE).write_text(guide(target.name, held.model.config), encoding="utf-8")
        (partial / TOKENIZER).write_text(tokenizer_file(held.model.config.text), encoding="utf-8")
    return description


def _table(model: Flair) -> dict[str, Function]:
    """The functions of every export, with more results of the pooling, which other programs would have to compute."""
    table = functions(model)
    pool = table["pool"]
    try:
        jax.eval_shape(model.pool_with_weights, model.abstract_params(), *pool.arguments.values())
        has_weights = True
    except FlairError:  # a pooling of its own without them
        has_weights = False

    def score(params: dict[str, Any], local: jax.Array, text: jax.Array) -> tuple[jax.Array, ...]:
        pooled, *weights = (
            model.pool_with_weights(params, local, text) if has_weights else (model.pool(params, local, text),)
        )
        cosines = jnp.sum(l2_normalize(pooled) * l2_normalize(text)[None], axis=-1)
        return jnp.exp(params["logit_scale"]) * cosines + params["logit_bias"], pooled, *weights

    results = ("logits", "pooled", "weights")[: 3 if has_weights else 2]
    return {**table, "pool": Function(("pooling/", "logit_"), flat(score), pool.arguments, results)}


def _check_size(name: str, params: FlatParams) -> None:
    size = sum(each.nbytes for each in params.values())
    if size > _MOST_BYTES:
        raise FlairError(
            f"{name}: has {size / 1e9:.1f} GB of parameters, and an ONNX file holds 2.1 GB; choose a DST that ends in "
            ".stablehlo"
        )


def _write(file: Path, function: Function, held: Exported, description: dict[str, Any]) -> dict[str, Any]:
    """Writes a function, compares it, and returns what the description says of it."""
    import onnx

    own = {name: jnp.asarray(each) for name, each in function.own(held.params).items()}

    def run(*arrays: Any) -> Any:
        return function.run(own, *arrays)

    graph = to_onnx(run, function.arguments, function.results, name=file.stem)
    outputs = jax.tree.leaves(jax.eval_shape(run, *function.arguments.values()))
    said = {
        "arguments": shaped(function.arguments),
        "results": shaped(dict(zip(function.results, outputs, strict=True))),
    }
    texts = {**{key: each for key, each in description.items() if key != "functions"}, **said}
    onnx.helper.set_model_props(
        graph, {key: each if isinstance(each, str) else json.dumps(each) for key, each in texts.items()}
    )
    onnx.save(graph, file)
    difference = _difference(file, function, own, held.model)
    with file.open("rb") as stream:
        return {**said, "largest_difference": difference, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _difference(file: Path, function: Function, params: FlatParams, model: Flair) -> float:
    """The largest difference of ONNX Runtime's results from JAX's, over the largest value of each.

    Raises:
      FlairError: if it exceeds `VERIFY_TOLERANCE`, or there is no result.
    """
    import onnxruntime

    name = file.stem
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    jitted, largest = jax.jit(function.run), 0.0
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for sizes in _SIZES:
            inputs = _inputs(function, model, *sizes)
            theirs = session.run(list(function.results), inputs)
            for one, two in zip(theirs, jax.tree.leaves(jitted(params, *inputs.values())), strict=True):
                # `np.max` keeps NaN, which the comparison below refuses.
                largest = float(np.max([largest, np.abs(one - two).max() / max(np.abs(two).max(), 1e-12)]))
    except Exception as error:  # ONNX Runtime's have no common class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FlairError(
            f"{name}: ONNX Runtime cannot compute it ({reason}); choose a DST that ends in .stablehlo"
        ) from error
    if not largest <= VERIFY_TOLERANCE:
        raise FlairError(
            f"{name}: ONNX Runtime's results differ from JAX's by {largest:.1e} of the largest value, more than "
            f"{VERIFY_TOLERANCE:.0e}; choose a DST that ends in .stablehlo"
        )
    return largest


def _inputs(function: Function, model: Flair, images: int, texts: int) -> dict[str, np.ndarray]:
    pictures, tokens = random_inputs(model.config, images, texts)
    known = {"images": pictures, "tokens": tokens}
    rng = np.random.default_rng(0)

    def draw(wanted: jax.ShapeDtypeStruct) -> np.ndarray:
        sizes = [{"B": images, "N": texts}.get(str(size), size) for size in wanted.shape]
        return rng.standard_normal(sizes, dtype=np.float32)

    return {name: known[name] if name in known else draw(wanted) for name, wanted in function.arguments.items()}
