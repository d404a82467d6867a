"""Token lengths of training captions, and how many rows they need when they are packed. Imports no JAX."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from flair_jax.data.packing import place, rows_of
from flair_jax.data.pipeline import SampleSettings, draw_captions
from flair_jax.data.sources import Source
from flair_jax.data.workers import parallel
from flair_jax.errors import DatasetError
from flair_jax.models.tokens import find_end
from flair_jax.progress import ProgressBar
from flair_jax.setting_checks import FEWEST_TOKENS

# Steps that may cut a caption, as a share of all: the last is that of the recommended budget.
SHARES_OF_STEPS = (1e-2, 1e-4, 1e-6)

_CHUNK = 64
_SIMULATED_CAPTIONS = 200_000
_FEWEST_GROUPS, _MOST_GROUPS = 50, 1000


@dataclasses.dataclass(frozen=True)
class CaptionLengths:
    """Tokens of drawn captions, with start and end, as the model sees them.

    Attributes:
      images: how many images captions were drawn for.
      captions_per_image: K.
      context_length: T; a longer caption is cut to it.
      mean: of all captions.
      p50: half of them are at most so long.
      p90: likewise, 90 %.
      p99: likewise, 99 %.
      padding: share of padding if each is padded to T.
    """

    images: int
    captions_per_image: int
    context_length: int
    mean: float
    p50: int
    p90: int
    p99: int
    padding: float


@dataclasses.dataclass(frozen=True)
class Budget:
    """A value of `config.packing.tokens_per_caption`.

    Attributes:
      tokens_per_caption: the value.
      rows: of a group.
      steps_that_cut: the calculated share of steps that cut a caption, in any group.
      groups_that_cut: how many of the simulated groups did.
    """

    tokens_per_caption: float
    rows: int
    steps_that_cut: float
    groups_that_cut: int


@dataclasses.dataclass(frozen=True)
class PackingAdvice:
    """How many rows the captions of a step need.

    Attributes:
      row_tokens: P.
      groups: of a step; see `flair_jax.models.PackedTexts`.
      captions: of a group.
      simulated: how many groups were packed.
      spread: standard deviation of a group's tokens, relative to their mean.
      fill: share of the rows' tokens that is not padding, if each simulated group had just the rows that it needs.
      budgets: one for each of `SHARES_OF_STEPS`, and then for other values that were asked for.
      tokens_per_caption: the recommended value.
    """

    row_tokens: int
    groups: int
    captions: int
    simulated: int
    spread: float
    fill: float
    budgets: list[Budget]
    tokens_per_caption: float


def draw_lengths(
    source: Source,
    settings: SampleSettings,
    end_of_text_id: int | None,
    *,
    images: int = 20_000,
    processes: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """Lengths of captions that are drawn, cut and tokenised as for training.

    Args:
      source: the data set; records that cannot be used are left out.
      settings: of the captions; the pictures are not decoded.
      end_of_text_id: see `flair_jax.models.tokens.find_end`.
      images: how many, spread at random over the set; each once if it has fewer.
      processes: how many read at once; 0: one for each core.
      progress: whether to show a progress bar.

    Returns:
      int64 [images, K], with start and end.
    """
    count = min(images, len(source))
    chosen = np.sort(np.random.default_rng(settings.seed).choice(len(source), count, replace=False))
    chunks = [chosen[start : start + _CHUNK].tolist() for start in range(0, count, _CHUNK)]
    look = functools.partial(_lengths_of, source, settings, end_of_text_id)
    found = parallel(
        look, chunks, processes=processes, description="draw captions", unit="sample", size=len, progress=progress
    )
    return np.concatenate([np.zeros((0, settings.captions_per_image), np.int64), *found])


def _lengths_of(
    source: Source, settings: SampleSettings, end_of_text_id: int | None, numbers: Sequence[int]
) -> np.ndarray:
    lengths = []
    for number in numbers:
        try:
            record = source[number]
        except DatasetError:  # `flair_jax.data.build.survey` names it
            continue
        if not record.sentences:
            continue
        try:
            captions = draw_captions(record, np.random.default_rng([settings.seed, 0, number]), settings)
        except DatasetError as error:
            raise DatasetError(f"{source.where(number)}: {error}") from None
        tokens = settings.tokenizer.tokenize(captions, settings.context_length)
        lengths.append(find_end(tokens, end_of_text_id) + 1)
    return np.array(lengths, np.int64).reshape(-1, settings.captions_per_image)


def describe(lengths: np.ndarray, context_length: int) -> CaptionLengths:
    """The distribution of lengths [images, K], of which there must be one."""
    p50, p90, p99 = (int(each) for each in np.percentile(lengths, (50, 90, 99), method="higher"))
    (images, captions), mean = lengths.shape, float(lengths.mean())
    return CaptionLengths(images, captions, context_length, mean, p50, p90, p99, 1 - mean / context_length)


def advise(
    lengths: np.ndarray,
    *,
    row_tokens: int,
    images: int,
    groups: int,
    budgets: Sequence[float] = (),
    progress: bool = True,
) -> PackingAdvice:
    """How many tokens a caption need be reserved, and how often captions are cut then.

    Groups of images drawn with replacement are packed as in training. The most rows beyond its tokens' own that any of
    them needs are set aside. How often a group's tokens exceed the other rows is far too rare to be counted; it is
    calculated: the measured distribution of an image's tokens, convolved with itself. So the sum is not taken to be
    normal, and captions of an image may depend on each other; images are taken to be independent.

    Args:
      lengths: int [N, K] of measured captions, the K of an image in a row.
      row_tokens: P.
      images: of a group.
      groups: of a step.
      budgets: other values of `tokens_per_caption` whose odds are wanted.
      progress: whether to show a progress bar.
    """
    captions, of_image = images * lengths.shape[1], lengths.sum(axis=1)
    count = min(max(_SIMULATED_CAPTIONS // captions, _FEWEST_GROUPS), _MOST_GROUPS)
    rng = np.random.default_rng(0)
    sums, needed = np.zeros((2, count), np.int64)
    for number in ProgressBar(range(count), description="pack", unit="group", shown=progress):
        group = lengths[rng.integers(0, len(lengths), images)].ravel()
        sums[number], needed[number] = group.sum(), _rows_needed(group, row_tokens)
    odds = _Odds(row_tokens, groups, captions, sums, needed, _odds_of_more(of_image, images))
    least = [odds.cheapest(share) for share in SHARES_OF_STEPS]
    others = [each for each in map(odds.budget, budgets) if each not in least]
    return PackingAdvice(
        row_tokens=row_tokens,
        groups=groups,
        captions=captions,
        simulated=count,
        spread=float(of_image.std() / of_image.mean()) / math.sqrt(images),
        fill=float(sums.sum() / (needed.sum() * row_tokens)),
        budgets=[*least, *others],
        tokens_per_caption=least[-1].tokens_per_caption,
    )


@dataclasses.dataclass(frozen=True)
class _Odds:
    """How often a step of so many groups cuts a caption; `sums` and `needed` are tokens and rows of simulated ones."""

    row_tokens: int
    groups: int
    captions: int
    sums: np.ndarray
    needed: np.ndarray
    exceeds: np.ndarray

    def of_step(self, rows: int) -> float:
        """The share of steps that cut, with so many rows for each group."""
        if rows >= self.captions:
            return 0.0
        wasted = int((self.needed - -(-self.sums // self.row_tokens)).max())
        room = max(rows - wasted, 0) * self.row_tokens
        one = float(self.exceeds[room]) if room < len(self.exceeds) else 0.0
        return -math.expm1(self.groups * math.log1p(-one)) if one < 1 else 1.0

    def budget(self, tokens_per_caption: float) -> Budget:
        """What a value means."""
        rows = rows_of(self.captions, tokens_per_caption, self.row_tokens)
        return Budget(tokens_per_caption, rows, self.of_step(rows), int((self.needed > rows).sum()))

    def cheapest(self, share: float) -> Budget:
        """The least value, in tenths, with which at most this share of steps cuts."""
        rows = next(rows for rows in range(1, self.captions + 1) if self.of_step(rows) <= share)
        tenths = math.ceil(round(10 * rows * self.row_tokens / self.captions, 6))
        return self.budget(max(tenths / 10, FEWEST_TOKENS))


def _rows_needed(lengths: np.ndarray, row_tokens: int) -> int:
    """The fewest rows in which no caption is cut: those that `place` uses if it has one for each.

    It begins another only if a caption fits in none of those begun, so with fewer than these some caption is cut.
    """
    return len(np.unique(place(lengths, len(lengths), row_tokens)[0]))


def _odds_of_more(sums: np.ndarray, images: int) -> np.ndarray:
    """How likely so many images have more tokens than each number: float64 [1 + images * the largest sum].

    Args:
      sums: int [N], tokens of each measured image, each of which is as likely.
      images: how many are drawn, with replacement.
    """
    size = 1 + images * int(sums.max())
    of_one = np.bincount(sums) / len(sums)
    of_all = np.clip(np.fft.irfft(np.fft.rfft(of_one, size) ** images, size), 0, None)
    return np.append(np.cumsum(of_all[:0:-1])[::-1], 0.0)
