"""A model as a folder for the hub: weights under the PyTorch release's names, descriptions and a model card.

Both sides read it: `flair_jax.load(FOLDER)`, without PyTorch, and the PyTorch release, which loads `model.safetensors`.
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flair_jax import checkpoint
from flair_jax.convert.card import model_card
from flair_jax.errors import CheckpointError
from flair_jax.files import absolute, expand, replace_when_complete
from flair_jax.models.config import FlairConfig
from flair_jax.models.description import config_to_release_json, images_to_json, refused_by_release
from flair_jax.models.flair import Flair
from flair_jax.models.tokenizer_names import FILE as TOKENIZER
from flair_jax.models.tokenizer_names import kept_beside
from flair_jax.weights import digests, hub
from flair_jax.weights.locate import locate
from flair_jax.weights.param_map import torch_from_params
from flair_jax.weights.read import check_finite
from flair_jax.weights.write import CONFIG, OPEN_CLIP, WEIGHTS, write_tensors

CARD = "README.md"
FILES = (CARD, CONFIG, WEIGHTS, OPEN_CLIP, TOKENIZER, digests.FILE)


def preprocessing(config: FlairConfig) -> dict[str, Any]:
    """How images are prepared for the model, in the form of open_clip's `preprocess_cfg`; mean and deviation are of
    pixels scaled to [0, 1].
    """
    return {
        "size": config.vision.image_size,
        "mode": "RGB",
        "mean": list(config.vision.image_mean),
        "std": list(config.vision.image_std),
        "interpolation": config.vision.interpolation,
        "resize_mode": config.vision.resize_mode,
        "fill_color": config.vision.fill_color,
    }


def warn_of_release(name: str, config: FlairConfig) -> None:
    """Logs, a line each, what the PyTorch release would do otherwise with the weights of this name."""
    if refused := refused_by_release(config):
        logging.warning(
            "%s: the PyTorch release %s; its constructor refuses this model's description, which says %s, and must not "
            "be given the weights",
            name,
            "pools with 8 heads only" if refused.keys() == {"pooling_heads"} else "has no such settings",
            ", ".join(f"{setting}={value}" for setting, value in refused.items()),
        )
    ours, theirs = preprocessing(config), preprocessing(FlairConfig())
    names = (
        "mean",
        "std",
        "interpolation",
        "resize_mode",
        *(["fill_color"] if ours["resize_mode"] == "longest" else []),
    )
    if other := [f"{each} {ours[each]} (there {theirs[each]})" for each in names if ours[each] != theirs[each]]:
        logging.warning(
            "%s: the PyTorch release prepares images in another way, wrong for this model, which takes %s",
            name,
            ", ".join(other),
        )


def load_tensors(source: str | Path) -> tuple[Flair, dict[str, np.ndarray]]:
    """The model in a checkpoint, and its weights as a state dict.

    Raises:
      CheckpointError: if `source` is no checkpoint, or one of a model with other towers or modules of its own.
      ConversionError: if a weight is NaN or infinite.
    """
    if modules := checkpoint.read_description(source).get(checkpoint.MODULES):
        raise CheckpointError(
            f"{source}: holds a model with {checkpoint.listed(modules)}, for which the PyTorch release's form has no "
            "place; export it to StableHLO"
        )
    model, params = checkpoint.load(source)
    if model.other_towers:
        raise CheckpointError(
            f"{source}: the PyTorch release's form has no place for other towers than CLIP's, and here "
            f"{' and '.join(sorted(model.other_towers))} is one; export it to StableHLO"
        )
    tensors = torch_from_params(jax.device_get(params), model.config)
    check_finite(source, tensors)
    return model, tensors


def export_folder(source: str | Path, target: str | Path) -> int:
    """Writes a checkpoint as a folder with weights, `config.json`, `open_clip_config.json` and a model card.

    A tokenizer that is a file, which these name, is in it too.

    A card that is in `source`, or else one that is in `target`, is kept as it is.

    Args:
      source: a checkpoint, as `flair_jax.load` takes it.
      target: folder to make; an older export there is replaced.

    Returns:
      The number of tensors written.

    Raises:
      CheckpointError: if `source` is no checkpoint, or `target` exists and is something else.
    """
    target = absolute(expand(target))
    if target.exists() and not (target.is_dir() and {entry.name for entry in target.iterdir()} <= set(FILES)):
        raise CheckpointError(f"{target}: exists and is not an exported model; choose another folder or remove it")
    source = locate(source)
    card = _read_card(source) or _read_card(target)
    with replace_when_complete(target) as partial:
        partial.mkdir()
        return _write(source, partial, card, name=target.name, address="path/to/this/folder")


def push(source: str | Path, name: str) -> str:
    """Puts a checkpoint on the hub, as `export_folder` writes it.

    A repository that does not exist is made, private. The repository's model card stays unless `source` brings one.

    Args:
      source: a checkpoint, as `flair_jax.load` takes it.
      name: `hf://OWNER/REPOSITORY`, with `@REVISION` for a branch other than main.

    Returns:
      The address of the commit.

    Raises:
      CheckpointError: if `source` is no checkpoint.
      ConversionError: if the name is malformed, there is no token, or the hub refuses.
    """
    repository, _ = hub.check_upload(name)
    source = locate(source)
    card = _read_card(source)
    with tempfile.TemporaryDirectory(prefix="flair-jax-") as folder:
        _write(source, Path(folder), card, name=repository.split("/")[1], address=name)
        return hub.upload(Path(folder), name, keep=() if card else (CARD,))


def _read_card(folder: Path) -> str | None:
    """The model card of an exported folder."""
    file = folder / CARD
    return file.read_text(encoding="utf-8") if file.is_file() and (folder / WEIGHTS).is_file() else None


def _write(source: Path, folder: Path, card: str | None, *, name: str, address: str) -> int:
    model, tensors = load_tensors(source)
    origin = checkpoint.read_description(source).get("source", {})
    described = kept_beside(model.config, folder)
    description = config_to_release_json(described)
    warn_of_release(name, model.config)
    write_tensors(folder / WEIGHTS, tensors, quick_gelu=model.config.quick_gelu)
    _write_json(folder / CONFIG, {**description, **images_to_json(model.config.vision), "source": origin})
    _write_json(folder / OPEN_CLIP, {"model_cfg": description, "preprocess_cfg": preprocessing(model.config)})
    digests.write(folder, (CONFIG, WEIGHTS, TOKENIZER))  # the card is its publisher's to change
    size = sum(tensor.size for tensor in tensors.values())
    (folder / CARD).write_text(card or model_card(model.config, size, origin, name, address), encoding="utf-8")
    return len(tensors)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
