"""Parameters in a TorchScript archive, read without running its code.

Such an archive holds a program beside its weights, and `torch.jit.load` may run parts of it. OpenAI published CLIP in
this form. Here the pickle that says which tensor is which is read with classes that do nothing, and the program's text
is searched only for the names of parameters.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flair_jax.weights.param_map import ConversionError

_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Where a class of the program lists its parameters and buffers; other tensors of an object are neither.
_STATE = re.compile(r"class (\w+)\(Module\):\s*__parameters__ = \[([^\]]*)\]\s*__buffers__ = \[([^\]]*)\]")

_LONGEST_PROGRAM = 16_000_000


class _Module:
    """Stands for any object of the program: its attributes, and nothing that runs."""

    program_class = ("", "")

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


class _Unpickler(pickle._Unpickler):  # in Python: that in C makes room for as many values as a file claims to have
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(_member(archive, f"{root}/data.pkl")))
        self._archive, self._root = archive, root
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return type("Module", (_Module,), {"program_class": (module, name)})
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): collections.OrderedDict,
        }
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and re.fullmatch(r"build_\w+list", name):
            return list
        if (module, name) not in known:
            raise ConversionError(f"it holds a {module}.{name}, which is neither a module nor a plain tensor")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(key, str):
            raise ConversionError(f"it refers to {kind!r}, which is no tensor's memory")
        if key not in self._storages:
            self._storages[key] = np.frombuffer(_member(self._archive, f"{self._root}/data/{key}"), dtype)
        return self._storages[key][:count]


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes; PyTorch compresses only the program, so anything that expands a lot is a zip bomb."""
    info = archive.getinfo(name)
    if info.file_size > max(_LONGEST_PROGRAM, info.compress_size):
        raise ConversionError(f"its {name} is packed to {info.compress_size:,} of {info.file_size:,} bytes")
    return archive.read(info)


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    steps = [(length - 1) * step for length, step in zip(size, stride, strict=True)]
    inside = min((offset, *size, *stride)) >= 0 and offset + sum(steps) < len(storage)
    if math.prod(size) and (not inside or math.prod(size) > len(storage)):
        raise ConversionError(f"a tensor of shape {list(size)} is larger than its memory")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def read_torchscript(path: Path) -> dict[str, np.ndarray]:
    """The state dict of the module in a TorchScript archive, as `torch.jit.load(path).state_dict()` would give it.

    Raises:
      ConversionError: if the archive is damaged, or holds more than modules, tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = next(name.removesuffix("/data.pkl") for name in names if re.fullmatch(r"[^/]+/data\.pkl", name))
            if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
                raise ConversionError("its numbers are in big-endian order")
            return dict(_parameters(_Unpickler(archive, root).load(), archive, f"{root}/code/", ""))
    except ConversionError as error:
        raise ConversionError(f"{path}: refused as a TorchScript archive, because {error}") from None
    except Exception as error:  # a damaged file leads a pickle to any kind
        raise ConversionError(f"{path}: not a readable TorchScript archive, or damaged ({error})") from None


def _parameters(module: Any, archive: zipfile.ZipFile, code: str, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    if not isinstance(module, _Module):
        raise ConversionError("what it holds is no module")
    file, name = module.program_class
    text = _member(archive, f"{code}{file.replace('.', '/')}.py").decode()
    declared = next((match[2] + match[3] for match in _STATE.finditer(text) if match[1] == name), None)
    if declared is None:
        raise ConversionError(f"its program does not say which tensors of {file}.{name} are parameters")
    own = set(re.findall(r'"([^"]*)"', declared))
    for key, value in vars(module).get("state", {}).items():
        if isinstance(value, _Module):
            yield from _parameters(value, archive, code, f"{prefix}{key}.")
        elif key in own and isinstance(value, np.ndarray):
            yield f"{prefix}{key}", value
