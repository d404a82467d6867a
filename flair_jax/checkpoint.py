"""Checkpoints: a folder with `config.json`, the parameters and their digests, written whole or not at all.

Also readable: a folder or hub repository that `flair-jax export` filled, and a weight file of the PyTorch release.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from flair_jax.buckets import is_for_orbax
from flair_jax.errors import CheckpointError, FlairError
from flair_jax.files import absolute, expand, local_copy, replace_when_complete
from flair_jax.models.config import FlairConfig
from flair_jax.models.description import config_from_json, config_to_json, read_json_object
from flair_jax.models.flair import Flair, Params
from flair_jax.models.tokenizer_names import FILE as TOKENIZER
from flair_jax.models.tokenizer_names import found_beside, kept_beside
from flair_jax.parallel.processes import ALONE, Processes
from flair_jax.weights import digests
from flair_jax.weights.activation import flair_config
from flair_jax.weights.locate import description_file, locate, no_checkpoint
from flair_jax.weights.param_map import ConversionError, params_from_torch
from flair_jax.weights.read import read_weights
from flair_jax.weights.write import CONFIG, WEIGHTS

_LOGGER = logging.getLogger(__name__)

# In a training run's checkpoint they are items of Orbax, the second where the run keeps a moving average.
PARAMS, AVERAGE = "params", "ema"

# In a description: the modules that are not those that the model's config means, by the names of their classes.
MODULES = "modules"


def save(path: str | Path, model: Flair, params: Params, source: dict[str, str]) -> None:
    """Writes a checkpoint that `load` reads.

    The folder is written beside `path` under another name and renamed once it is complete, so that a killed save leaves
    nothing under `path`. An existing checkpoint at `path` is replaced.

    Args:
      path: folder to make.
      model: its description is stored, without compute settings (`COMPUTE_SETTINGS`).
      params: nested dict of arrays.
      source: where the weights come from, kept in `config.json` for evaluation reports.

    Raises:
      CheckpointError: if `path` exists and is not a checkpoint.
    """
    path = absolute(expand(path))
    check_target(path)
    with replace_when_complete(path) as partial:
        partial.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / PARAMS, params)
        described = dataclasses.replace(model, config=kept_beside(model.config, partial))
        (partial / CONFIG).write_text(json.dumps(describe(described, source), indent=2) + "\n", encoding="utf-8")
        digests.write(partial, (CONFIG, PARAMS, TOKENIZER))


def describe(model: Flair, source: dict[str, str]) -> dict[str, Any]:
    """The description of a checkpoint that has digests; it says so, so that missing digests are noticed."""
    modules = {MODULES: model.own_modules} if model.own_modules else {}
    return {**config_to_json(model.config), **modules, "source": source, "digests": digests.FILE}


def check_target(path: Path) -> None:
    """Raises CheckpointError if `path` holds something that `save` would destroy."""
    ours = {CONFIG, PARAMS, TOKENIZER, digests.FILE}
    if path.exists() and not (path.is_dir() and {entry.name for entry in path.iterdir()} <= ours):
        raise CheckpointError(f"{path}: exists and is not a flair_jax checkpoint; choose another folder or remove it")


def load(
    path: str | Path,
    *,
    model: Flair | None = None,
    sharding: jax.sharding.Sharding | None = None,
    dtype: str = FlairConfig.dtype,
    remat: str = FlairConfig.remat,
    unroll: int = FlairConfig.unroll,
    attention: str = FlairConfig.attention,
    residual_dtype: str = FlairConfig.residual_dtype,
) -> tuple[Flair, Params]:
    """Reads a checkpoint: one that `flair-jax convert` or `flair-jax export` made, or of a training run.

    Args:
      path: a folder (WORKDIR/checkpoints/STEP for one of a training run, WORKDIR for its newest), a `.pt` or
        `.safetensors` file whose sizes are those of a preset, or a hub name: `hf://OWNER/REPOSITORY[@REVISION]` for
        what `flair-jax export` put there, `hf://OWNER/REPOSITORY[@REVISION]/FILE` for a weight file. Only `.pt` files
        need PyTorch.
      model: the model itself, if it has a tower or a pooling of its own, which no file describes. Its compute settings
        are used then.
      sharding: of every parameter; the first device if not given.
      dtype: compute dtype; see `FlairConfig`, as for the next four.
      remat: "none", "dots", "attention" or "full".
      unroll: layers in each step of the layer loop.
      attention: "auto", "xla", "cudnn" or "pallas".
      residual_dtype: of the towers' residual stream.

    Returns:
      The model and its float32 parameters, ready for the model's methods; of a training run that keeps an average of
      them (`config.optimizer.ema_decay`), the average.

    Raises:
      CheckpointError: if there is no checkpoint, it is damaged, or it is that of another model than `model`.
      ConfigError: if its description or a setting is wrong.
      ConversionError: if it cannot be fetched from the hub, or is a weight file that cannot be read.
    """
    path = locate(path)
    compute: dict[str, Any] = {"dtype": dtype, "remat": remat, "unroll": unroll, "attention": attention}
    config = dataclasses.replace(read_model_config(path), **compute, residual_dtype=residual_dtype)
    model = model or Flair(config)
    _check_model(path, config, model)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), model.abstract_params()
    )
    return model, restore_params(path, target)


def _check_model(path: Path, config: FlairConfig, model: Flair) -> None:
    """Raises CheckpointError unless a model is the one that a checkpoint describes."""
    if other := other_modules(path, model):
        raise CheckpointError(
            f"{path}: {other}; give load the model that was saved, as model=Flair(config, ...), or a command the "
            "configuration whose factories.model makes it, as --config=FILE"
        )
    found, wanted = config_to_json(config), config_to_json(model.config)
    different = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if different:
        raise CheckpointError(f"{path}: is not of the model that is given; they differ in {', '.join(different)}")


def other_modules(path: Path, model: Flair) -> str:
    """Says that a checkpoint is of a model with other modules than `model`; "" if it is not."""
    described = read_description(path).get(MODULES, {})
    if {name: each.rpartition(".")[2] for name, each in described.items()} == model.own_classes:
        return ""
    return f"holds a model with {listed(described)}, and not with {listed(model.own_modules)}"


def listed(modules: Mapping[str, str]) -> str:
    """The `modules` of a description in words."""
    return ", ".join(f"{name} {each}" for name, each in modules.items()) or "the modules of FLAIR"


def restore_params(path: str | Path, target: Params, processes: Processes = ALONE) -> Params:
    """The parameters of a checkpoint, or their average if it has one, put where `target` says.

    Args:
      path: the checkpoint, as in `load`.
      target: tree of `jax.ShapeDtypeStruct` with shardings.
      processes: that share the work of looking for damage; every process must call this, with the same folder.

    Raises:
      CheckpointError: if they are damaged, or of other shapes.
    """
    path = absolute(locate(path))
    path = path if is_for_orbax(path) else local_copy(path)
    item = AVERAGE if (path / AVERAGE).is_dir() else PARAMS
    if not path.is_file():  # an average that is missing is damage as well
        _check(path, [WEIGHTS] if (path / WEIGHTS).is_file() else {item, AVERAGE}, processes)
    if path.is_file() or (path / WEIGHTS).is_file():
        return jax.tree.map(functools.partial(_put, path), target, _params_from_torch(path))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore(path / item, target)
    except Exception as error:  # Orbax and its storage raise many types for a damaged or mismatched file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". See")[0]
        of_others = "stored shape" in reason or "tree structures" in reason
        advice = "give the model that was saved, with its sizes" if of_others else "convert the checkpoint again"
        raise CheckpointError(f"{path}: the parameters cannot be read; {advice} ({reason})") from error
    if item == AVERAGE:
        _say_averaged(path)
    return params


@functools.cache
def _say_averaged(path: Path) -> None:
    _LOGGER.info("%s: taking the average of the parameters, which the run keeps (config.optimizer.ema_decay)", path)


def _params_from_torch(path: Path) -> Params:
    """The parameters in an exported folder or a weight file, as NumPy arrays."""
    try:
        if path.is_file():
            weights = read_weights(path)
            return params_from_torch(weights.tensors, flair_config(weights, path.name))
        return params_from_torch(read_weights(path / WEIGHTS).tensors, read_model_config(path))
    except ConversionError as error:
        raise CheckpointError(f"{path}: the parameters cannot be read ({error})") from None


def _put(path: Path, target: jax.ShapeDtypeStruct, array: np.ndarray) -> jax.Array:
    """An array that every process holds whole, sharded as `target` is."""
    if target.shape != array.shape:
        raise CheckpointError(f"{path}: a parameter has shape {array.shape}, the model needs {target.shape}")
    return jax.make_array_from_callback(target.shape, target.sharding, lambda index: array[index])


def read_model_config(path: str | Path) -> FlairConfig:
    """The model that a checkpoint holds, with default compute settings.

    Raises:
      CheckpointError: if there is no checkpoint.
      ConfigError: if its description is wrong.
    """
    path = absolute(locate(path))
    return found_beside(config_from_json(read_description(path), where=str(description_file(path))), path)


def read_description(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint's `config.json`: the model's sizes, and under `source` where it came from.

    A weight file has none; its description is inferred from its tensors.

    Raises:
      CheckpointError: if there is no checkpoint at `path`.
      ConversionError: if it is a weight file that cannot be read.
    """
    path = locate(path)
    if path.is_file():
        return _describe_weights(path)
    file = description_file(path)
    if not file.is_file():
        raise CheckpointError(no_checkpoint(path))
    _check(path, [file.relative_to(path).parts[0], TOKENIZER])
    try:
        description = read_json_object(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error}); convert the checkpoint again") from None
    source = description.get("source", {})
    if not isinstance(source, dict) or not all(isinstance(value, str) for value in source.values()):
        raise CheckpointError(f"{file}: `source` must be an object of strings; convert the checkpoint again")
    return description


