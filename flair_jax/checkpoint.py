"""Checkpoints on disk: a folder with `config.json` and the parameters, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from flair_jax.errors import CheckpointError
from flair_jax.files import replace_when_complete
from flair_jax.models.config import FlairConfig, config_from_json, config_to_json
from flair_jax.models.flair import Flair, Params

_CONFIG = "config.json"

# In a training run's checkpoint the description is a JSON item of Orbax's, beside the same parameters.
PARAMS, DESCRIPTION = "params", "description"


def save(path: str | Path, model: Flair, params: Params, source: dict[str, str]) -> None:
    """Writes a checkpoint that `load` reads.

    The folder is written beside `path` under another name and renamed once it is complete, so that a killed save leaves
    nothing under `path`. An existing checkpoint at `path` is replaced.

    Args:
      path: folder to make.
      model: gives the description; compute settings (dtype, remat, unroll) are not stored.
      params: nested dict of arrays.
      source: where the weights come from, kept in `config.json` for evaluation reports.

    Raises:
      CheckpointError: if `path` exists and is not a checkpoint.
    """
    path = Path(path).absolute()
    check_target(path)
    with replace_when_complete(path) as partial:
        partial.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / PARAMS, params)
        description = {**config_to_json(model.config), "source": source}
        (partial / _CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def check_target(path: Path) -> None:
    """Raises CheckpointError if `path` holds something that `save` would destroy."""
    if path.exists() and not (path.is_dir() and {entry.name for entry in path.iterdir()} <= {_CONFIG, PARAMS}):
        raise CheckpointError(f"{path}: exists and is not a flair_jax checkpoint; choose another folder or remove it")


def load(path: str | Path, *, sharding: jax.sharding.Sharding | None = None, **settings: Any) -> tuple[Flair, Params]:
    """Reads a checkpoint that `flair-jax convert` made, or one of a training run (WORKDIR/checkpoints/STEP).

    Args:
      path: the checkpoint's folder.
      sharding: where to put every parameter; the first device if not given.
      **settings: compute settings of `FlairConfig`: `dtype`, `remat`, `unroll`.

    Returns:
      The model and its float32 parameters, ready for the model's methods.

    Raises:
      CheckpointError: if there is no checkpoint, or it is damaged.
      ConfigError: if its description or a setting is wrong.
    """
    config = dataclasses.replace(read_model_config(path), **settings)
    model = Flair(config)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), model.abstract_params()
    )
    return model, restore_params(path, target)


def restore_params(path: str | Path, target: Params) -> Params:
    """The parameters of a checkpoint, put where `target` says.

    Args:
      path: the checkpoint's folder.
      target: tree of `jax.ShapeDtypeStruct` with shardings.

    Raises:
      CheckpointError: if they are damaged, or of other shapes.
    """
    path = Path(path).absolute()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path / PARAMS, target)
    except Exception as error:  # Orbax and its storage raise many kinds for a damaged or mismatched file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". See")[0]
        raise CheckpointError(
            f"{path}: the parameters cannot be read; convert the checkpoint again ({reason})"
        ) from error


def read_model_config(path: str | Path) -> FlairConfig:
    """The model that a checkpoint holds, with default compute settings.

    Raises:
      CheckpointError: if there is no checkpoint.
      ConfigError: if its description is wrong.
    """
    path = Path(path).absolute()
    description = read_description(path)
    description.pop("source", None)
    return config_from_json(description, where=str(description_file(path)))


def read_description(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint's `config.json`: the model's sizes, and under `source` where it came from.

    Raises:
      CheckpointError: if `path` is not a checkpoint's folder.
    """
    file = description_file(Path(path))
    if not file.is_file():
        raise CheckpointError(
            f"{path}: no checkpoint here (no {_CONFIG}); make one with `flair-jax convert FILE {path}`"
        )
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error}); convert the checkpoint again") from None


def description_file(path: Path) -> Path:
    """Where a checkpoint's description is, or should be."""
    of_run = path / DESCRIPTION / "metadata"
    return of_run if of_run.is_file() else path / _CONFIG
