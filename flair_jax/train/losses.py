"""FLAIR's losses (Xiao et al., CVPR 2025, arXiv 2412.03561): text-conditioned and multi-positive sigmoid, sharded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from flair_jax.errors import ConfigError
from flair_jax.models.normalize import l2_normalize

Params = dict[str, Any]
TERMS = ("tcs", "mps")

# (key, group, row) -> int32 [B+K-1]: captions of `group` that pool an image in row `row` of its own group.
CaptionSampler = Callable[[Array, Array, Array], Array]


class Pooling(Protocol):
    """Text-conditioned pooling as functions of arrays; `flair_jax.Flair` offers it. See there for shapes."""

    def project_texts(self, params: Params, text: Any) -> Any: ...
    def prepare_images(self, params: Params, local: Any) -> Any: ...
    def pool_queries(self, params: Params, query: Any, images: Any) -> Any: ...


class Features(NamedTuple):
    """What the towers give for N images with K captions each; rows i*K to i*K+K-1 of `text` belong to image i."""

    image: Float[Array, "N D"]
    local: Float[Array, "N L D"]
    text: Float[Array, "NK D"]


class Losses(NamedTuple):
    """The loss and its parts; a part that was not asked for is 0."""

    total: Float[Array, ""]
    tcs: Float[Array, ""]
    mps: Float[Array, ""]


def sample_captions(
    key: Array, group: Int[Array, ""], row: Int[Array, ""], *, group_size: int, captions_per_image: int
) -> Int[Array, " B+K-1"]:
    """The captions that pool one image: its own K, and one drawn uniformly from each other image of a group.

    Ascending, so that the image's own stand at columns row to row+K-1. The draw depends on (key, group, row) and on
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


def flair_loss(
    pooling: Pooling,
    params: Params,
    features: Features,
    key: Array,
    *,
    group_size: int,
    terms: Sequence[str] = TERMS,
    pairs_per_block: int = 8192,
    sampler: CaptionSampler | None = None,
) -> Losses:
    """The mean of the terms asked for, over groups of B images; pure, and sharded over the mesh that is set.

    With s = exp(logit_scale), b = logit_bias, label +1 for an image's own captions and -1 for others:

    - tcs, text-conditioned sigmoid: logits s * cos(pool(image, t), t) + b for the captions t of `sample_captions`;
      -sum(log_sigmoid(label * logit)) / (B + K - 1).
    - mps, multi-positive sigmoid: logits s * cos(global image, t) + b for all B*K captions;
      -sum(log_sigmoid(label * logit)) / (B*K).

    The loss of a group adds to its own captions those of every other group, all of them negatives: image i meets what
    row i of that group drew. Groups are averaged. This is what G GPUs of the PyTorch release compute with B images
    each, on any number of devices: the numbers depend on `group_size` and not on the mesh.

    Cost, for N images on W devices, in G = N/B groups, with L local tokens and H heads:

    - FLOPs, forward, each device: N/W * G(B+K-1) pairs of (4 L D + 2 D^2); NK * 2 D^2 to project queries, once per
      caption; 2 N/W * NK * D for mps. Backward: twice that, and once more where blocks are recomputed.
    - Wire: the N*K x D float32 text features are gathered once, 4 NKD (W-1)/W bytes into each device, and their
      gradients reduced and scattered once, as many. Nothing else but scalars and the gradients of `params`.
    - Memory, each device: 8 NKD bytes for all text features and their gradient, and one block of about
      `pairs_per_block` * (8 H L + 16 D) bytes; blocks are recomputed in the backward pass if there is more than one.

    Args:
      pooling: the model's pooling.
      params: with `pooling`, `logit_scale` (its log is stored) and `logit_bias`; others are ignored.
      features: not normalised; float32.
      key: from `jax.random.key`, a new one each step; the captions are drawn with it.
      group_size: B; must divide N.
      terms: "tcs", "mps" or both.
      pairs_per_block: how many (image, caption) pairs are pooled at once by a device; changes memory and speed only.
      sampler: replaces `sample_captions`.

    Raises:
      ConfigError: if sizes do not divide, or a term is unknown.
    """
    count, captions = len(features.image), len(features.text) // max(len(features.image), 1)
    if len(features.text) != count * captions or count % group_size:
        raise ConfigError(
            f"{len(features.text)} captions and loss groups of {group_size} do not divide a batch of {count} images"
        )
    if not terms or not set(terms) <= set(TERMS):
        raise ConfigError(f"loss terms {tuple(terms)} are not among {', '.join(TERMS)}")
    params = {name: params[name] for name in ("pooling", "logit_scale", "logit_bias")}
    if sampler is None:
        sampler = partial(sample_captions, group_size=group_size, captions_per_image=captions)
    mesh = jax.sharding.get_abstract_mesh()
    axes = () if mesh.empty else mesh.axis_names
    if count % (mesh.size if axes else 1):
        raise ConfigError(f"a batch of {count} images does not divide over {mesh.size} devices")
    sums = partial(
        _sums,
        pooling,
        sampler,
        axes=axes,
        group_size=group_size,
        captions=captions,
        terms=tuple(terms),
        pairs_per_block=pairs_per_block,
    )
    if axes:
        rows = P(axes)
        sums = jax.shard_map(sums, in_specs=(P(), rows, P()), out_specs=P())
    tcs, mps = sums(params, features, key)
    groups = count // group_size
    tcs /= groups * (group_size + captions - 1)
    mps /= groups * group_size * captions
    return Losses((tcs + mps) / len(terms), tcs, mps)