def find_damage(path: Path, entries: Collection[str], processes: Processes = ALONE) -> str | None:
    """Compares a checkpoint with its digests: its damage in a few words; None if there is none.

    None as well, with a warning, if the checkpoint was written before digests were introduced.

    Args:
      path: the checkpoint's folder.
      entries: the files and folders right in it that matter.
      processes: that share the work; every process must call this, with the same folder.

    Raises:
      CheckpointError: if something cannot be read, so that it is not known whether it is damaged.
    """
    if any(processes.gather(has_digests(path))):
        return digests.find_damage(path, entries, processes)
    if not (path / WEIGHTS).is_file():  # an exported folder is not known to have had them
        _warn_unchecked(path)
    return None


def has_digests(path: Path) -> bool:
    """Whether a checkpoint was written with digests, even if they are missing now."""
    try:
        return (path / digests.FILE).exists() or "digests" in read_json_object(description_file(path))
    except (OSError, ValueError):
        return False


@functools.cache
def _warn_unchecked(path: Path) -> None:
    logging.warning("%s: was written without digests, so damage to it would not be noticed", path)


def _check(path: Path, entries: Collection[str], processes: Processes = ALONE) -> None:
    reason = find_damage(path, entries, processes)
    if reason:
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({reason}); take another, or copy, convert or export it again"
        )


def _describe_weights(path: Path) -> dict[str, Any]:
    weights = read_weights(path)
    try:
        config = flair_config(weights, path.name)
    except FlairError as error:
        raise CheckpointError(f"{path}: make a checkpoint of it first, with `flair-jax convert` ({error})") from None
    return {**config_to_json(config), "source": {"file": path.name}}
