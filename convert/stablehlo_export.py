"""Writes a checkpoint as StableHLO; `stablehlo` describes the result, and reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
from jax import export as jax_export

from flair_jax.convert.functions import Exported, Function, functions, read, shaped, target_folder, versions
from flair_jax.convert.stablehlo import DESCRIPTION, FILES, FORMAT, PARAMS, digest, digest_of_file, require_flatbuffers
from flair_jax.files import replace_when_complete
from flair_jax.models.flair import Flair
from flair_jax.weights.write import save_safetensors

PLATFORMS = ("cpu", "cuda", "tpu")


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
    target = target_folder(target, FILES)
    held = read(source, dtype, model)
    exported = {name: (function, _export(function, held)) for name, function in functions(held.model).items()}
    files = {name: bytes(each.serialize(vjp_order=0)) for name, (_, each) in exported.items()}
    description = {
        "format": FORMAT,
        "functions": {
            name: {**_signature(function, each), "sha256": digest(files[name])}
            for name, (function, each) in exported.items()
        },
        "compute_dtype": held.model.config.dtype,
        "platforms": list(PLATFORMS),
        "calling_convention_version": exported["pool"][1].calling_convention_version,
        "versions": versions(("jax", "jaxlib")),
        **held.description,
    }
    with replace_when_complete(target) as partial:
        partial.mkdir()
        for name, content in files.items():
            (partial / f"{name}.bin").write_bytes(content)
        save_safetensors(partial / PARAMS, held.params)
        description["params"] = {"sha256": digest_of_file(partial / PARAMS)}
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return description


def _export(function: Function, held: Exported) -> jax_export.Exported:
    part = {name: jax.ShapeDtypeStruct(each.shape, each.dtype) for name, each in function.own(held.params).items()}
    return jax_export.export(jax.jit(function.run), platforms=PLATFORMS)(part, *function.arguments.values())


def _signature(function: Function, exported: jax_export.Exported) -> dict[str, Any]:
    return {
        "params": function.params,
        "arguments": shaped(function.arguments),
        "results": shaped(dict(zip(function.results, exported.out_avals, strict=True))),
    }
