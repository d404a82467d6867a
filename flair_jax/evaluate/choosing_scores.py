"""Scores of pictures, or of boxes in them, with captions of their own, in several ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from flair_jax.data.image import preprocess
from flair_jax.data.sets.choice_data import Box, ChoiceData, Row
from flair_jax.evaluate.localization import COVERED
from flair_jax.models.config import VisionConfig
from flair_jax.models.flair import AnyArray, Flair, Params
from flair_jax.models.normalize import l2_normalize
from flair_jax.scoring.scorer import Retriever

# How captions are scored. box-tokens is for questions about boxes: the model sees the whole picture, and the keys and
# values of the text-conditioned pooling are the tokens of the box; by the other two, it sees what is in the box alone.
WAYS = ("global", "text-conditioned", "box-tokens")
_ROWS = 64  # pictures with the captions of a question that are scored at once over all devices


class Picture(NamedTuple):
    """One view, as the model sees it: what is in the box; the whole picture, and its tokens that the box has."""

    pixels: UInt8[np.ndarray, "S S 3"]
    whole: UInt8[np.ndarray, "S S 3"] | None
    kept: Bool[np.ndarray, " L"] | None
    rows: Sequence[Row]


def read_view(data: ChoiceData, vision: VisionConfig, with_whole: bool, number: int) -> Picture:
    """One view; the whole picture only if it is wanted.

    Raises:
      ImageError: if it cannot be read.
    """
    view, picture, box = data.read(number)
    pixels = preprocess(view, vision)
    if not with_whole:
        return Picture(pixels, None, None, data.rows[number])
    # The whole picture becomes the square, so that no box is cut off.
    whole = preprocess(picture, dataclasses.replace(vision, resize_mode="squash"))
    return Picture(pixels, whole, box_patches(box, picture.size, vision.grid).reshape(-1), data.rows[number])


def box_patches(box: Box, size: tuple[int, int], grid: int) -> Bool[np.ndarray, "G G"]:
    """The patches of a box: those of which it covers a quarter, or, if there are none, of which it covers most.

    Args:
      box: left, top, width, height in pixels.
      size: width and height of the picture, which fills the grid.
      grid: G, patches of a side.
    """
    patches = np.arange(grid)

    def covered(start: float, length: float, side: int) -> Float[np.ndarray, " G"]:
        first, last = start / side * grid, (start + length) / side * grid
        return np.clip(np.minimum(last, patches + 1) - np.maximum(first, patches), 0, 1)

    shares = np.outer(covered(box[1], box[3], size[1]), covered(box[0], box[2], size[0]))
    return shares >= min(COVERED, shares.max())


def score_rows(
    model: Flair,
    ways: Sequence[str],
    params: Params,
    tokens: Float[AnyArray, "P L1 D"],
    text: Float[AnyArray, "P C D"],
    whole: Float[AnyArray, "P L D"],
    kept: Bool[AnyArray, "P L"],
) -> Float[Array, "P W C"]:
    """Cosines of P pictures with C captions of their own.

    Args:
      model: the model.
      ways: W of `WAYS`.
      params: its parameters.
      tokens: of the pictures, the global one first.
      text: features of the captions.
      whole: local tokens of the whole pictures; used by `box-tokens` alone.
      kept: which of these count.
    """
    tokens, text = jnp.asarray(tokens), jnp.asarray(text)
    direction = l2_normalize(text)

    def pooled(images: Any) -> Array:
        return l2_normalize(model.pool_queries(params, model.project_texts(params, text), images))

    def seen(way: str) -> Array:
        if way == "global":
            return l2_normalize(tokens[:, :1])
        if way == "text-conditioned":
            return pooled(model.prepare_images(params, tokens[:, 1:]))
        return pooled(model.keep_tokens(params, model.prepare_images(params, whole), kept))

    return jnp.stack([jnp.sum(seen(way) * direction, axis=-1) for way in ways], axis=1)


class CaptionScorer(NamedTuple):
    """A model on its devices that scores views with their captions."""

    retriever: Retriever
    rows: Callable[..., jax.Array]  # jitted `score_rows`
    ways: tuple[str, ...]
    batch_size: int

    def __call__(
        self, pictures: Sequence[Picture], features: Float[np.ndarray, "N D"], columns: int
    ) -> Float[np.ndarray, "R W C"]:
        """Scores of all rows of the pictures, in their order; of rows with fewer captions, NaN behind the last."""
        image = np.repeat(np.arange(len(pictures)), [len(picture.rows) for picture in pictures])
        rows = [row.texts for picture in pictures for row in picture.rows]
        texts = np.array([[*row, *([row[0]] * (columns - len(row)))] for row in rows])
        only_global = self.ways == ("global",)
        tokens = self.retriever.encode_images(
            np.stack([picture.pixels for picture in pictures]), with_local=not only_global, pad_to=self.batch_size
        )
        whole, kept = tokens[:, :1], np.ones((len(pictures), 1), bool)  # for the ways that need neither
        if "box-tokens" in self.ways:
            pixels = np.stack([picture.whole for picture in pictures if picture.whole is not None])
            whole = self.retriever.encode_images(pixels, with_local=True, pad_to=self.batch_size)[:, 1:]
            kept = np.stack([picture.kept for picture in pictures if picture.kept is not None])
        found = []
        for start in range(0, len(rows), _ROWS):
            some = image[start : start + _ROWS]
            arrays = (tokens[some], features[texts[start : start + _ROWS]], whole[some], kept[some])
            found.append(self.retriever.by_rows("the scores of {question}", self.rows, _ROWS, *arrays))
        scores = np.concatenate(found)
        missing = np.arange(columns) >= np.array([len(row) for row in rows])[:, None]
        return np.where(missing[:, None], np.float32(np.nan), scores)