def _sums(
    pooling: Pooling,
    sampler: CaptionSampler,
    params: Params,
    features: Features,
    key: Array,
    *,
    axes: tuple[str, ...],
    group_size: int,
    captions: int,
    terms: tuple[str, ...],
    pairs_per_block: int,
) -> tuple[Array, Array]:
    """Sums of -log_sigmoid over all groups and devices, for tcs and mps; `features` are one device's."""
    own = len(features.image)
    if axes:  # or the gradients of the parameters would be summed over devices in every block
        params = lax.pcast(params, axes, to="varying")
    numbers = jnp.arange(own) + (lax.axis_index(axes) * own if axes else 0)
    group, row = jnp.divmod(numbers, group_size)
    text = lax.all_gather(features.text, axes, tiled=True) if axes else features.text
    text = text.reshape(-1, group_size * captions, text.shape[-1])
    scale, bias = jnp.exp(params["logit_scale"]), params["logit_bias"]
    image = l2_normalize(features.image)

    width = group_size + captions - 1
    columns = min(width, pairs_per_block)
    starts = jnp.arange(0, width, columns)
    rows = _largest_divisor(own, pairs_per_block // columns)
    blocks = _split((row, group, pooling.prepare_images(params, features.local)), own // rows) if "tcs" in terms else ()

    def tcs_block(params: Params, block: Any, start: Array, drawn_from: Array, query: Array, target: Array) -> Array:
        row, group, images = block
        scale, bias = jnp.exp(params["logit_scale"]), params["logit_bias"]
        drawn = jax.vmap(partial(sampler, key, drawn_from))(row)
        column = start + jnp.arange(columns)
        chosen = drawn[:, jnp.minimum(column, width - 1)]
        mine = (chosen // captions == row[:, None]) & (group[:, None] == drawn_from)
        pooled = l2_normalize(pooling.pool_queries(params, query[chosen], images))
        logits = scale * jnp.einsum("bcd,bcd->bc", pooled, target[chosen]) + bias
        return jnp.sum(_loss(logits, mine), where=(column < width)[None])

    def mps_block(image: Array, drawn_from: Array, target: Array, scale: Array, bias: Array) -> Array:
        logits = scale * jnp.matmul(image, target.T, precision=lax.Precision.HIGHEST) + bias
        owner = jnp.arange(group_size * captions) // captions
        return jnp.sum(_loss(logits, (owner[None] == row[:, None]) & (group[:, None] == drawn_from)))

    if len(starts) * (own // rows) * len(text) > 1:  # recomputing a single block would save nothing
        tcs_block, mps_block = (jax.checkpoint(block, prevent_cse=False) for block in (tcs_block, mps_block))

    def one_group(drawn_from: Array, text: Array) -> tuple[Array, Array]:
        tcs, mps = jnp.zeros(()), jnp.zeros(())
        target = l2_normalize(text)
        if "tcs" in terms:
            query = pooling.project_texts(params, text)
            tcs = _sum_over(
                lambda block: _sum_over(
                    lambda start: tcs_block(params, block, start, drawn_from, query, target), starts
                ),
                blocks,
            )
        if "mps" in terms:
            mps = mps_block(image, drawn_from, target, scale, bias)
        return tcs, mps

    sums = _sum_over(lambda each: one_group(*each), (jnp.arange(len(text)), text))
    return lax.psum(sums, axes) if axes else sums


def _loss(logits: Float[Array, "B N"], positive: Array) -> Float[Array, "B N"]:
    return -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, max(1, min(number, limit)) + 1) if number % divisor == 0)


def _split(tree: Any, parts: int) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), tree)


def _sum_over(function: Callable[[Any], Any], items: Any) -> Any:
    """Sum of function(item) over the leading axis of `items`, one after the other."""
    if len(jax.tree.leaves(items)[0]) == 1:
        return function(jax.tree.map(lambda leaf: leaf[0], items))
    _, results = lax.scan(lambda _, item: (None, function(item)), None, items)
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), results)
