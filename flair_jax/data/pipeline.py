"""Training batches: shuffled, cropped, with sampled captions; each process's part. Imports no JAX.

Everything about a sample follows from (seed, epoch, number of the sample), and its place in the stream from (seed,
position). So batch s is the same on any number of processes and workers, and a stream that starts at batch s continues
like one that reached it from 0: its whole state is that number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import socket
from collections.abc import Generator, Sequence
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from flair_jax.data.captions import sample_caption
from flair_jax.data.image import open_training_picture, random_crop_box, resized_crop
from flair_jax.data.packing import Packing
from flair_jax.data.read_ahead import read_ahead
from flair_jax.data.sources import Concatenated, Record, Source
from flair_jax.data.tokenizer import TOKENIZERS, Tokenizer
from flair_jax.data.workers import Worker, send_result
from flair_jax.errors import DatasetError, FlairError, StorageError, plural
from flair_jax.models.tokens import PackedTexts

# Neighbours tried for a picture that does not decode.
_REPLACEMENTS = 10

# The fields of a `LocalBatch`.
_Rows = tuple[np.ndarray, np.ndarray | PackedTexts, np.ndarray, int, int]


class SourceError(DatasetError):
    """A source that fails, which no other sample can replace."""


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How a sample becomes arrays.

    Attributes:
      seed: of order, crops and captions.
      image_size: S, side of the pictures in pixels.
      interpolation: how they are resized; see `flair_jax.models.config.VisionConfig`.
      context_length: T, tokens of a caption.
      captions_per_image: K.
      merged_sentences: see `sample_caption`.
      crop_scale: see `random_crop_box`.
      tokenizer: the model's.
      packing: of one process's captions; None: each is padded to a row of its own.
    """

    seed: int
    image_size: int
    context_length: int
    captions_per_image: int
    merged_sentences: int = 3
    crop_scale: tuple[float, float] = (0.9, 1.0)
    tokenizer: Tokenizer = TOKENIZERS["clip"]
    packing: Packing | None = None
    interpolation: str = "bicubic"


class LocalBatch(NamedTuple):
    """One process's rows of a batch: n pictures, and for each K captions.

    Attributes:
      pixels: uint8 [n, S, S, 3].
      tokens: int32 [n*K, T], or packed.
      samples: int64 [n], the numbers of the samples in the source.
      skipped: how many samples could not be used, and were replaced by the next.
      cut: how many captions had no room in the packed rows, and were cut.
    """

    pixels: np.ndarray
    tokens: np.ndarray | PackedTexts
    samples: np.ndarray
    skipped: int
    cut: int = 0


class Sample(NamedTuple):
    """One sample: pixels uint8 [S, S, 3], tokens int32 [K, T], and its number."""

    pixels: np.ndarray
    tokens: np.ndarray
    number: int


def load_sample(
    source: Source, settings: SampleSettings, epoch: int, number: int, named: set[int] | None = None
) -> Sample:
    """One sample in one epoch; if its picture or its captions cannot be used, the next that can, with a warning.

    `named` has the numbers of samples that were warned of, and are not again; new ones are added.

    Raises:
      DatasetError: if the next ones cannot be used either, or the source itself fails.
    """
    rng = np.random.default_rng([settings.seed, epoch, number])
    tried, first, named = min(_REPLACEMENTS, len(source)), "", set() if named is None else named
    for offset in range(tried):
        chosen = (number + offset) % len(source)
        try:
            record = _record(source, chosen)
            if not record.sentences:
                raise DatasetError("there is no caption")
            picture = open_training_picture(record.image)
        except (SourceError, StorageError):  # it is not the sample's fault
            raise
        except FlairError as error:
            if chosen not in named:
                logging.warning("sample %d is skipped (%s): %s", chosen, source.where(chosen), error)
            named.add(chosen)
            first = first or f"{source.where(chosen)}: {error}"
            continue
        box = random_crop_box(*picture.size, rng, settings.crop_scale)
        pixels = resized_crop(picture, box, settings.image_size, settings.interpolation)
        try:
            captions = draw_captions(record, rng, settings)
        except DatasetError as error:
            raise DatasetError(f"{source.where(chosen)}: {error}") from None
        tokens = settings.tokenizer.tokenize(captions, settings.context_length)
        return Sample(pixels, tokens, chosen)
    raise DatasetError(
        f"the training data: {plural(tried, 'sample')} from number {number:,} on cannot be used, the first for this "
        f"reason: {first}; `flair-jax data check` names all"
    )


