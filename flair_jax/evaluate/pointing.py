"""Whether a model finds in pictures what phrases name: read, embed, map, and compare with boxes or outlines."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from flair_jax.data.image import preprocess
from flair_jax.data.sets.grounding_data import GroundingData
from flair_jax.evaluate.localization import (
    boxes_match,
    centres_within,
    chosen_pixels,
    intersection_over_union,
    points_at,
    winning_patches,
)
from flair_jax.models.config import VisionConfig
from flair_jax.models.flair import Flair
from flair_jax.progress import ProgressBar
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import CutOff, check_broken, compute_in_blocks, cut_off, embed_texts
from flair_jax.scoring.maps import maps_of, pair_maps
from flair_jax.scoring.scorer import Retriever

# Maps that need no model, measured after the model's own: one that is the higher the nearer to the centre, and one that
# is the same everywhere, which points at random and chooses the whole picture.
BASELINES = ("centre", "uniform")
METRICS = ("pointing", "pixel_pointing", "mean_iou", "box_accuracy")
_PAIRS = 64  # pairs of picture and phrase whose maps are made at once over all devices


@dataclasses.dataclass(frozen=True)
class PointSettings:
    """How to evaluate.

    Attributes:
      batch_size: images, and likewise phrases, embedded at once over all devices.
      skip_broken: leave out pictures that cannot be read, or whose outlines cannot, instead of failing.
    """

    batch_size: int = 64
    skip_broken: bool = False


@dataclasses.dataclass(frozen=True)
class Pointing:
    """The outcome.

    Attributes:
      metrics: one of the model's maps (see `flair_jax.scoring.maps.MAPS`) or of `BASELINES` -> one of `METRICS` -> mean
        over the phrases, from 0 to 1.
      kinds: the same for the phrases of each kind, with their number as `phrases`.
      images: number of pictures.
      phrases: number of phrases.
      outlined: how many phrases of the set have outlines; the others have boxes.
      too_small: how many phrases name what covers a quarter of no patch, so that no map can point at it.
      left_out: how many phrases the set has besides, by the reason.
      cut_off: how much of the phrases exceeds the model's context.
      skipped: messages about pictures and outlines that could not be read.
      seconds: wall time.
    """

    metrics: dict[str, dict[str, float]]
    kinds: dict[str, dict[str, Any]]
    images: int
    phrases: int
    outlined: int
    too_small: int
    left_out: dict[str, int]
    cut_off: CutOff
    skipped: list[str]
    seconds: float


def point(
    model: Flair, retriever: Retriever, data: GroundingData, settings: PointSettings, store: BlockStore
) -> Pointing:
    """Evaluates one set, with progress bars on stderr.

    The whole picture is resized to the model's square, whatever the model's own way with pictures that are no square:
    what a phrase names may lie at the edge.

    Args:
      model: for its image size, its context length and which maps it has.
      retriever: the model on its devices.
      data: pictures, phrases and regions.
      settings: how.
      store: finished blocks go there; those of an earlier, stopped run are taken from there. Emptied at the end.

    Raises:
      DatasetError: listing the pictures that could not be read.
    """
    start = time.monotonic()
    texts = {text: number for number, text in enumerate(dict.fromkeys(data.texts))}

    def embed() -> np.ndarray:
        with ProgressBar(total=len(texts), description="texts", unit="text") as bar:
            return embed_texts(model, retriever, list(texts), settings.batch_size, bar)

    features = store.get_or_compute("texts", embed)[[texts[text] for text in data.texts]]
    maps = maps_of(model)
    mapper = _Mapper(
        retriever, jax.jit(partial(pair_maps, model)), len(maps), model.config.vision.grid, settings.batch_size
    )
    blocks, broken = compute_in_blocks(
        range(len(data.images)),
        partial(_read, data, model.config.vision),
        partial(_measure, mapper, features, max(map(len, data.phrases))),
        store,
        size=settings.batch_size,
        skip_broken=settings.skip_broken,
    )
    check_broken(broken, len(data.images), skip=settings.skip_broken)
    judged = [phrase for number, phrases in enumerate(data.phrases) if number not in broken for phrase in phrases]
    rows = np.concatenate([np.asarray(block.read()) for block in blocks])
    rows = rows[~np.isnan(rows[..., 0, 0])]
    store.remove()
    measured = (*maps, *BASELINES)
    return Pointing(
        _means(measured, rows),
        _by_kind(measured, rows, [data.kinds[phrase] for phrase in judged]),
        len(data.images) - len(broken),
        len(judged),
        sum(bool(data.regions[phrase].outlines) for phrase in judged),
        int((rows[:, measured.index("uniform"), METRICS.index("pointing")] == 0).sum()),
        data.left_out,
        cut_off(data.texts, model.config.text),
        list(broken.values()),
        time.monotonic() - start,
    )


class _Picture(NamedTuple):
    """One picture, as the model sees it, with its phrases' numbers and masks."""

    pixels: UInt8[np.ndarray, "S S 3"]
    phrases: Sequence[int]
    masks: Sequence[Bool[np.ndarray, "H W"]]


