"""CIFAR-10 and CIFAR-100 from the files of their authors, in the binary and in the Python version. Imports no JAX."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from flair_jax.errors import DatasetError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


def read_binary(path: Path, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """A file of the binary version: rows of the labels, one byte each, and the pixels.

    Args:
      path: such as `cifar-10-batches-bin/test_batch.bin`.
      labels: bytes of labels in a row, the last of which is wanted: 1 for CIFAR-10, 2 for CIFAR-100 (coarse and fine).

    Returns:
      uint8 [N, 32, 32, 3] pictures and uint8 [N] labels.

    Raises:
      DatasetError: if the file's size is not that of whole rows.
    """
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % (labels + _PIXELS):
        raise DatasetError(f"{path}: {len(data):,} bytes are not whole rows of {labels + _PIXELS}; unpack it again")
    rows = data.reshape(-1, labels + _PIXELS)
    return _pictures(rows[:, labels:]), rows[:, labels - 1].copy()


def read_pickle(path: Path, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """A file of the Python version, which is a pickle; nothing in it is run.

    Args:
      path: such as `cifar-10-batches-py/test_batch`.
      labels: the entry of the labels: "labels" for CIFAR-10, "fine_labels" for CIFAR-100.

    Returns:
      As `read_binary`: images [N, 32, 32, 3], labels [N].

    Raises:
      DatasetError: if the file holds anything but lists, numbers, texts and an array of bytes, or not what is wanted.
    """
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        array, numbers = content[b"data"], np.array(content[labels.encode()], np.uint8)
        rows = np.frombuffer(array.content, np.uint8).reshape(-1, _PIXELS)
        if array.kind != "u1" or numbers.shape != rows.shape[:1] or array.fortran:
            raise ValueError(f"{len(numbers)} labels for {len(rows)} pictures of {array.kind}")
    except Exception as error:  # a damaged pickle leads to any kind
        raise DatasetError(f"{path}: is not as CIFAR's Python version has it ({error}); unpack it again") from None
    return _pictures(rows), numbers


def _pictures(rows: np.ndarray) -> np.ndarray:
    """uint8 [N, 3072], channel by channel -> uint8 [N, 32, 32, 3]."""
    return np.ascontiguousarray(rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


class _Array:
    """Stand-in for a NumPy array: keeps what the pickle says of it, and constructs nothing."""

    kind, fortran, content = "", False, b""

    def __setstate__(self, state: Any) -> None:
        _, _, dtype, self.fortran, self.content = state
        self.kind = dtype.kind


class _Dtype:
    """Stand-in for a NumPy dtype."""

    def __init__(self, kind: bytes | str, *_: object) -> None:
        self.kind = kind.decode() if isinstance(kind, bytes) else kind

    def __setstate__(self, state: object) -> None:
        """Byte order and such, which single bytes do not have."""


class _PlainUnpickler(pickle.Unpickler):
    """Knows only what arrays consist of, and only as stand-ins, so that nothing in a pickle is run."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy.ndarray": _Array,
            "numpy.dtype": _Dtype,
        }
        if f"{module}.{name}" not in known:
            raise ValueError(f"it asks for {module}.{name}")
        return known[f"{module}.{name}"]
