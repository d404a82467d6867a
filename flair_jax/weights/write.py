"""Writes PyTorch's weight files: `.pt` and `.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy

from flair_jax.files import absolute, expand, no_file, replace_when_complete
from flair_jax.packages import how_to_install
from flair_jax.weights.locate import CONFIG as CONFIG
from flair_jax.weights.param_map import ConversionError

SUFFIXES = (".pt", ".safetensors")

# A model's weights in a folder or hub repository, beside CONFIG.
WEIGHTS = "model.safetensors"
# open_clip's description, of the model and of how pictures are prepared.
OPEN_CLIP = "open_clip_config.json"

# Where a file says of its own weights that their activation is QuickGELU.
QUICK_GELU = "quick_gelu"


def require_torch(purpose: str) -> ModuleType:
    """Imports torch, or says how to get it.

    Raises:
      ConversionError: if torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise ConversionError(
            f"{purpose} needs PyTorch, which is not installed; its CPU build is enough: choose Pip and CPU at "
            f"pytorch.org/get-started, or {how_to_install('convert')}. A .safetensors file needs no PyTorch."
        ) from None
    return torch


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], *, quick_gelu: bool = False) -> None:
    """Writes a state dict so that the PyTorch release loads it, whole or not at all.

    Args:
      path: ends in `.pt` (a bare state dict; needs torch) or `.safetensors`.
      tensors: name -> array.
      quick_gelu: whether their activation is QuickGELU. The file says so then: a safetensors in its metadata, and a
        `.pt` beside the state dict, which is under `state_dict` as in a training checkpoint.

    Raises:
      ConversionError: for another ending, or without torch for `.pt`.
    """
    path = absolute(expand(path))
    if path.suffix not in SUFFIXES:
        raise ConversionError(f"{path}: the file's ending must be one of {', '.join(SUFFIXES)}")
    if reason := no_file(path):
        raise ConversionError(f"{path}: {reason}; name a file")
    torch: Any = require_torch(f"writing {path.name}") if path.suffix == ".pt" else None
    with replace_when_complete(path) as partial:
        if torch is None:
            save_safetensors(partial, tensors, {"format": "pt"} | ({QUICK_GELU: "true"} if quick_gelu else {}))
        else:
            state_dict = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
            torch.save({"state_dict": state_dict, QUICK_GELU: True} if quick_gelu else state_dict, partial)


def save_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file with the permissions that the system gives new files.

    The library itself makes files that only their owner can read.
    """
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(dict(tensors), path, metadata=metadata)
    path.chmod(mode)
