"""Reading weight files: PyTorch's, TorchScript archives, safetensors, and either in shards with an index."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from flair_jax.errors import plural
from flair_jax.files import expand, local_copy
from flair_jax.weights.formats import INDEX, SAFETENSORS, TORCHSCRIPT, kind_of, safetensors_header
from flair_jax.weights.param_map import ConversionError
from flair_jax.weights.state_dicts import choose_model
from flair_jax.weights.torchscript import read_torchscript
from flair_jax.weights.write import QUICK_GELU, require_torch

# What OpenAI's files have beside the tensors, and the size that each gives; `n_averaged` is that of an average.
OPENAI_SIZES = {"input_resolution": "image_size", "context_length": "context_length", "vocab_size": "vocab_size"}
_PASSED_OVER = {*OPENAI_SIZES, "n_averaged"}
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_SAFETENSORS_DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64"}


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a weight file holds.

    Attributes:
      tensors: name -> array; floating-point ones are float32.
      files: the files that were read.
      sizes: the sizes that OpenAI's files give beside their tensors, under the names in those files.
      quick_gelu: the activation if the file says it.
      remarks: on how it was read, for the user; each a phrase.
    """

    tensors: dict[str, np.ndarray]
    files: tuple[Path, ...]
    sizes: dict[str, int]
    quick_gelu: bool | None
    remarks: tuple[str, ...]


def read_weights(path: str | Path, state_dict: str | None = None) -> Weights:
    """Reads a weight file.

    Args:
      path: a `.safetensors`, anything that `torch.save` wrote with a state dict in it, a TorchScript archive, or the
        `.index.json` of shards. Its kind is recognised by its content, not its extension.
      state_dict: which one, where the file holds several.

    Raises:
      ConversionError: if the file is missing, damaged or of another kind, would run code, holds several state dicts of
        which none is chosen, or holds values that are not usable as weights.
    """
    path = local_copy(expand(path))
    loaded, facts, files = _read_shards(path) if kind_of(path) == INDEX else (*_read_file(path), (path,))
    try:
        entries = choose_model(loaded, _is_tensor, state_dict)
        arrays = {name: array_of(name, value) for name, value in entries.items() if name not in _PASSED_OVER}
        tensors, remarks = _as_float32(arrays)
        sizes = {name: _size(name, entries[name]) for name in OPENAI_SIZES if name in entries}
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None
    passed_over = sorted(_PASSED_OVER & set(entries))
    if passed_over:
        remarks.append(f"passed over, because they are no parameters: {', '.join(passed_over)}")
    return Weights(tensors, files, sizes, _quick_gelu(path, facts), tuple(remarks))


def read_contents(path: str | Path) -> Mapping[str, Any]:
    """All that a weight file holds, whatever it is, as its reader gives it.

    Raises:
      ConversionError: as `read_weights`.
    """
    return _read_file(local_copy(expand(path)))[0]


def _quick_gelu(path: Path, facts: Mapping[str, Any]) -> bool | None:
    """The activation that a file says beside its tensors; None if it says nothing."""
    said = facts.get(QUICK_GELU)
    known = {"true": True, "1": True, "false": False, "0": False, "none": None}
    if str(said).lower() not in known:
        raise ConversionError(f"{path}: says beside its tensors that {QUICK_GELU} is {said!r}, not true or false")
    return known[str(said).lower()]


def _read_file(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The contents of a file, and its metadata beside the tensors."""
    kind = kind_of(path)
    if kind == SAFETENSORS:
        header = safetensors_header(path)
        facts = header.pop("__metadata__", None) or {}
        unknown = {name: entry["dtype"] for name, entry in header.items() if entry["dtype"] not in _SAFETENSORS_DTYPES}
        if unknown:
            raise ConversionError(f"{path}: {_quantised(unknown)}")
        try:
            return safetensors.numpy.load_file(path), facts
        except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
            raise ConversionError(f"{path}: not a readable safetensors file ({error})") from None
    if kind == TORCHSCRIPT:
        return read_torchscript(path), {}
    _check_archive(path)
    loaded = _read_torch(path)
    if not isinstance(loaded, Mapping):
        raise ConversionError(f"{path}: neither a state dict nor a training checkpoint with one in it")
    return loaded, loaded


def _check_archive(path: Path) -> None:
    """Raises ConversionError if bytes in a PyTorch archive have changed, which PyTorch does not check."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            # A checksum of 0 is none: PyTorch can be told to leave them out.
            for member in (member for member in archive.infolist() if member.CRC):
                with archive.open(member) as stream:
                    while stream.read(1 << 22):
                        pass
    except Exception as error:  # of many kinds, by what the damage meets
        raise ConversionError(f"{path}: damaged ({error}); download or copy it again") from None


def _read_torch(path: Path) -> Any:
    torch = require_torch(f"reading {path.name}")
    try:
        # Never anything less strict: a pickle can run any code when it is loaded.
        with path.open("rb") as stream:  # of a path PyTorch goes by the ending
            return torch.load(stream, map_location="cpu", weights_only=True)
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
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).split(". ")[0]
        raise ConversionError(f"{path}: not a readable PyTorch file, or damaged ({reason})") from None