def _read(data: GroundingData, vision: VisionConfig, number: int) -> _Picture:
    picture, masks = data.read(number)
    pixels = preprocess(picture, dataclasses.replace(vision, resize_mode="squash"))
    return _Picture(pixels, data.phrases[number], masks)


class _Mapper(NamedTuple):
    """A model on its devices that makes maps of pictures."""

    retriever: Retriever
    pair_maps: Callable[..., jax.Array]  # jitted
    each: int  # how many maps a pair has
    grid: int
    batch_size: int

    def __call__(
        self, pictures: Sequence[_Picture], text: Float[np.ndarray, "N D"]
    ) -> list[Float[np.ndarray, "P M G G"]]:
        """The maps of each picture's phrases, of which `text` has the features, with the others of the set."""
        pixels = np.stack([picture.pixels for picture in pictures])
        local = self.retriever.encode_images(pixels, with_local=True, pad_to=self.batch_size)[:, 1:]
        counts = [len(picture.phrases) for picture in pictures]
        image = np.repeat(np.arange(len(pictures)), counts)
        features = text[[phrase for picture in pictures for phrase in picture.phrases]]
        found = [
            self.retriever.by_rows(
                "the maps of {pair}",
                self.pair_maps,
                _PAIRS,
                local[image[start : start + _PAIRS]],
                features[start : start + _PAIRS],
            )
            for start in range(0, len(image), _PAIRS)
        ]
        maps = np.concatenate(found).reshape(len(image), self.each, self.grid, self.grid)
        return np.split(maps, np.cumsum(counts)[:-1])


def _measure(
    mapper: _Mapper, text: Float[np.ndarray, "N D"], most: int, pictures: Sequence[_Picture]
) -> Float[np.ndarray, "B most M 4"]:
    """The metrics of each picture's phrases; NaN after the last."""
    result = np.full((len(pictures), most, mapper.each + len(BASELINES), len(METRICS)), np.nan, np.float32)
    masks = [picture.masks for picture in pictures]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, measured in zip(result, pool.map(measure_phrases, mapper(pictures, text), masks), strict=True):
            row[: len(measured)] = measured
    return result


def measure_phrases(
    maps: Float[np.ndarray, "P M G G"], masks: Sequence[Bool[np.ndarray, "H W"]]
) -> Float[np.ndarray, "P M+2 4"]:
    """The metrics of one picture's P phrases by M maps each, then of the centre and of a uniform map.

    Args:
      maps: of each phrase.
      masks: what each phrase names; all of one size.

    Returns:
      For each map whether it points at what is named, by patch and by pixel, its IoU with it, and whether the boxes
      around both match; see `flair_jax.evaluate.localization`. Where a map that needs no model is highest in several
      patches, the share of them that win.
    """
    grid, shape = maps.shape[-1], masks[0].shape
    baselines = [(each, chosen_pixels(each, shape)) for each in (centre_map(grid), np.zeros((grid, grid), np.float32))]
    result = np.empty((len(maps), maps.shape[1] + len(baselines), len(METRICS)), np.float32)
    for row, of_phrase, mask in zip(result, maps, masks, strict=True):
        games = winning_patches(mask, grid), centres_within(mask, grid)
        row[:] = [
            *(_judge([points_at(each, won) for won in games], chosen_pixels(each, shape), mask) for each in of_phrase),
            *(_judge([won[each == each.max()].mean() for won in games], chosen, mask) for each, chosen in baselines),
        ]
    return result


def _judge(
    points: Sequence[float | bool], chosen: Bool[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]
) -> list[float | bool]:
    return [*points, intersection_over_union(chosen, mask), boxes_match(chosen, mask)]


def centre_map(grid: int) -> Float[np.ndarray, "G G"]:
    """A map that falls with the distance from the picture's centre."""
    distance = np.abs(np.arange(grid) - (grid - 1) / 2)
    return -np.hypot(distance[:, None], distance[None, :]).astype(np.float32)


def _means(measured: tuple[str, ...], rows: Float[np.ndarray, "N M 4"]) -> dict[str, dict[str, float]]:
    means = rows.mean(axis=0, dtype=np.float64)
    return {name: dict(zip(METRICS, map(float, row), strict=True)) for name, row in zip(measured, means, strict=True)}


def _by_kind(
    measured: tuple[str, ...], rows: Float[np.ndarray, "N M 4"], kinds: Sequence[tuple[str, ...]]
) -> dict[str, dict[str, Any]]:
    """The means of each kind, the most frequent first; a phrase may be of several."""
    members: dict[str, list[int]] = {}
    for number, each in enumerate(kinds):
        for kind in dict.fromkeys(each):
            members.setdefault(kind, []).append(number)
    ordered = sorted(members, key=lambda kind: (-len(members[kind]), kind))
    return {kind: {"phrases": len(members[kind]), **_means(measured, rows[members[kind]])} for kind in ordered}
