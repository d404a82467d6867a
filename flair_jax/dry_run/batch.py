"""The first rows of a run's first batch, with their captions as text. Imports no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from flair_jax.data.pipeline import SampleSettings, first_rows
from flair_jax.data.sources import Concatenated, Source
from flair_jax.data.tokenizer import Tokenizer
from flair_jax.errors import FlairError

ROWS = 32  # at most: enough to see mistakes, and read in a second or two


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption of the batch.

    Attributes:
      text: what the model reads of it, from its token ids.
      tokens: how many it has, with start and end.
      cut: how many of them the model does not read.
      empty: whether it has none but start and end.
    """

    text: str
    tokens: int
    cut: int
    empty: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """An image of the batch, with its captions.

    Attributes:
      pixels: uint8 [S, S, 3], cropped and resized; all that is left to do is the model's normalisation.
      captions: K of them.
      where: where the sample lies.
    """

    pixels: np.ndarray
    captions: list[Caption]
    where: str


@dataclasses.dataclass(frozen=True)
class FirstBatch:
    """What was read.

    Attributes:
      rows: the first of the batch.
      skipped: samples that could not be used and were replaced; warnings name them.
    """

    rows: list[Row]
    skipped: int

    @property
    def captions(self) -> list[Caption]:
        """Those of all rows."""
        return [caption for row in self.rows for caption in row.captions]


class _Recorder:
    """A tokenizer's `tokenize`, which keeps the texts that it is given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str], context_length: int) -> np.ndarray:
        self.texts += texts
        return self._tokenizer.tokenize(texts, context_length)


def read_first(
    sources: Sequence[Source], settings: SampleSettings, batch_size: int, weights: Sequence[float] = ()
) -> FirstBatch:
    """Reads the first `ROWS` rows of a run's first batch as training does, and nothing else of the data.

    Args:
      sources: of the run.
      settings: likewise; captions are not packed here.
      batch_size: of the run.
      weights: of the sources.

    Raises:
      DatasetError: if no sample can be used.
    """
    tokenizer, recorder = settings.tokenizer, _Recorder(settings.tokenizer)
    recording = dataclasses.replace(tokenizer, tokenize=recorder)
    plain = dataclasses.replace(settings, tokenizer=recording, packing=None)
    batch = first_rows(sources, plain, min(batch_size, ROWS), weights=weights)
    each, room = settings.captions_per_image, tokenizer.room(settings.context_length)
    counts = tokenizer.count_tokens(recorder.texts).tolist()
    texts = [_text_of(tokenizer, ids, min(count, room)) for ids, count in zip(batch.tokens, counts, strict=True)]
    ends = settings.context_length - room  # start and end, as `data stats` counts them too
    captions = [
        Caption(text, count + ends, max(count - room, 0), not count) for text, count in zip(texts, counts, strict=True)
    ]
    every = Concatenated(sources)
    rows = [
        Row(pixels, captions[number * each : (number + 1) * each], _where(every, int(sample)))
        for number, (pixels, sample) in enumerate(zip(batch.pixels, batch.samples, strict=True))
    ]
    return FirstBatch(rows, batch.skipped)


def _text_of(tokenizer: Tokenizer, ids: np.ndarray, count: int) -> str:
    """The text of a caption's own tokens, which are `count`."""
    first = int(tokenizer.start is not None)
    own = ids[first : first + count].tolist()
    return tokenizer.decode(own) if tokenizer.decode else f"token ids {own}; this tokenizer cannot tell their text"


def _where(source: Concatenated, number: int) -> str:
    try:
        return f"sample {number}: {source.where(number)}"
    except (FlairError, OSError):  # it is a name for people
        return f"sample {number}"
