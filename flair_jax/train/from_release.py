"""A run of the PyTorch release goes on here: its weights, AdamW's state and the number of its updates."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flair_jax.errors import CheckpointError, ConfigError, plural
from flair_jax.models.flair import Flair, Params
from flair_jax.parallel.processes import Processes
from flair_jax.settings import TrainSettings
from flair_jax.train.optimizer_state import fill_adamw
from flair_jax.train.step import TrainState
from flair_jax.weights.activation import settle, told_by
from flair_jax.weights.locate import locate
from flair_jax.weights.param_map import params_from_torch
from flair_jax.weights.training_file import TrainingFile, read_training_file


def resume_release(settings: TrainSettings, steps: int, model: Flair, target: TrainState) -> tuple[TrainState, int]:
    """The state after the last update of the run in `settings.resume`, and the number of its updates.

    Learning rates continue at that number, as do the data, in our own order.

    Args:
      settings: of the run.
      steps: of the whole run.
      model: that it trains.
      target: from `abstract_state`: shapes and shardings.

    Raises:
      ConfigError: if the optimiser is not AdamW, the model another, or the file a folder.
      ConversionError: if the file cannot be read, or holds no state of AdamW.
      CheckpointError: if it has more updates behind it than the run has steps.
    """
    if settings.optimizer.name != "adamw" or settings.factories.optimizer is not None:
        raise ConfigError(
            f"config.resume={settings.resume}: its optimiser is AdamW; set config.optimizer.name to adamw"
        )
    if model.own_modules:
        raise ConfigError(f"config.resume={settings.resume}: is a FLAIR, and the model has modules of its own")
    processes = Processes.all()
    path = processes.together(lambda: locate(settings.resume))
    if processes.together(path.is_dir):
        raise ConfigError(
            f"config.resume={settings.resume}: is a folder, and a run of the PyTorch release goes on from its file, "
            "epoch_N.pt; to start from the weights of a checkpoint in a folder, name it as config.init"
        )
    found = processes.together(lambda: read_training_file(path))
    processes.agree([found.updates, found.epoch], f"config.resume={settings.resume}: the updates in the file")
    if settle(told_by(found.weights, path.name), clip=False)[0] != model.config.quick_gelu:
        raise ConfigError(f"config.resume={path}: its activation is not that of config.model={settings.model}")
    if found.updates > steps:
        raise CheckpointError(
            f"config.resume={path}: has {found.updates:,} updates behind it, and the run is {steps:,} steps long "
            "(config.steps or config.epochs); ask for more"
        )
    if processes.index == 0:
        _say(path, found, settings)
    trees = (params_from_torch(each, model.config) for each in (found.weights.tensors, found.mean, found.square))
    params, mean, square = trees
    placed: Params = jax.tree.map(_put, target.params, params)
    filled = fill_adamw({"step": target.step, "opt_state": target.opt_state}, found.updates, mean, square, _put)
    average = None if target.ema is None else jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(placed)
    return TrainState(filled["step"], placed, filled["opt_state"], average), found.updates


def _put(target: jax.ShapeDtypeStruct, array: np.ndarray) -> jax.Array:
    """An array that every process holds whole, sharded as `target` is."""
    array = np.asarray(array, target.dtype)
    return jax.make_array_from_callback(target.shape, target.sharding, lambda index: array[index])


def _say(path: Path, found: TrainingFile, settings: TrainSettings) -> None:
    epoch = "" if found.epoch is None else f", {plural(found.epoch, 'epoch')}"
    logging.warning("%s: going on after %s updates%s", path, f"{found.updates:,}", epoch)
    for name, value in found.hyper.items():
        asked = getattr(settings.optimizer, name)
        if not np.isclose(asked, value, rtol=1e-6, atol=0):
            logging.warning("config.optimizer.%s was %g there, is %g", name, value, asked)
    for remark in found.remarks:
        logging.warning("%s: %s", path, remark)
