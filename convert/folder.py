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
from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.errors import CheckpointError
from flair_jax.files import absolute, expand, replace_when_complete
from flair_jax.models.config import FlairConfig, VisionConfig
from flair_jax.models.description import config_to_release_json, images_to_json, refused_by_release
from flair_jax.models.flair import Flair
from flair_jax.weights import digests, hub
from flair_jax.weights.locate import locate
from flair_jax.weights.param_map import torch_from_params
from flair_jax.weights.read import check_finite
from flair_jax.weights.write import CONFIG, OPEN_CLIP, WEIGHTS, write_tensors

CARD = "README.md"
_RESIZED = {"shortest": "cropped", "longest": "padded", "squash": "squashed"}
FILES = (CARD, CONFIG, WEIGHTS, OPEN_CLIP, digests.FILE)


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
    description = config_to_release_json(model.config)
    if refused := refused_by_release(model.config):
        logging.warning(
            "%s: the PyTorch release %s; its constructor refuses this model's description, which says %s, and must not "
            "be given the weights",
            name,
            "pools with 8 heads only" if refused.keys() == {"pooling_heads"} else "has no such settings",
            ", ".join(f"{setting}={value}" for setting, value in refused.items()),
        )
    write_tensors(folder / WEIGHTS, tensors, quick_gelu=model.config.quick_gelu)
    _write_json(folder / CONFIG, {**description, **images_to_json(model.config.vision), "source": origin})
    _write_json(folder / OPEN_CLIP, {"model_cfg": description, "preprocess_cfg": preprocessing(model.config)})
    digests.write(folder, (CONFIG, WEIGHTS))  # the card is its publisher's to change
    size = sum(tensor.size for tensor in tensors.values())
    (folder / CARD).write_text(card or _card(model.config, size, origin, name, address), encoding="utf-8")
    return len(tensors)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _prepared(vision: VisionConfig) -> str:
    """How pictures are prepared, in words."""
    normalised = "CLIP's mean and deviation"
    if (vision.image_mean, vision.image_std) != (VisionConfig.image_mean, VisionConfig.image_std):
        normalised = f"mean {vision.image_mean} and deviation {vision.image_std}"
    return f"{vision.interpolation}, {_RESIZED[vision.resize_mode]}, with {normalised}"


def _card(config: FlairConfig, parameters: int, origin: dict[str, str], name: str, address: str) -> str:
    vision, text, tokenizer = config.vision, config.text, find_tokenizer(config.text.tokenizer)
    made_from = ", ".join(f"{key} `{value}`" for key, value in origin.items())
    return f"""---
library_name: flair_jax
pipeline_tag: zero-shot-image-classification
tags:
- flair
- clip
- jax
- vision-language
---

# {name}

A [FLAIR](https://arxiv.org/abs/2412.03561) model: a vision-language model whose image representation depends on the
text that it is compared with. {parameters:,} parameters in float32{f"; made from {made_from}" if made_from else ""}.

| | |
| --- | --- |
| vision tower | {vision.layers} layers of width {vision.width}, {vision.heads} heads, patch size {vision.patch_size} |
| text tower | {text.layers} layers of width {text.width}, {text.heads} heads, {text.context_length} tokens |
| shared space | {config.embed_dim} dimensions, pooling with {config.pooling_heads} heads |
| activation | {"QuickGELU, x * sigmoid(1.702 x)" if config.quick_gelu else "exact GELU"} |
| images | {vision.image_size} x {vision.image_size}, {_prepared(vision)} |
| texts | {tokenizer.description}, padded with {tokenizer.padding} |

## Use

```python
import flair_jax, jax

model, params = flair_jax.load("{address}")
images = model.normalize(flair_jax.preprocess("picture.jpg", model.config.vision)[None])
tokens = flair_jax.tokenize(["a red circle", "a photo of a dog"], model.config.text.context_length)
print(jax.jit(model.logits)(params, images, tokens))
```

`{WEIGHTS}` holds the state dict under the names of the PyTorch release of FLAIR. `model_cfg` in `{OPEN_CLIP}` is
what its constructor takes, and `preprocess_cfg` says how images are prepared; `{CONFIG}` is `model_cfg` with the
weights' `source`. open_clip's own CLIP class is another model and does not take these weights.

## Training data, evaluation, licence

To be written by whoever publishes this model; the licence also belongs into the lines at the top, as `license:`.

## Citation

```bibtex
@inproceedings{{xiao2025flair,
  title = {{FLAIR: VLM with Fine-grained Language-informed Image Representations}},
  author = {{Xiao, Rui and Kim, Sanghwan and Georgescu, Mariana-Iuliana and Akata, Zeynep and Alaniz, Stephan}},
  booktitle = {{CVPR}},
  year = {{2025}}
}}
```
"""
