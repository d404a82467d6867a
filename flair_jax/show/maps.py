"""Where FLAIR looks for a sentence, as arrays: the attention of its pooling, and the similarity of single patches.

`flair_jax.show.draw` draws them. Everything here but `explain_picture` is pure and can be jitted
(`jax.jit(functools.partial(attention_maps, model))`).

Letters: B images of S1 x S2 pixels, N texts, T tokens, H pooling heads, G1 x G2 patches, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from flair_jax.data.tokenizer import tokenize_for
from flair_jax.errors import FlairError, require_text
from flair_jax.models.flair import AnyArray, Flair, Params
from flair_jax.models.normalize import l2_normalize

_FEWEST_TOKENS = 16  # of a sentence that is compiled


class AttentionMaps(NamedTuple):
    """Weights with which the pooling mixes an image's patches for a text; per head, with `empty`, they sum to 1.

    Attributes:
      heads: weight of each patch.
      empty: weight of the empty slot, which the pooling has in place of the image; docs/attend.md has what it tells.
    """

    heads: Float[AnyArray, "*B N H G1 G2"]
    empty: Float[AnyArray, "*B N H"]


class Explanation(NamedTuple):
    """Scores of images with texts, and the maps behind them. All float32.

    Attributes:
      logits: text-conditioned, as `Flair.logits`.
      global_logits: as `Flair.global_logits`.
      attention: weights of the pooling.
      patches: as `patch_similarity`.
    """

    logits: Float[AnyArray, "*B N"]
    global_logits: Float[AnyArray, "*B N"]
    attention: AttentionMaps
    patches: Float[AnyArray, "*B N G1 G2"]


def attention_maps(
    model: Flair, params: Params, images: Float[AnyArray, "B S1 S2 3"], tokens: Int[AnyArray, "N T"]
) -> AttentionMaps:
    """Where the text-conditioned pooling looks in each image for each text.

    The paper's figures of attention show the mean over the heads, `heads.mean(axis=2)`, divided by its maximum.

    Args:
      model: such as `flair_jax.load` gives.
      params: its parameters.
      images: from `model.normalize`.
      tokens: from `flair_jax.tokenize`.

    Raises:
      FlairError: if the shape of `images` or `tokens` does not fit the model, or the images are not normalised.
    """
    _, local = model.encode_image(params, images)
    _, weights = model.pool_with_weights(params, local, model.encode_text(params, tokens))
    return _maps(weights, _grid(model, images))


def patch_similarity(
    model: Flair, params: Params, images: Float[AnyArray, "B S1 S2 3"], tokens: Int[AnyArray, "N T"]
) -> Float[Array, "B N G1 G2"]:
    """Cosine of each text with each single patch, pooled with that text as if it were the whole image.

    Takes B G1 G2 N D floats of memory. The paper's maps of patch-wise similarity cut negative values to 0 and divide
    by the maximum. Arguments and errors are those of `attention_maps`.
    """
    _, local = model.encode_image(params, images)
    return _patches(model, params, local, model.encode_text(params, tokens), _grid(model, images))


def explain(
    model: Flair, params: Params, images: Float[AnyArray, "B S1 S2 3"], tokens: Int[AnyArray, "N T"]
) -> Explanation:
    """Scores and both kinds of maps in one pass; arguments and errors are those of `attention_maps`."""
    image, local = model.encode_image(params, images)
    text = model.encode_text(params, tokens)
    pooled, weights = model.pool_with_weights(params, local, text)
    grid, scale = _grid(model, images), jnp.exp(params["logit_scale"])
    return Explanation(
        scale * _cosines("bnd,nd->bn", pooled, text) + params["logit_bias"],
        scale * _cosines("bd,nd->bn", image, text),
        _maps(weights, grid),
        _patches(model, params, local, text, grid),
    )


def _grid(model: Flair, images: AnyArray) -> tuple[int, int]:
    patch = model.config.vision.patch_size
    return images.shape[1] // patch, images.shape[2] // patch


def _maps(weights: Float[Array, "B H N slots"], grid: tuple[int, int]) -> AttentionMaps:
    weights = weights.swapaxes(1, 2)
    return AttentionMaps(weights[..., :-1].reshape(*weights.shape[:3], *grid), weights[..., -1])


def _patches(
    model: Flair, params: Params, local: Float[Array, "B L D"], text: Float[Array, "N D"], grid: tuple[int, int]
) -> Float[Array, "B N G1 G2"]:
    batch, count, width = local.shape
    pooled = model.pool(params, local.reshape(batch * count, 1, width), text)
    cosines = _cosines("gnd,nd->gn", pooled, text)
    return cosines.reshape(batch, *grid, len(text)).transpose(0, 3, 1, 2)


def _cosines(product: str, x: Array, text: Float[Array, "N D"]) -> Array:
    return jnp.einsum(product, l2_normalize(x), l2_normalize(text), precision=jax.lax.Precision.HIGHEST)


def explain_picture(
    model: Flair, params: Params, pixels: UInt8[np.ndarray, "S1 S2 3"], sentences: Sequence[str]
) -> Explanation:
    """`explain` for one image and its sentences: NumPy arrays, without the axis of images.

    Args:
      model: such as `flair_jax.load` gives.
      params: its parameters.
      pixels: from `flair_jax.preprocess`.
      sentences: N of them, at least one.

    Raises:
      FlairError: if the image is not of whole patches, or a sentence is empty or not valid Unicode, or none is given.
    """
    if not sentences:
        raise FlairError("no sentence is given; write at least one")
    for number, sentence in enumerate(sentences, start=1):
        if not sentence.strip():
            raise FlairError(f"sentence {number} of {len(sentences)} is empty; leave it out or write one")
        require_text(sentence)
    tokens = _without_padding(model, tokenize_for(model.config.text, sentences))
    # Up to a power of two, so that few numbers of sentences are compiled; rows of zeros are texts like any other.
    tokens = np.pad(tokens, [(0, (1 << (len(sentences) - 1).bit_length()) - len(sentences)), (0, 0)])
    found = _explain_pixels(model, params, pixels[None], tokens)
    return jax.tree.map(lambda leaf: np.asarray(leaf[0, : len(sentences)]), found)


def _without_padding(model: Flair, tokens: np.ndarray) -> np.ndarray:
    """The columns that count, rounded up to a power of two, so that few lengths are compiled."""
    longest = max(_FEWEST_TOKENS, int(model.text_lengths(tokens).max()))
    return tokens[:, : 1 << (longest - 1).bit_length()]


def _explain_pixels_of(model: Flair, params: Params, pixels: Array, tokens: Array) -> Explanation:
    return explain(model, params, model.normalize(pixels), tokens)


_explain_pixels = jax.jit(_explain_pixels_of, static_argnums=0)
