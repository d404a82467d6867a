"""FLAIR: two towers, text-conditioned pooling, and the public model with pure, jittable methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flair_jax.errors import FlairError
from flair_jax.models.config import FlairConfig
from flair_jax.models.normalize import l2_normalize
from flair_jax.models.pooling import PreparedImage, PreparedTexts, TextConditionedPooling
from flair_jax.models.text import TextTower
from flair_jax.models.vision import VisionTower

Params = dict[str, Any]
AnyArray = Array | np.ndarray


class FlairModule(nn.Module):
    """All parameters of FLAIR: `vision`, `text`, `pooling`, `logit_scale` (its log is stored) and `logit_bias`."""

    config: FlairConfig

    def setup(self) -> None:
        constant = jax.nn.initializers.constant
        self.vision = VisionTower(self.config)
        self.text = TextTower(self.config)
        self.pooling = TextConditionedPooling(self.config)
        self.logit_scale = self.param("logit_scale", constant(self.config.init_logit_scale), ())
        self.logit_bias = self.param("logit_bias", constant(self.config.init_logit_bias), ())

    def __call__(self, images: Float[Array, "B S1 S2 3"], tokens: Int[Array, "N T"]) -> Float[Array, "B N"]:
        """Text-conditioned logits; touches every parameter, so that `init` makes them all."""
        _, local = self.vision(images)
        text = self.text(tokens)
        pooled, _ = self.pooling(local, text)
        return self.scale() * jnp.einsum("bnd,nd->bn", l2_normalize(pooled), l2_normalize(text)) + self.logit_bias

    def global_logits(self, images: Float[Array, "B S1 S2 3"], tokens: Int[Array, "N T"]) -> Float[Array, "B N"]:
        features, _ = self.vision(images)
        return self.scale() * l2_normalize(features) @ l2_normalize(self.text(tokens)).T

    def scale(self) -> Float[Array, ""]:
        return jnp.exp(self.logit_scale)


@dataclasses.dataclass(frozen=True)
class Flair:
    """A FLAIR model: its description, and pure functions of (params, arrays).

    Every method can be jitted as it is (`jax.jit(model.encode_image)`), differentiated and vmapped. Parameters are a
    plain nested dict of float32 arrays. Features, logits and attention weights are float32; with
    `config.dtype="bfloat16"` the matrix products that lead to them are rounded, except for the last projections.

    Letters: B images, N texts, T tokens of a text, S pixels of a side, L local image tokens, D embedding width,
    H pooling heads, C their width.
    """

    config: FlairConfig

    def init(self, key: Array) -> Params:
        """Random parameters, drawn from the distributions of the PyTorch release.

        Args:
          key: from `jax.random.key`.
        """
        size = self.config.vision.image_size
        images, tokens = jnp.zeros((1, size, size, 3)), jnp.zeros((1, self.config.text.context_length), jnp.int32)
        return FlairModule(self.config).init(key, images, tokens)["params"]

    def abstract_params(self) -> Params:
        """Shapes and dtypes of the parameters as `jax.ShapeDtypeStruct`, at no cost in memory."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def encode_image(
        self, params: Params, images: Float[AnyArray, "B S1 S2 3"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B L D"]]:
        """Global and local image tokens, both projected, not normalised.

        Args:
          params: from `flair_jax.load` or `init`.
          images: what `flair_jax.normalize` gives. Any size that is a multiple of the patch size: position tables are
            interpolated as in the PyTorch release.

        Raises:
          FlairError: if the shape is not that of pictures in whole patches.
        """
        self._check_images(images)
        return self._apply(params, lambda module, images: module.vision(images), images)

    def encode_text(self, params: Params, tokens: Int[AnyArray, "N T"]) -> Float[Array, "N D"]:
        """Projected text features, not normalised.

        Args:
          params: from `flair_jax.load` or `init`.
          tokens: int32 ids from `flair_jax.tokenize`; T up to the context length. Columns that hold only padding may be
            cut off: they change nothing.

        Raises:
          FlairError: if the texts are longer than the context.
        """
        self._check_tokens(tokens)
        return self._apply(params, lambda module, tokens: module.text(tokens), tokens)

    def pool(
        self, params: Params, local: Float[AnyArray, "B L D"], text: Float[AnyArray, "N D"]
    ) -> Float[Array, "B N D"]:
        """Every image as seen by every text, not normalised.

        Args:
          params: from `flair_jax.load` or `init`.
          local: local image tokens from `encode_image`.
          text: text features from `encode_text`.
        """
        return self._apply(params, lambda module, *arrays: module.pooling(*arrays)[0], local, text)

    def pool_with_weights(
        self, params: Params, local: Float[AnyArray, "B L D"], text: Float[AnyArray, "N D"]
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N L+1"]]:
        """`pool`, and its attention weights per head; the last column is the weight of the empty slot."""
        return self._apply(params, lambda module, *arrays: module.pooling(*arrays), local, text)

    def logits(
        self, params: Params, images: Float[AnyArray, "B S1 S2 3"], tokens: Int[AnyArray, "N T"]
    ) -> Float[Array, "B N"]:
        """Text-conditioned logits: s * cos(pool(image, text), text) + b, with s = exp(logit_scale), b = logit_bias."""
        self._check_images(images)
        self._check_tokens(tokens)
        return self._apply(params, lambda module, *arrays: module(*arrays), images, tokens)

    def global_logits(
        self, params: Params, images: Float[AnyArray, "B S1 S2 3"], tokens: Int[AnyArray, "N T"]
    ) -> Float[Array, "B N"]:
        """Logits of the global tokens, as in CLIP: s * cos(image, text). The PyTorch release adds no bias here."""
        self._check_images(images)
        self._check_tokens(tokens)
        return self._apply(params, lambda module, *arrays: module.global_logits(*arrays), images, tokens)

    def project_texts(self, params: Params, text: Float[AnyArray, "N D"]) -> Float[Array, "N D"]:
        """Text features as queries of the pooling, for `pool_queries`."""
        return self._apply(params, lambda module, text: module.pooling.project_texts(text), text)

    def pool_queries(
        self, params: Params, query: Float[AnyArray, "B C D"], images: PreparedImage
    ) -> Float[Array, "B C D"]:
        """Each image as seen by its own C texts, not normalised; the loss pools so.

        Args:
          params: from `flair_jax.load` or `init`; those of the pooling are enough.
          query: rows of `project_texts`.
          images: from `prepare_images`.
        """
        return self._apply(params, lambda module, query: module.pooling.pool_queries(query, images), query)

    def prepare_images(self, params: Params, local: Float[AnyArray, "B L D"]) -> PreparedImage:
        """The part of text-conditioned scoring that depends on images alone; `local` is from `encode_image`."""
        return self._apply(params, lambda module, local: module.pooling.prepare_images(local), local)

    def prepare_texts(self, params: Params, text: Float[AnyArray, "N D"]) -> PreparedTexts:
        """The part of text-conditioned scoring that depends on texts alone; `text` is from `encode_text`."""
        return self._apply(params, lambda module, text: module.pooling.prepare_texts(text), text)

    def cosines(self, params: Params, image: PreparedImage, texts: PreparedTexts) -> Float[Array, " N"]:
        """cos(pool(image, text), text) of one image with every text, faster than by `pool`.

        Args:
          params: from `flair_jax.load` or `init`.
          image: one image of `prepare_images`, without the leading axis; `jax.lax.map` or `jax.vmap` over that axis.
          texts: from `prepare_texts`.
        """
        return self._apply(params, lambda module: module.pooling.cosines(image, texts))

    def cosines_with_text(
        self, params: Params, local: Float[AnyArray, "B L D"], text: Float[AnyArray, " D"]
    ) -> Float[Array, " B"]:
        """cos(pool(image, text), text) of many images with one text, with far less work than by `cosines`.

        Args:
          params: from `flair_jax.load` or `init`.
          local: local image tokens from `encode_image`.
          text: one row of `encode_text`.
        """
        return self._apply(params, lambda module, *arrays: module.pooling.cosines_with_text(*arrays), local, text)

    def _apply(self, params: Params, method: Callable[..., Any], *arrays: AnyArray) -> Any:
        """method(module, *arrays) with the parameters bound and NumPy arrays made JAX's."""
        # float32 means float32: accelerators round the inputs of matrix products unless told not to.
        precision = "highest" if self.config.dtype == "float32" else "default"
        with jax.default_matmul_precision(precision):
            return nn.apply(method, FlairModule(self.config))({"params": params}, *map(jnp.asarray, arrays))

    def _check_images(self, images: AnyArray) -> None:
        patch = self.config.vision.patch_size
        shape = jnp.shape(images)
        if len(shape) != 4 or shape[3] != 3 or shape[1] % patch or shape[2] % patch or 0 in shape[1:3]:
            raise FlairError(
                f"images have shape {shape}; expected [B, S, S, 3] with S a multiple of the patch size {patch}"
            )

    def _check_tokens(self, tokens: AnyArray) -> None:
        shape, longest = jnp.shape(tokens), self.config.text.context_length
        if len(shape) != 2 or not 1 <= shape[1] <= longest:
            raise FlairError(f"tokens have shape {shape}; expected [N, T] with T from 1 to {longest}")
