"""Conversion both ways, with its check: a PyTorch file to a checkpoint folder, and back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import jax
import numpy as np

from flair_jax import checkpoint
from flair_jax.models.config import FlairConfig
from flair_jax.models.flair import Flair

from . import hub
from .files import read_tensors, require_torch, write_tensors
from .param_map import (
    ConversionError,
    complete,
    infer_config,
    is_clip,
    params_from_torch,
    torch_from_params,
    towers_of_clip,
)

# Largest difference of features, over the largest feature, that float32 rounding explains, with room for accelerators,
# whose sums run in another order. CPUs differ by a few 1e-6.
VERIFY_TOLERANCE = 1e-4


def convert(source: str, target: str | Path, config: FlairConfig | None = None) -> FlairConfig:
    """Imports a PyTorch weight file as a checkpoint that `flair_jax.load` reads.

    Of a CLIP of open_clip the towers and projections are taken, as a start for training; the rest is drawn anew.

    Args:
      source: a `.pt` or `.safetensors` file, or a hub name (`hf://OWNER/REPOSITORY/FILE`).
      target: folder to make.
      config: the model, where its sizes are those of no preset: tensors do not show the numbers of attention heads.

    Returns:
      The model's description.

    Raises:
      ConversionError: if the file cannot be read, or its tensors are not exactly the model's.
      ConfigError: if nothing tells the numbers of heads.
      CheckpointError: if `target` exists and is something else.
    """
    target = Path(target).absolute()
    checkpoint.check_target(target)
    file = _local_file(source)
    tensors = read_tensors(file)
    clip = is_clip(tensors)
    try:
        if clip:
            tensors = towers_of_clip(tensors)
        config = infer_config(tensors, config)
        params = params_from_torch(complete(tensors, config) if clip else tensors, config)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from None
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    origin = {"file": Path(source).name, "sha256": digest}
    if clip:
        origin["towers"] = "CLIP; the pooling is random and must be trained"
    checkpoint.save(target, Flair(config), params, origin)
    return config


def export(source: str | Path, target: str | Path) -> int:
    """Writes a checkpoint's weights as a file that the PyTorch release loads.

    Args:
      source: a checkpoint's folder.
      target: `.pt` or `.safetensors` file to write.

    Returns:
      The number of tensors written.

    Raises:
      CheckpointError: if `source` is not a checkpoint.
      ConversionError: if `target` has another ending, or is `.pt` and torch is missing.
    """
    model, params = checkpoint.load(source)
    tensors = torch_from_params(jax.device_get(params), model.config)
    write_tensors(target, tensors)
    return len(tensors)


def verify(source: str, target: str | Path) -> dict[str, float]:
    """Compares PyTorch's arithmetic on the source file with ours on the converted checkpoint, on a fixed random input.

    Returns:
      Output name -> largest absolute difference over the largest absolute value.

    Raises:
      ConversionError: if torch is missing, or a difference exceeds `VERIFY_TOLERANCE`.
    """
    torch = require_torch("--verify")
    from .torch_forward import TorchFlair

    model, params = checkpoint.load(target)
    tensors = read_tensors(_local_file(source))
    if is_clip(tensors):
        tensors = complete(towers_of_clip(tensors), model.config)
    reference = TorchFlair({name: torch.from_numpy(np.array(each)) for name, each in tensors.items()}, model.config)
    rng = np.random.default_rng(0)
    size, text = model.config.vision.image_size, model.config.text
    images = rng.standard_normal((2, size, size, 3), dtype=np.float32)
    tokens = rng.integers(1, text.vocab_size - 1, (3, text.context_length), dtype=np.int32)
    tokens[:, -1] = text.vocab_size - 1

    with torch.no_grad():
        theirs_global, theirs_local = reference.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        theirs_text = reference.encode_text(torch.from_numpy(tokens).long())
        theirs_pooled = reference.pool(theirs_local, theirs_text)
    ours_global, ours_local = jax.jit(model.encode_image)(params, images)
    ours_text = jax.jit(model.encode_text)(params, tokens)
    ours_pooled = jax.jit(model.pool)(params, ours_local, ours_text)

    pairs = {
        "global image features": (ours_global, theirs_global),
        "local image features": (ours_local, theirs_local),
        "text features": (ours_text, theirs_text),
        "pooled features": (ours_pooled, theirs_pooled),
    }
    differences = {
        name: float(np.abs(np.asarray(ours) - theirs.numpy()).max() / np.abs(theirs.numpy()).max())
        for name, (ours, theirs) in pairs.items()
    }
    # `not <=` rather than `>`, so that NaN fails.
    wrong = [f"{name} {value:.1e}" for name, value in differences.items() if not value <= VERIFY_TOLERANCE]
    if wrong:
        raise ConversionError(
            f"{target}: differs from PyTorch's arithmetic by more than {VERIFY_TOLERANCE:.0e}: {', '.join(wrong)}"
        )
    return differences


def _local_file(source: str) -> Path:
    return hub.download(source) if source.startswith(hub.PREFIX) else Path(source)
