"""Text-conditioned attention pooling, FLAIR's own layer (Xiao et al., CVPR 2025, arXiv 2412.03561)."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from flair_jax.models.attention import split_heads
from flair_jax.models.cosine_kernel import kernel_cosines, takes
from flair_jax.models.layout import is_divided, mesh_platform
from flair_jax.models.normalize import l2_normalize
from flair_jax.models.pooling import Pooling, PreparedTexts
from flair_jax.models.transformer import layer_norm, packed_xavier_init, torch_linear_init


class PreparedImage(NamedTuple):
    """Local image tokens as keys and values of the pooling; with a leading axis, of several images."""

    key: Float[Array, "*B H L C"]
    value: Float[Array, "*B H L C"]


class PartialImage(NamedTuple):
    """`PreparedImage` of which only some tokens count."""

    key: Float[Array, "*B H L C"]
    value: Float[Array, "*B H L C"]
    kept: Bool[Array, "*B L"]


class TextQueries(NamedTuple):
    """`PreparedTexts.each`: texts as queries and targets, in the basis of `OutProjection`."""

    query: Float[Array, "H C N"]
    target: Float[Array, "D N"]


class OutProjection(NamedTuple):
    """`PreparedTexts.shared`: the out-projection in the basis where it is triangular."""

    triangle: Float[Array, "D D"]
    bias: Float[Array, " D"]


class TextConditionedPooling(Pooling):
    """Cross-attention in which each text queries each image's local tokens.

    To the keys and values one pair of zeros is added, the empty slot: its logit is 0 and it adds nothing, so a text
    that matches nothing in the image can attend to nothing.

    Queries depend on texts alone, keys and values on images alone; `prepare_texts`, `prepare_images` and `cosines` use
    that to score many images with many texts.

    Attributes:
      embed_dim: D of the local tokens, the texts, and the output.
      heads: H, attention heads.
      layer_norm_eps: epsilon that each LayerNorm adds to the variance.
      dtype: compute dtype; parameters, softmax and output are float32.
    """

    embed_dim: int
    heads: int = 8
    layer_norm_eps: float = 1e-5
    dtype: DTypeLike = "float32"

    def setup(self) -> None:
        dtype, width = jnp.dtype(self.dtype), self.embed_dim
        self.ln_q, self.ln_k, self.ln_v = (layer_norm(self.layer_norm_eps, dtype) for _ in range(3))
        self.query, self.key, self.value = (
            nn.Dense(width, dtype=dtype, kernel_init=packed_xavier_init) for _ in range(3)
        )
        self.out = nn.Dense(width, dtype=dtype, kernel_init=torch_linear_init)

    def __call__(
        self, local: Float[Array, "B L D"], text: Float[Array, "N D"]
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N L+1"]]:
        """Every image as seen by every text, and the attention weights; the last column is the empty slot's."""
        query = split_heads(self.project_texts(text), self.heads)
        key, value = self.prepare_images(local)
        logits = jnp.einsum("nhc,bhlc->bhnl", query, key, preferred_element_type=jnp.float32)
        weights = _softmax_with_empty_slot(logits)
        return self._mix(value, weights), weights

    def keep_tokens(self, images: PreparedImage, kept: Bool[Array, "B L"]) -> PartialImage:
        """Images of which only some tokens are keys and values."""
        return PartialImage(*images, kept)

    def pool_queries(self, query: Float[Array, "B C D"], images: PreparedImage | PartialImage) -> Float[Array, "B C D"]:
        """Each image as seen by its own C texts, which come as `project_texts` gives them."""
        query = split_heads(query, self.heads)
        logits = jnp.einsum("bnhc,bhlc->bhnl", query, images.key, preferred_element_type=jnp.float32)
        if isinstance(images, PartialImage):
            logits = jnp.where(images.kept[:, None, None], logits, -jnp.inf)
        return self._mix(images.value, _softmax_with_empty_slot(logits))

    def _mix(self, value: Float[Array, "B H L C"], weights: Float[Array, "B H N L+1"]) -> Float[Array, "B N D"]:
        mixed = jnp.einsum("bhnl,bhlc->bnhc", weights[..., :-1].astype(value.dtype), value)
        return self.out(mixed.reshape(*mixed.shape[:2], mixed.shape[2] * mixed.shape[3])).astype(jnp.float32)

    def project_texts(self, text: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """Text features projected to queries and divided by the root of the head width."""
        return self.query(self.ln_q(text)) * (self.embed_dim // self.heads) ** -0.5

    def prepare_images(self, local: Float[Array, "B L D"]) -> PreparedImage:
        """All that `cosines` needs of images, along a leading axis."""
        heads = self.heads
        key, value = split_heads(self.key(self.ln_k(local)), heads), split_heads(self.value(self.ln_v(local)), heads)
        return PreparedImage(key.swapaxes(1, 2), value.swapaxes(1, 2))

    def prepare_texts(self, text: Float[Array, "N D"]) -> PreparedTexts:
        """All that `cosines` needs of texts.

        The out-projection W takes most of the work of scoring a pair, and only the angle between W a + b and the text t
        counts. With W = Q R, R triangular, that angle is the one between R a + Q'b and Q't, since a rotation keeps
        lengths and angles; and multiplying by R costs little more than half.
        """
        kernel, bias = self.out.variables["params"]["kernel"], self.out.variables["params"]["bias"]
        rotation, triangle = jnp.linalg.qr(kernel.T)  # kernel is [in, out], so W is its transpose
        target = l2_normalize(text) @ rotation
        dtype = jnp.dtype(self.dtype)
        query = split_heads(self.project_texts(text), self.heads).transpose(1, 2, 0)
        return PreparedTexts(TextQueries(query, target.T), OutProjection(triangle.astype(dtype), bias @ rotation))

    def cosines(self, image: PreparedImage, texts: PreparedTexts) -> Float[Array, " N"]:
        """cos(pool(image, text), text) of one image with every text: `__call__`, arranged for speed.

        Texts run along the last axis throughout, so that the softmax and the sums over channels are element-wise over
        long rows. There is no axis for images because CPUs lose half the speed by it; loop over them, or `jax.vmap`.

        XLA for TPUs would write all logits to memory. There a kernel does not, in `jax.shard_map` or on a mesh of one
        device; the compiler cannot divide a kernel over several.
        """
        arrays = (*image, *texts.each, *texts.shared)
        heads, length, width = image.key.shape
        by_kernel = mesh_platform() == "tpu" and not is_divided() and takes(heads, length, width, image.key.dtype)
        return (kernel_cosines if by_kernel else _cosines)(*arrays)

    def cosines_with_text(self, local: Float[Array, "B L D"], text: Float[Array, " D"]) -> Float[Array, " B"]:
        """cos(pool(image, text), text) of many images with one text: `__call__`, arranged for a search.

        With so few queries, projecting L tokens of each image to keys and values is nearly all of the work. Since
        q'(K x) = (K'q)'x, and a weighted sum of V x is V times that sum of x, both projections can act on one vector
        for each head instead: about C times less work, of which reading the tokens is all that remains.
        """
        heads = self.heads
        kernel = {name: split_heads(getattr(self, name).variables["params"]["kernel"], heads) for name in _LOCAL}
        bias = {name: split_heads(getattr(self, name).variables["params"]["bias"], heads) for name in _LOCAL}
        query = split_heads(self.project_texts(text), heads)
        query, dtype = query.astype(jnp.float32), query.dtype
        into = jnp.einsum("hc,dhc->hd", query, kernel["key"]).astype(dtype)
        offset = jnp.einsum("hc,hc->h", query, bias["key"])
        logits = jnp.einsum("hd,bld->bhl", into, self.ln_k(local), preferred_element_type=jnp.float32)
        weights = _softmax_with_empty_slot((logits + offset[None, :, None])[:, :, None])[:, :, 0, :-1]
        mixed = jnp.einsum("bhl,bld->bhd", weights.astype(dtype), self.ln_v(local), preferred_element_type=jnp.float32)
        value = jnp.einsum("bhd,dhc->bhc", mixed, kernel["value"]) + weights.sum(-1)[..., None] * bias["value"][None]
        pooled = self.out(value.reshape(len(local), -1)).astype(jnp.float32)
        return l2_normalize(pooled) @ l2_normalize(text)


def _cosines(
    keys: Float[Array, "H L C"],
    values: Float[Array, "H L C"],
    queries: Float[Array, "H C N"],
    target: Float[Array, "D N"],
    triangle: Float[Array, "D D"],
    bias: Float[Array, " D"],
) -> Float[Array, " N"]:
    """`TextConditionedPooling.cosines` by XLA."""

    def mix(key: Float[Array, "L C"], query: Float[Array, "C N"], value: Float[Array, "L C"]) -> Float[Array, "C N"]:
        logits = jnp.matmul(key, query, preferred_element_type=jnp.float32)
        highest = jnp.maximum(logits.max(axis=0, keepdims=True), 0)  # 0 is the empty slot's logit
        weights = jnp.exp(logits - highest)
        total = weights.sum(axis=0, keepdims=True) + jnp.exp(-highest)
        return jnp.matmul(value.T, weights.astype(values.dtype), preferred_element_type=jnp.float32) / total

    # One head after the other: the intermediate between the two products then fits in a CPU's cache.
    heads = zip(keys, queries, values, strict=True)
    mixed = jnp.concatenate([mix(*head) for head in heads]).astype(values.dtype)
    pooled = _times_triangle(triangle, mixed) + bias[:, None]
    norm = jnp.sqrt(jnp.maximum(jnp.sum(pooled * pooled, axis=0), 1e-24))
    return jnp.sum(pooled * target, axis=0) / norm


def _softmax_with_empty_slot(logits: Float[Array, "B H N L"]) -> Float[Array, "B H N L+1"]:
    """Attention weights; the last column is that of the empty slot, whose logit is 0."""
    return jax.nn.softmax(jnp.pad(logits, ((0, 0), (0, 0), (0, 0), (0, 1))), axis=-1)


def _times_triangle(triangle: Float[Array, "D D"], x: Float[Array, "D N"]) -> Float[Array, "D N"]:
    """Upper triangular matrix times x in float32, leaving out blocks of zeros."""
    step = -(-triangle.shape[0] // _TRIANGLE_BLOCKS)
    starts = range(0, triangle.shape[0], step)
    rows = [
        jnp.matmul(triangle[start : start + step, start:], x[start:], preferred_element_type=jnp.float32)
        for start in starts
    ]
    return jnp.concatenate(rows)


# The projections of local tokens.
_LOCAL = ("key", "value")

# 2 blocks of rows save a quarter of the work, 4 save three eighths; more make the products too small to be fast.
_TRIANGLE_BLOCKS = 4
