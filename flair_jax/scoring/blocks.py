"""Finished blocks of a long evaluation, kept on disk so that a stopped run resumes where it was. Imports no JAX."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flair_jax.buckets import is_remote
from flair_jax.files import remove_folder, replace_when_complete


class BlockStore:
    """Arrays by name: in a folder if there is one, else in memory.

    Each array appears in the folder whole or not at all, so that whatever exists can be trusted.
    """

    def __init__(self, folder: Path | None) -> None:
        """Opens a store.

        Args:
          folder: where to keep the arrays, one folder for each thing that they depend on; None for memory.
        """
        self._folder = folder
        self._memory: dict[str, np.ndarray] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._memory if self._folder is None else (self._folder / f"{name}.npy").is_file()

    def get(self, name: str) -> np.ndarray:
        """A stored array, of any shape; from a disk, mapped rather than read."""
        if self._folder is None:
            return self._memory[name]
        path = self._folder / f"{name}.npy"
        return np.load(io.BytesIO(path.read_bytes())) if is_remote(path) else np.load(path, mmap_mode="r")

    def put(self, name: str, array: np.ndarray) -> np.ndarray:
        """Stores an array, of any shape, and returns it as `get` does."""
        if self._folder is None:
            self._memory[name] = array
        else:
            with replace_when_complete(self._folder / f"{name}.npy") as partial, partial.open("wb") as file:
                np.save(file, array)
        return self.get(name)

    def get_or_compute(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The stored array, of any shape, or else a new one, which is stored."""
        return self.get(name) if name in self else self.put(name, compute())

    def remove(self) -> None:
        """Removes everything, once the result is safe elsewhere."""
        self._memory.clear()
        if self._folder is not None:
            remove_folder(self._folder)