def _record(source: Source, number: int) -> Record:
    """A record of a source, which may be a user's program."""
    try:
        record = source[number]
    except FlairError:
        raise
    except Exception as error:
        raise SourceError(
            f"{source.where(number)}: its source has failed ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    if not isinstance(record, Record) or isinstance(record.sentences, str):
        found = "sentences in one text" if isinstance(record, Record) else type(record).__name__
        wanted = "a flair_jax.data.Record with a list of sentences"
        raise SourceError(f"{source.where(number)}: its source must give {wanted}, not {found}")
    return record


def draw_captions(record: Record, rng: np.random.Generator, settings: SampleSettings) -> list[str]:
    """The K captions of a record that has sentences, in one epoch.

    Raises:
      DatasetError: if the record's own `draw` gives another number of them; the message is the reason alone.
    """
    count = settings.captions_per_image
    if record.draw is None:
        return [sample_caption(record.sentences, rng, settings.merged_sentences) for _ in range(count)]
    captions = list(record.draw(rng, count))
    if len(captions) != count:
        raise DatasetError(f"its source draws {len(captions)} captions; config.captions_per_image is {count}")
    return captions


def batches(
    sources: Sequence[Source],
    settings: SampleSettings,
    batch_size: int,
    *,
    weights: Sequence[float] = (),
    first: int = 0,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Generator[LocalBatch, None, None]:
    """An endless stream of one process's part of each batch.

    Without weights an epoch is every sample of every source once, in a new random order each time. With weights each
    source has epochs of its own, and contributes its share to the stream. A batch may span two epochs. A sample that
    cannot be used is warned of once by each worker, and counted whenever it is drawn.

    Args:
      sources: the samples, numbered consecutively over all sources.
      settings: how they become arrays.
      batch_size: rows over all processes; each process has an equal, contiguous part, in the order of the processes.
      weights: relative shares of the sources in the stream; proportional to their sizes if not given.
      first: number of the batch to start with.
      process: number of this process.
      processes: how many there are.
      workers: processes that load; 0: a thread of this process. Neither this nor `processes` changes the batches, but
        for how packed captions lie in rows, and which of them are cut if some must be.

    Raises:
      DatasetError: if the source is empty.
      WorkerError: if a worker dies.
    """
    loaded = _loaded(sources, settings, batch_size, weights, first, process, processes)
    with contextlib.closing(_from_workers(loaded, workers) if workers else _ahead(loaded)) as stream:
        for rows in stream:
            yield LocalBatch(*rows)


def first_rows(
    sources: Sequence[Source], settings: SampleSettings, count: int, *, weights: Sequence[float] = ()
) -> LocalBatch:
    """The first `count` rows of the stream, loaded at once by this thread; see `batches`."""
    return LocalBatch(*_loaded(sources, settings, count, weights)[0])


def _loaded(
    sources: Sequence[Source],
    settings: SampleSettings,
    batch_size: int,
    weights: Sequence[float],
    first: int = 0,
    process: int = 0,
    processes: int = 1,
) -> grain.MapDataset:
    """One process's batches by number, from `first` on."""
    if not all(map(len, sources)):
        raise DatasetError("the training data holds no samples")
    ends = np.cumsum([len(source) for source in sources]).tolist()
    if weights:
        order = grain.MapDataset.mix(
            [
                _shuffled(end - len(source), end, settings.seed + number)
                for number, (source, end) in enumerate(zip(sources, ends, strict=True))
            ],
            weights,
        )
    else:
        order = _shuffled(0, ends[-1], settings.seed)
    parts = order.batch(batch_size // processes, drop_remainder=True, batch_fn=list)
    mine = parts.slice(slice(first * processes + process, None, processes))
    return mine.map(_LoadRows(Concatenated(sources), settings))


def _from_workers(loaded: grain.MapDataset, workers: int) -> Generator[_Rows, None, None]:
    """Loads batches with worker processes, in turn."""
    with contextlib.ExitStack() as stack:
        started: list[Worker[_Rows]] = [stack.enter_context(Worker()) for _ in range(workers)]
        for number, worker in enumerate(started):
            worker.send(functools.partial(_send_all, loaded.slice(slice(number, None, workers))))
        while True:
            for worker in started:
                yield worker.receive()


def _send_all(loaded: grain.MapDataset, channel: socket.socket) -> None:
    for rows in _ahead(loaded):
        send_result(channel, rows)


def _ahead(loaded: grain.MapDataset) -> Generator[_Rows, None, None]:
    """Batches in order, loaded by a thread that stays two ahead."""
    if not flags.FLAGS.is_parsed():  # Grain reads its own flags, and refuses to where absl's main has not run
        flags.FLAGS.mark_as_parsed()
    with contextlib.closing(
        iter(loaded.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
    ) as iterator:
        yield from iterator


def _shuffled(start: int, stop: int, seed: int) -> grain.MapDataset:
    """Endless epochs of range(start, stop), each in a new order, as (epoch, number)."""
    numbers = grain.MapDataset.range(start, stop).shuffle(seed=seed).repeat()
    return numbers.map_with_index(_WithEpoch(stop - start))


# Classes rather than closures, so that they pickle to worker processes.
@dataclasses.dataclass(frozen=True)
class _WithEpoch:
    samples: int

    def __call__(self, position: int, number: int) -> tuple[int, int]:
        return position // self.samples, number


@dataclasses.dataclass(frozen=True)
class _LoadRows:
    source: Concatenated
    settings: SampleSettings
    named: set[int] = dataclasses.field(default_factory=set, compare=False)

    def __call__(self, rows: list[tuple[int, int]]) -> _Rows:
        with read_ahead(self.source, [int(number) for _, number in rows]) as source:
            loaded = [load_sample(source, self.settings, epoch, int(number), self.named) for epoch, number in rows]
        skipped = sum(sample.number != number for sample, (_, number) in zip(loaded, rows, strict=True))
        pixels, tokens, numbers = zip(*loaded, strict=True)
        padded, packing = np.concatenate(tokens), self.settings.packing
        texts, cut = packing.pack(padded) if packing else (padded, 0)
        return np.stack(pixels), texts, np.array(numbers, np.int64), skipped, cut
