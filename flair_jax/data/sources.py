"""Training pictures with sentences, by number. Imports no JAX."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flair_jax.data.captions import split_sentences
from flair_jax.errors import DatasetError
from flair_jax.files import expand

_PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclasses.dataclass(frozen=True)
class Record:
    """One training sample.

    Attributes:
      image: the encoded picture (JPEG, PNG, ...).
      sentences: its description, one sentence each.
      url: where the picture comes from; "" if that is not known.
      draw: (rng, K) -> the K captions of one step, in an order that a loss may rely on, instead of FLAIR's sampling of
        `sentences` (`sample_caption`). The only source of randomness is `rng`, which is another in each epoch.
    """

    image: bytes
    sentences: list[str]
    url: str = ""
    draw: Callable[[np.random.Generator, int], Sequence[str]] | None = None


class Source(Protocol):
    """Samples by number; opened again in every worker process, so it must pickle."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...
    def where(self, index: int) -> str:
        """Where a sample lies, for messages."""
        ...


def open_tfds(name: str, data_dir: str | Path, split: str, *, hint: str) -> tuple[Any, Sequence[Any]]:
    """Opens a prepared TFDS data set in a random-access format (`array_record`), without TensorFlow.

    Args:
      name: of the data set, with config and version if there are several: "scenes", "my_set/large:1.0.0".
      data_dir: TFDS's folder, which has one folder for each data set.
      split: such as "train" or "train[:10%]".
      hint: what to do if it is not there.

    Returns:
      Its features, and its records by number, with pictures as they are encoded.

    Raises:
      DatasetError: if it is not there, or cannot be read by number.
    """
    import tensorflow_datasets as tfds

    if name.endswith(_PACKED_TARS):
        raise DatasetError(
            f"{name}: tars are read by number, so they must not be compressed; unpack them to .tar files"
        )
    if "://" in str(data_dir) and not str(data_dir).startswith("gs://"):
        raise DatasetError(f"{data_dir}: data sets of TFDS are read from disks and from gs:// only; use tars there")
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise DatasetError(f"{data_dir}: no prepared data set {name} there; {hint}") from None
    except ValueError as error:
        if "builder name" not in str(error):
            raise DatasetError(f"{data_dir}: the data set {name} cannot be read ({error})") from error
        raise DatasetError(f"{name}: is not the name of a data set, such as NAME/CONFIG:VERSION; {hint}") from None
    except Exception as error:  # a damaged folder leads TFDS to any kind
        raise DatasetError(f"{data_dir}: the data set {name} cannot be read ({error})") from error
    features = builder.info.features
    pictures = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    try:
        return features, builder.as_data_source(split, decoders={name: tfds.decode.SkipDecoding() for name in pictures})
    except NotImplementedError:
        raise DatasetError(
            f"{data_dir}: {name} is stored in a format that cannot be read by number; prepare it with "
            "file_format=array_record"
        ) from None
    except (ValueError, KeyError) as error:
        raise DatasetError(f"{name}, split {split}: cannot be opened ({error})") from None


class TfdsSource:
    """A prepared TFDS data set in a random-access format (`array_record`), read without TensorFlow.

    It has a feature `image`, and `captions` (a sequence of sentences) or `caption` (one text, split when read).
    """

    def __init__(self, name: str, data_dir: str | Path, split: str) -> None:
        """Opens the data set.

        Args:
          name: of the data set, with config and version if there are several: "scenes", "my_set/large:1.0.0".
          data_dir: TFDS's folder, which has one folder for each data set; may be the URL of a bucket.
          split: such as "train" or "train[:10%]".

        Raises:
          DatasetError: if it is not there, or not as above.
        """
        folder = data_dir if "://" in str(data_dir) else expand(data_dir)
        hint = "correct the name or the folder; tars are named as in FOLDER/*.tar"
        if name and Path(name).is_dir():
            hint = (
                f"{name} is a folder: name its tars, as in {name}/*.tar; pictures with one .jsonl file are the set "
                f"`folder` with --data-dir {name} (of train: --config.data.name=folder --config.data.dir={name})"
            )
        features, self._data = open_tfds(name, folder, split, hint=hint)
        names = [name for name in ("captions", "caption") if name in features]
        if "image" not in features or not names:
            raise DatasetError(f"{name}: needs the features image and captions (or caption), has {', '.join(features)}")
        self._name, self._captions = name, names[0]
        self._has = set(features)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Record:
        record = self._data[index]
        captions = record[self._captions]
        url = record["url"].decode("utf-8", "surrogateescape") if "url" in self._has else ""
        try:
            if self._captions == "caption":
                return Record(record["image"], split_sentences(captions.decode("utf-8")), url)
            return Record(record["image"], [caption.decode("utf-8") for caption in captions], url)
        except UnicodeDecodeError:
            raise DatasetError(f"{self.where(index)}: a caption has bytes that are not UTF-8") from None

    def where(self, index: int) -> str:
        """The number of the record, and its key if it has one."""
        return f"{self._name}: record {index}" + (
            f" ({self._data[index]['key'].decode('utf-8', 'backslashreplace')})" if "key" in self._has else ""
        )


class Concatenated:
    """Several sources, one after the other.

    Attributes:
      sources: at least one.
      concurrent_reads: how many samples may be asked for at once, by threads; 0: one after the other. A source has that
        attribute if its samples come over a network.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        """Takes at least one source."""
        self.sources = tuple(sources)
        self._ends = list(itertools.accumulate(map(len, sources)))
        self.concurrent_reads = min(getattr(source, "concurrent_reads", 0) for source in sources)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        source, number = self._find(index)
        return source[number]

    def where(self, index: int) -> str:
        """Where the source has the sample."""
        source, number = self._find(index)
        return source.where(number)

    def _find(self, index: int) -> tuple[Source, int]:
        which = bisect.bisect_right(self._ends, index)
        return self.sources[which], index - (self._ends[which - 1] if which else 0)
