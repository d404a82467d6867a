"""The input of a term of the loss: one device's images, all captions, and sums over pairs of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flair_jax.models.flair import Flair, Params
from flair_jax.models.normalize import l2_normalize
from flair_jax.train.sums import Summand, sum_with_gradients

# (key, group, row) -> int32 [B+K-1]: captions of `group` that pool an image in row `row` of its own group.
CaptionSampler = Callable[[Array, Array, Array], Array]


class Features(NamedTuple):
    """What the towers give for N images with K captions each; rows `i*K` to `i*K+K-1` of `text` belong to image i.

    Attributes:
      image: float32 [N, D], global image tokens, not normalised.
      local: float32 [N, L, D], local image tokens, not normalised.
      text: float32 [N*K, D], not normalised.
    """

    image: Float[Array, "N D"]
    local: Float[Array, "N L D"]
    text: Float[Array, "NK D"]


class Group(NamedTuple):
    """The captions of one loss group.

    Attributes:
      number: its number among the groups of the batch.
      text: float32 [B*K, D], as the text tower gives them.
      target: `text` normalised to length 1.
    """

    number: Int[Array, ""]
    text: Float[Array, "BK D"]
    target: Float[Array, "BK D"]


@dataclasses.dataclass(frozen=True, eq=False)
class LossContext:
    """One device's part of a batch of N images, K captions each, in groups of B; the device has I of the images.

    A term is a function of this that returns the device's share of a loss; shares are summed over devices. It runs
    inside one `jax.shard_map` over all axes of the mesh, or, where no mesh is set, as if there were one device.

    Attributes:
      model: whose pooling a term may use, with `params`.
      params: all parameters but those of the towers: `pooling`, `logit_scale`, `logit_bias`.
      key: from `jax.random.key`, the same on every device.
      own: features of the device's I images and their captions.
      teacher: the same by the averaged parameters, without a gradient; None where no average is kept.
      text: float32 [N/B, B*K, D], text features of all devices by group; gathered once for all terms.
      group_size: B.
      captions: K.
      pairs_per_block: the most pairs that `sum_over_pairs` takes at once.
      sampler: draws the captions that pool an image.
      axes: the mesh's; () without a mesh.
    """

    model: Flair
    params: Params
    key: Array
    own: Features
    teacher: Features | None
    text: Float[Array, "G BK D"]
    group_size: int
    captions: int
    pairs_per_block: int
    sampler: CaptionSampler
    axes: tuple[str, ...]

    @property
    def scale(self) -> Float[Array, ""]:
        """The factor s = exp(logit_scale), by which cosines become logits."""
        return jnp.exp(self.params["logit_scale"])

    @property
    def bias(self) -> Float[Array, ""]:
        """The number b = logit_bias, which is added to logits."""
        return jnp.asarray(self.params["logit_bias"])

    @property
    def groups(self) -> int:
        """N/B, the number of groups."""
        return len(self.text)

    @property
    def numbers(self) -> Int[Array, " I"]:
        """The numbers of the device's images in the whole batch."""
        own = len(self.own.image)
        return jnp.arange(own) + (lax.axis_index(self.axes) * own if self.axes else 0)

    def gather(self, rows: Float[Array, "I ..."]) -> Float[Array, "N ..."]:
        """Rows of all devices in the order of the batch (all-gather); their gradients are reduce-scattered."""
        return lax.all_gather(rows, self.axes, tiled=True) if self.axes else rows

    def is_own(
        self, numbers: Int[Array, " I"], group: Int[Array, ""], captions: Int[Array, "#I C"]
    ) -> Bool[Array, "I C"]:
        """Whether captions, counted from a group's first, belong to the images with these `numbers`."""
        return group * self.group_size + captions // self.captions == numbers[:, None]

    def sum_over_groups(self, function: Callable[[Group], Summand]) -> Summand:
        """The sum of function(group) over all groups, one after the other; see `sum_with_gradients`."""

        def of_group(item: tuple[Array, Array]) -> Summand:
            number, text = item
            return function(Group(number, text, l2_normalize(text)))

        return sum_with_gradients(of_group, (jnp.arange(self.groups), self.text), self.axes)

    def sum_over_pairs(
        self, function: Callable[[Any, Int[Array, " C"]], Float[Array, "R C"]], rows: Any, columns: int
    ) -> Float[Array, ""]:
        """The sum of function(rows, columns) over the device's images and `columns` captions of each.

        The pairs are taken in blocks of at most `pairs_per_block`, one after the other, each together with its
        gradients; so memory is that of one block.

        Args:
          function: of a block, (rows, numbers of C columns) -> a number for each of its R x C pairs.
          rows: tree of arrays with the device's I images first.
          columns: how many there are.
        """
        width, own = min(columns, self.pairs_per_block), len(jax.tree.leaves(rows)[0])
        height = _largest_divisor(own, self.pairs_per_block // width)

        def of_block(rows: Any, start: Array) -> Summand:
            column = start + jnp.arange(width)
            pairs = function(rows, jnp.minimum(column, columns - 1))
            return jnp.sum(pairs, where=(column < columns)[None]), ()

        blocks = jax.tree.map(lambda leaf: leaf.reshape(own // height, height, *leaf.shape[1:]), rows)
        starts = jnp.arange(0, columns, width)

        def of_rows(block: Any) -> Summand:
            return sum_with_gradients(lambda start: of_block(block, start), starts, self.axes)

        return sum_with_gradients(of_rows, blocks, self.axes)[0]


def sigmoid_loss(logits: Float[Array, "R C"], positive: Bool[Array, "R C"]) -> Float[Array, "R C"]:
    """-log_sigmoid(label * logit) of each pair, label being +1 where `positive` and -1 elsewhere."""
    return -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, max(1, min(number, limit)) + 1) if number % divisor == 0)
