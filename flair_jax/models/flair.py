"""FLAIR: the public model, with pure, jittable methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from flair_jax.errors import ConfigError, FlairError
from flair_jax.models.config import FlairConfig
from flair_jax.models.module import FlairModule
from flair_jax.models.normalize import check_images, normalize
from flair_jax.models.pooling import Pooling, PreparedTexts
from flair_jax.models.tokens import PackedTexts, find_end

Params = dict[str, Any]
AnyArray = Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Flair:
    """A FLAIR model: its description, and pure functions of (params, arrays).

    Every method can be jitted as it is (`jax.jit(model.encode_image)`), differentiated and vmapped. Parameters are a
    plain nested dict of float32 arrays. Features, logits and attention weights are float32; with
    `config.dtype="bfloat16"` the matrix products that lead to them are rounded, except for the last projections.

    Letters: B images, N texts, T tokens of a text, S pixels of a side, L local image tokens, D embedding width,
    H pooling heads.

    Attributes:
      config: the description. Its sizes and conventions apply to replaced modules too: images of `vision.image_size` in
        patches of `vision.patch_size`, features of `embed_dim`, how images are normalised and texts tokenised.
      vision: a Linen module in place of the vision tower: images [B, S1, S2, 3] -> global [B, D] and local [B, L, D].
      text: a Linen module in place of the text tower: tokens [N, T] -> [N, D].
      pooling: a `flair_jax.models.pooling.Pooling` in place of FLAIR's own.
    """

    config: FlairConfig
    vision: nn.Module | None = None
    text: nn.Module | None = None
    pooling: Pooling | None = None

    @property
    def module(self) -> FlairModule:
        """The Linen module that has all parameters."""
        return FlairModule(self.config, **self._given())

    @property
    def own_modules(self) -> dict[str, str]:
        """Modules that are not the ones `config` describes: "vision", "text" or "pooling" -> the class's full name."""
        return {
            name: f"{type(module).__module__}.{type(module).__qualname__}" for name, module in self._given().items()
        }

    @property
    def own_classes(self) -> dict[str, str]:
        """`own_modules` by the classes' names alone: a file that moved, or is a program now, holds the same modules."""
        return {name: type(module).__name__ for name, module in self._given().items()}

    @property
    def other_towers(self) -> frozenset[str]:
        """Which of "vision" and "text" is not CLIP's transformer, but a module of its own or another that is named."""
        named = {"vision": self.config.vision.tower, "text": self.config.text.tower}
        return frozenset(name for name, tower in named.items() if tower != "clip" or name in self._given())

    def normalize(self, pixels: UInt8[AnyArray, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Pixels for `encode_image`: `flair_jax.normalize` with the model's own mean and standard deviation."""
        return normalize(pixels, self.config.vision.image_mean, self.config.vision.image_std)

    def text_lengths(self, tokens: Int[np.ndarray, "N T"]) -> Int[np.ndarray, " N"]:
        """How many leading columns of each row determine its feature: up to the end of the text, or all of them."""
        if not self.config.text.causal:
            return np.full(len(tokens), tokens.shape[1])
        return find_end(tokens, self.config.text.end_of_text_id) + 1

    def init(self, key: Array) -> Params:
        """Random parameters, drawn from the distributions of the PyTorch release.

        Args:
          key: from `jax.random.key`.
        """
        size = self.config.vision.image_size
        images, tokens = jnp.zeros((1, size, size, 3)), jnp.zeros((1, self.config.text.context_length), jnp.int32)
        return self.module.init(key, images, tokens)["params"]

    def abstract_params(self) -> Params:
        """Shapes and dtypes of the parameters as `jax.ShapeDtypeStruct`, at no cost in memory."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def encode_image(
        self, params: Params, images: Float[AnyArray, "B S1 S2 3"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B L D"]]:
        """Global and local image tokens, both projected, not normalised.

        Args:
          params: from `flair_jax.load` or `init`.
          images: from `normalize`. Any size that is a multiple of the patch size: position tables are
            interpolated as in the PyTorch release.

        Raises:
          FlairError: if the shape is not that of images in whole patches, or they are pixels, not normalised.
        """
        check_images(images, self.config.vision.patch_size)
        return self._apply(params, lambda module, images: module.vision(images), images)

    def encode_patches(
        self, params: Params, images: Float[AnyArray, "B S1 S2 3"], kept: Int[AnyArray, "B k"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B k D"]]:
        """`encode_image` of a part of the patches, for training.

        Args:
          params: from `flair_jax.load` or `init`.
          images: from `normalize`.
          kept: numbers of the patches that each image keeps, row by row from 0; local tokens are in this order.

        Raises:
          ConfigError: see `check_patches`.
        """
        self.check_patches()
        check_images(images, self.config.vision.patch_size)
        return self._apply(params, lambda module, *arrays: module.vision.of_patches(*arrays), images, kept)

    def check_patches(self) -> None:
        """Raises ConfigError if the image tower cannot see a part of the patches."""
        tower = self.module.vision
        if not hasattr(tower, "of_patches"):
            raise ConfigError(
                f"patches can be left out by image towers with the method `of_patches`, which {type(tower).__name__} "
                "lacks; give it one, as flair_jax.models.VisionTower has, or set config.patch_dropout=0.0"
            )

    def encode_text(self, params: Params, tokens: Int[AnyArray, "N T"]) -> Float[Array, "N D"]:
        """Projected text features, not normalised.

        Args:
          params: from `flair_jax.load` or `init`.
          tokens: int32 ids from `flair_jax.tokenize`, or the model's own tokenizer; T up to the context length. To a
            causal model, columns that hold only padding change nothing, and may be cut off.

        Raises:
          FlairError: if the texts are longer than the context.
        """
        self._check_tokens(tokens)
        return self._apply(params, lambda module, tokens: module.text(tokens), tokens)

    def encode_packed(self, params: Params, texts: PackedTexts) -> Float[Array, "N D"]:
        """`encode_text` of N texts without their padding, group by group; the same features but for rounding.

        Args:
          params: from `flair_jax.load` or `init`.
          texts: such as `flair_jax.data.packing` makes; uncut.

        Raises:
          ConfigError: see `check_packable`.
        """
        self.check_packable()
        return self._apply(params, lambda module, *arrays: module.text.packed(PackedTexts(*arrays)), *texts)

    def check_packable(self) -> None:
        """Raises ConfigError if the text tower cannot read several texts in a row."""
        tower = self.module.text
        if not hasattr(tower, "packed"):
            raise ConfigError(
                f"packed captions need a text tower with the method `packed`, which {type(tower).__name__} lacks; give "
                "it one, as flair_jax.models.TextTower has, or set config.packing.row_tokens=0"
            )
        if not self.config.text.causal:
            raise ConfigError(
                "captions can be packed for causal text towers alone, and text.causal is false: to this one padding is "
                "part of the text; set config.packing.row_tokens=0"
            )

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
        """`pool`, and its attention weights per head; the last column is the weight of the empty slot.

        Raises:
          FlairError: if the pooling has no such weights.
        """
        pooled, weights = self._apply(params, lambda module, *arrays: module.pooling(*arrays), local, text)
        if weights is None:
            raise FlairError(
                f"{type(self.pooling).__name__}, the model's pooling, has no attention weights, so there are no maps "
                "of them; scores and `patch_similarity` need none"
            )
        return pooled, weights

    def logits(
        self, params: Params, images: Float[AnyArray, "B S1 S2 3"], tokens: Int[AnyArray, "N T"]
    ) -> Float[Array, "B N"]:
        """Text-conditioned logits: s * cos(pool(image, text), text) + b, with s = exp(logit_scale), b = logit_bias."""
        check_images(images, self.config.vision.patch_size)
        self._check_tokens(tokens)
        return self._apply(params, lambda module, *arrays: module(*arrays), images, tokens)

    def global_logits(
        self, params: Params, images: Float[AnyArray, "B S1 S2 3"], tokens: Int[AnyArray, "N T"]
    ) -> Float[Array, "B N"]:
        """Logits of the global tokens, as in CLIP: s * cos(image, text). The PyTorch release adds no bias here."""
        check_images(images, self.config.vision.patch_size)
        self._check_tokens(tokens)
        return self._apply(params, lambda module, *arrays: module.global_logits(*arrays), images, tokens)

    def project_texts(self, params: Params, text: Float[AnyArray, "*N D"]) -> Float[Array, "*N Q"]:
        """Text features as queries of the pooling, for `pool_queries`."""
        return self._apply(params, lambda module, text: module.pooling.project_texts(text), text)

    def pool_queries(self, params: Params, query: Float[AnyArray, "B C Q"], images: Any) -> Float[Array, "B C D"]:
        """Each image as seen by its own C texts, not normalised; used by the loss.

        Args:
          params: from `flair_jax.load` or `init`; those of the pooling are enough.
          query: rows of `project_texts`.
          images: from `prepare_images`.
        """
        return self._apply(params, lambda module, query: module.pooling.pool_queries(query, images), query)

    def prepare_images(self, params: Params, local: Float[AnyArray, "B L D"]) -> Any:
        """The part of text-conditioned scoring that depends on images alone; `local` is from `encode_image`."""
        return self._apply(params, lambda module, local: module.pooling.prepare_images(local), local)

    def keep_tokens(self, params: Params, images: Any, kept: Bool[AnyArray, "B L"]) -> Any:
        """Images of `prepare_images` for `pool_queries` of which only some tokens count.

        Raises:
          NotImplementedError: if the pooling cannot do that.
        """
        return self._apply(params, lambda module, kept: module.pooling.keep_tokens(images, kept), kept)

    def prepare_texts(self, params: Params, text: Float[AnyArray, "N D"]) -> PreparedTexts:
        """The part of text-conditioned scoring that depends on texts alone; `text` is from `encode_text`."""
        return self._apply(params, lambda module, text: module.pooling.prepare_texts(text), text)

    def cosines(self, params: Params, image: Any, texts: PreparedTexts) -> Float[Array, " N"]:
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

    def _given(self) -> dict[str, Any]:
        given = {"vision": self.vision, "text": self.text, "pooling": self.pooling}
        return {name: module for name, module in given.items() if module is not None}

    def _apply(self, params: Params, method: Callable[..., Any], *arrays: AnyArray) -> Any:
        """method(module, *arrays) with the parameters bound and NumPy arrays converted to JAX."""
        # float32 means float32: accelerators round the inputs of matrix products unless told not to.
        precision = "highest" if self.config.dtype == "float32" else "default"
        with jax.default_matmul_precision(precision):
            return nn.apply(method, self.module)({"params": params}, *map(jnp.asarray, arrays))

    def _check_tokens(self, tokens: AnyArray) -> None:
        shape, longest = jnp.shape(tokens), self.config.text.context_length
        if len(shape) != 2 or not 1 <= shape[1] <= longest:
            raise FlairError(f"tokens have shape {shape}; expected [N, T] with T from 1 to {longest}")
