"""Reading and writing PyTorch's weight files: `.pt` and `.safetensors`."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from flair_jax.extras import how_to_install
from flair_jax.files import replace_when_complete

from .param_map import ConversionError

SUFFIXES = (".pt", ".safetensors")

# The names of a model's description and weights in a folder or hub repository.
CONFIG, WEIGHTS = "config.json", "model.safetensors"


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


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a weight file.

    Args:
      path: a `.safetensors`, or anything that `torch.save` wrote: a bare state dict, or a training checkpoint with one
        under `state_dict`. The prefix `module.` of data-parallel training is taken off.

    Returns:
      Name -> array.

    Raises:
      ConversionError: if the file is missing, damaged, not a state dict, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ConversionError(f"{path}: no such file")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise ConversionError(f"{path}: not a readable safetensors file ({error})") from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = require_torch(f"reading {path.name}")
    try:
        # Never anything less strict: a pickle can run any code when it is loaded.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own words advise to load it unsafely; only the name of what it will not load is worth repeating.
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"it holds a {unsafe[1]}, and loading that could run code" if unsafe else "it is not a PyTorch weight file"
        )
        raise ConversionError(
            f"{path}: refused, because {what}; save only the model's state_dict, or use safetensors"
        ) from None
    except Exception as error:  # a damaged file leads the reader to any kind
        raise ConversionError(f"{path}: not a readable PyTorch file, or damaged ({_first_sentence(error)})") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ConversionError(f"{path}: neither a state dict nor a training checkpoint with a `state_dict`")
    # NumPy has no bfloat16 of its own; float32 holds every half-precision value exactly.
    return {
        str(name): (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
        for name, tensor in loaded.items()
    }


def _first_sentence(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).split(". ")[0]


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict so that the PyTorch release loads it, whole or not at all.

    Args:
      path: ends in `.pt` (a bare state dict; needs torch) or `.safetensors`.
      tensors: name -> array.

    Raises:
      ConversionError: for another ending, or without torch for `.pt`.
    """
    path = Path(path).absolute()
    if path.suffix not in SUFFIXES:
        raise ConversionError(f"{path}: the file's ending must be one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise ConversionError(f"{path}: is a folder; name a file")
    torch: Any = require_torch(f"writing {path.name}") if path.suffix == ".pt" else None
    with replace_when_complete(path) as partial:
        if torch is None:
            save_safetensors(partial, tensors, metadata={"format": "pt"})
        else:
            torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, partial)


def save_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that may be read by whom the system's settings let read new files.

    The library's own files can be read by their owner alone.
    """
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(dict(tensors), path, metadata=metadata)
    path.chmod(mode)
