"""Labelled pictures by number: in files, in memory, in TFDS data sets. Imports no JAX."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from flair_jax.data.sources import open_tfds
from flair_jax.errors import DatasetError


class LabelledExample(NamedTuple):
    """One labelled picture: a file, the bytes of one, or pixels; its class by number; where it lies, for messages."""

    picture: Path | bytes | Image.Image
    label: int
    where: str


@runtime_checkable
class Examples(Protocol):
    """Labelled pictures by number; read by several threads at once."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> LabelledExample: ...
    def identity(self) -> str:
        """A value that changes when the pictures or labels do."""
        ...


class FileExamples:
    """Pictures in files."""

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        """Takes paths and labels."""
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> LabelledExample:
        path, label = self._files[index]
        return LabelledExample(path, label, str(path))

    def identity(self) -> str:
        """The paths and labels."""
        return str(self._files)


class ArrayExamples:
    """Pictures in memory."""

    def __init__(self, path: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
        """Takes uint8 [N, H, W, 3] and integers [N] that were read from a file."""
        self._path, self._pictures, self._labels = path, pictures, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> LabelledExample:
        where = f"{self._path}, picture {index}"
        return LabelledExample(Image.fromarray(self._pictures[index]), int(self._labels[index]), where)

    def identity(self) -> str:
        """A hash of all."""
        return hashlib.sha256(self._pictures.tobytes() + self._labels.tobytes()).hexdigest()


class TfdsExamples:
    """A prepared TFDS data set with the features `image` and `label`."""

    def __init__(self, name: str, data_dir: Path, split: str, labels: Sequence[str]) -> None:
        """Opens it; `labels` are the names that its labels must have."""
        features, self._data = open_tfds(
            name, data_dir, split, hint=f"prepare it with `tfds build {name} --file_format=array_record`"
        )
        if not {"image", "label"} <= set(features):
            raise DatasetError(f"{name}: needs the features image and label, has {', '.join(features)}")
        found = [label.replace("_", " ") for label in features["label"].names]
        if found not in (list(labels), [str(number) for number in range(len(labels))]):  # the latter: without names
            raise DatasetError(f"{data_dir / name}: its labels are not those of {name}; prepare it again")
        self._where, self._split = str(data_dir / name), split

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> LabelledExample:
        record: Any = self._data[index]
        return LabelledExample(record["image"], int(record["label"]), f"{self._where}, {self._split}, record {index}")

    def identity(self) -> str:
        """What TFDS calls it, and its sizes."""
        info: Any = self._data
        split = info.dataset_info.splits[self._split]
        return f"{self._where} {info.dataset_info.full_name} {self._split} {split.shard_lengths} {int(split.num_bytes)}"