def _read_shards(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], tuple[Path, ...]]:
    shards = shards_of(path)
    missing = [name for name in shards if not (path.parent / name).is_file()]
    if missing:
        raise ConversionError(
            f"{path}: {len(missing)} of its {len(shards)} shards are not beside it: {', '.join(missing)}"
        )
    tensors: dict[str, Any] = {}
    problems: list[str] = []
    facts: Mapping[str, Any] = {}
    for shard, names in shards.items():
        held, facts = _read_file(path.parent / shard)
        problems += [f"{name} is not in {shard}" for name in names if name not in held]
        problems += [f"{name} is in {shard}, where the index does not put it" for name in held if name not in names]
        tensors |= held
    if problems:
        listed = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise ConversionError(f"{path}: index and shards disagree in {plural(len(problems), 'tensor')}: {listed}")
    return tensors, facts, (path, *(path.parent / shard for shard in shards))


def shards_of(path: Path) -> dict[str, set[str]]:
    """File name -> names of tensors, from the index of shards.

    Raises:
      ConversionError: if it is no such index, or names files that are not beside it.
    """
    try:
        shards: dict[str, set[str]] = {}
        for tensor, file in json.loads(path.read_text(encoding="utf-8"))["weight_map"].items():
            if Path(file).name != file:
                raise ValueError(f"{file!r} is not the name of a file beside it")
            shards.setdefault(file, set()).add(tensor)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConversionError(f"{path}: not an index of shards with a `weight_map` ({error})") from None
    return shards


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (hasattr(value, "is_floating_point") and hasattr(value, "detach"))


def _size(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ConversionError(f"{name} is not a whole number") from None


def array_of(name: str, value: Any) -> np.ndarray:
    """A tensor of any reader as an array [...] of its own shape and dtype.

    Raises:
      ConversionError: if it is quantised, or no plain tensor; it names it.
    """
    if isinstance(value, int | float | np.ndarray):
        return np.asarray(value)
    dtype = str(value.dtype).removeprefix("torch.")
    if value.device.type == "meta":
        raise ConversionError(f"{name} has a shape but no values (device meta)")
    if value.is_quantized or (value.is_floating_point() and dtype not in _FLOATS):
        raise ConversionError(_quantised({name: dtype}))
    try:
        value = value.detach()
        if dtype == "bfloat16":  # of which NumPy has none of its own
            import torch

            return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, for one
        raise ConversionError(f"{name} is no plain tensor ({error})") from None


def _quantised(dtypes: Mapping[str, str]) -> str:
    name, dtype = next(iter(dtypes.items()))
    return (
        f"holds {plural(len(dtypes), 'tensor')} such as {name} in {dtype}: weights quantised to fewer bits mean "
        "nothing without the program that made them; convert the original, in float32, float16 or bfloat16"
    )


def _as_float32(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays in float32, and remarks.

    Raises:
      ConversionError: for quantised weights, and values that are not finite or that float32 cannot hold.
    """
    packed = {
        name: str(array.dtype)
        for name, array in arrays.items()
        if array.ndim > 1 and array.dtype.kind in "iu" and array.itemsize < 8
    }
    if packed:
        raise ConversionError(_quantised(packed))
    floats = {name: array for name, array in arrays.items() if str(array.dtype) in _FLOATS}
    with np.errstate(over="ignore", invalid="ignore"):
        tensors = {**arrays, **{name: array.astype(np.float32, copy=False) for name, array in floats.items()}}
    _check_finite(tensors, arrays)
    dtypes = Counter(str(array.dtype) for array in floats.values())
    others = {dtype: count for dtype, count in dtypes.items() if dtype != "float32"}
    remarks = [f"read as float32: {plural(count, 'tensor')} of {dtype}" for dtype, count in others.items()]
    matrices = {name: tensors[name] for name in floats if tensors[name].ndim > 1}
    zeros = [name for name, matrix in matrices.items() if not matrix.flat[:1].any() and not matrix.any()]
    if zeros:
        remarks.append(f"nothing but zeros: {', '.join(zeros)}")
    return tensors, remarks


def check_finite(source: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises ConversionError, naming the source, if a tensor holds NaN or infinity."""
    try:
        _check_finite(tensors, tensors)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from None


def _check_finite(tensors: Mapping[str, np.ndarray], stored: Mapping[str, np.ndarray]) -> None:
    """Raises ConversionError if a tensor holds NaN or infinity, naming the tensor and the count and kind of such
    values.

    Args:
      tensors: name -> array; those of floating-point numbers are float32.
      stored: the same as stored in the file; large numbers may have become infinite since.
    """
    bad = [name for name, array in tensors.items() if array.dtype == np.float32 and not np.isfinite(array).all()]
    if bad:
        listed = ", ".join(_describe_bad(name, tensors[name], stored[name]) for name in bad[:5])
        raise ConversionError(
            f"{len(bad)} of {len(tensors)} tensors have values that are no float32 numbers, and a model with them "
            f"gives nothing: {listed}{', ...' if len(bad) > 5 else ''}; take weights from before the training diverged"
        )


def _describe_bad(name: str, tensor: np.ndarray, array: np.ndarray) -> str:
    not_numbers, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    too_large = int((~np.isfinite(tensor)).sum()) - not_numbers - infinite
    counts = {"NaN": not_numbers, "infinite": infinite, f"too large in {array.dtype}": too_large}
    return f"{name} ({', '.join(f'{count} {what}' for what, count in counts.items() if count)})"
