"""The terms of the loss as a table: adding a term is adding a row.

A term of your own needs no edit here: `make_loss(..., table={**TERMS, "mine": Term(share, flops)})`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flair_jax.errors import ConfigError
from flair_jax.models.normalize import l2_normalize
from flair_jax.train.loss_context import Group, LossContext, sigmoid_loss


class LossSizes(NamedTuple):
    """The sizes that a loss's FLOPs depend on.

    Attributes:
      images: N in a batch, over all devices.
      captions: K of each image.
      local: L, local tokens of an image.
      width: D, of the embedding.
      image_learns: whether the image tower is trained; if not, its features need no gradient.
      text_learns: likewise.
    """

    images: int
    captions: int
    local: int
    width: int
    image_learns: bool
    text_learns: bool


@dataclasses.dataclass(frozen=True)
class Term:
    """A term of the loss.

    Attributes:
      share: of a `LossContext`: one device's share of the term's value, a float32 scalar; the shares are added up. Or a
        function of a `Group` whose sum over all groups is that share: all such terms are computed in one loop over the
        groups, so that memory is that of one group.
      flops: (sizes, B) -> FLOPs of its matrix products in one step, forward and backward, over all devices, in groups
        of B. At 2 FLOPs per multiply-add; a product costs its forward pass once more for each of its two factors that
        needs a gradient; rematerialisation is not counted.
    """

    share: Callable[[LossContext], Array | Callable[[Group], Array]]
    flops: Callable[[LossSizes, int], float]


def text_conditioned_sigmoid(context: LossContext) -> Callable[[Group], Float[Array, ""]]:
    """tcs: logits s * cos(pool(image, t), t) + b for the captions t that `context.sampler` draws for an image.

    -sum(log_sigmoid(label * logit)) / (B + K - 1) for each group, and the mean over groups.
    """
    model, params, captions = context.model, context.params, context.captions
    scale, bias, width = context.scale, context.bias, context.group_size + captions - 1
    rows = (context.numbers, model.prepare_images(params, context.own.local))

    def of_group(group: Group) -> Array:
        query = model.project_texts(params, group.text)

        def of_pairs(rows: tuple[Array, Any], column: Array) -> Array:
            numbers, images = rows
            drawn = jax.vmap(partial(context.sampler, context.key, group.number))(numbers % context.group_size)
            if drawn.shape[1:] != (width,):
                raise ConfigError(f"the sampler must draw [{width}] captions (B + K - 1), not {list(drawn.shape[1:])}")
            chosen = drawn[:, column]
            pooled = l2_normalize(model.pool_queries(params, query[chosen], images))
            logits = scale * jnp.einsum("bcd,bcd->bc", pooled, group.target[chosen]) + bias
            return sigmoid_loss(logits, context.is_own(numbers, group.number, chosen))

        return context.sum_over_pairs(of_pairs, rows, width) / (context.groups * width)

    return of_group


def multi_positive_sigmoid(context: LossContext) -> Callable[[Group], Float[Array, ""]]:
    """mps: logits s * cos(global image, t) + b for all B*K captions t of a group.

    -sum(log_sigmoid(label * logit)) / (B*K) for each group, and the mean over groups. The product is in the model's
    compute dtype, as under the original's autocast; float32 means float32 on every platform.
    """
    image, width = l2_normalize(context.own.image), context.group_size * context.captions
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    dtype = jnp.dtype(context.model.config.dtype)

    def of_group(group: Group) -> Array:
        cosines = product(image.astype(dtype), group.target.T.astype(dtype))
        logits = context.scale * cosines + context.bias
        positive = context.is_own(context.numbers, group.number, jnp.arange(width)[None])
        return jnp.sum(sigmoid_loss(logits, positive)) / (context.groups * width)

    return of_group


def sample_captions(
    key: Array, group: Int[Array, ""], row: Int[Array, ""], *, group_size: int, captions_per_image: int
) -> Int[Array, " {group_size}+{captions_per_image}-1"]:
    """The captions that pool one image: its own K, and one drawn uniformly from each other image of a group.

    Ascending, so that the image's own are at columns row to row+K-1. The draw depends on (key, group, row) and on
    nothing about devices.

    Args:
      key: from `jax.random.key`, a new one each step.
      group: number of the group whose captions are drawn.
      row: place of the image in its own group.
      group_size: B, images in a group.
      captions_per_image: K.

    Returns:
      Indices into the group's B*K captions.
    """
    choice = jax.random.randint(
        jax.random.fold_in(jax.random.fold_in(key, group), row), (group_size,), 0, captions_per_image
    )
    column = jnp.arange(group_size + captions_per_image - 1)
    own = (column >= row) & (column < row + captions_per_image)
    image = jnp.where(column < row, column, jnp.where(own, row, column - captions_per_image + 1))
    return image * captions_per_image + jnp.where(own, column - row, choice[image])


def _tcs_flops(sizes: LossSizes, group_size: int) -> float:
    """Of N * N/B * (B+K-1) pairs, 4 L D + 2 D^2 each; keys and values of N * L tokens; queries of N*K captions."""
    images, captions, local, width, image_learns, text_learns = sizes
    pairs = images * (images // group_size) * (group_size + captions - 1)
    total = 3.0 * pairs * (4 * local * width + 2 * width**2)  # the pooling always learns
    total += (2 + image_learns) * images * 4 * local * width**2
    return total + (2 + text_learns) * images * captions * 2 * width**2


def _mps_flops(sizes: LossSizes, group_size: int) -> float:  # noqa: ARG001
    """Of N * N*K pairs, 2 D each."""
    return (1.0 + sizes.image_learns + sizes.text_learns) * sizes.images**2 * sizes.captions * 2 * sizes.width


# Name, as in `config.loss.terms` and in metrics -> the term.
TERMS: dict[str, Term] = {
    "tcs": Term(text_conditioned_sigmoid, _tcs_flops),
    "mps": Term(multi_positive_sigmoid, _mps_flops),
}
