"""Training pictures with sentences, by number. Imports no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from flair_jax.data.captions import split_sentences
from flair_jax.errors import DatasetError


@dataclasses.dataclass(frozen=True)
class Record:
    """One training sample.

    Attributes:
      image: the encoded picture (JPEG, PNG, ...).
      sentences: what is said of it, one sentence each.
    """

    image: bytes
    sentences: list[str]


class Source(Protocol):
    """Samples by number; opened again in every worker process, so it must pickle."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...


class TfdsSource:
    """A prepared TFDS data set in a random-access format (`array_record`), read without TensorFlow.

    It has a feature `image`, and `captions` (a sequence of sentences) or `caption` (one text, split when read).
    """

    def __init__(self, name: str, data_dir: Path, split: str) -> None:
        """Opens the data set.

        Args:
          name: of the data set, with config and version if there are several: "scenes", "my_set/large:1.0.0".
          data_dir: TFDS's folder, which has one folder for each data set.
          split: such as "train" or "train[:10%]".

        Raises:
          DatasetError: if it is not there, or not as above.
        """
        import tensorflow_datasets as tfds

        try:
            builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError:
            raise DatasetError(
                f"{data_dir}: no prepared data set {name} there; set config.data.dir and config.data.name"
            ) from None
        except Exception as error:  # a damaged folder leads TFDS to any kind
            raise DatasetError(f"{data_dir}: the data set {name} cannot be read ({error})") from error
        features = builder.info.features
        names = [name for name in ("captions", "caption") if name in features]
        if "image" not in features or not names:
            raise DatasetError(f"{name}: needs the features image and captions (or caption), has {', '.join(features)}")
        self._captions = names[0]
        pictures = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
        try:
            self._data: Sequence[Any] = builder.as_data_source(
                split, decoders={name: tfds.decode.SkipDecoding() for name in pictures}
            )
        except (ValueError, NotImplementedError, KeyError) as error:
            raise DatasetError(f"{name}, split {split}: cannot be opened ({error})") from None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Record:
        record = self._data[index]
        captions = record[self._captions]
        if self._captions == "caption":
            return Record(record["image"], split_sentences(captions.decode("utf-8")))
        return Record(record["image"], [caption.decode("utf-8") for caption in captions])
