"""The interface of a pooling: three methods that each one implements, and others that it may override to be fast."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flair_jax.models.normalize import l2_normalize


class PreparedTexts(NamedTuple):
    """What scoring needs of N texts, made once for all images.

    Attributes:
      each: tree of arrays with the N texts along their LAST axis; scoring takes slices of that axis and knows nothing
        else about it.
      shared: tree of arrays that all texts share.
    """

    each: Any
    shared: Any = ()

    @property
    def size(self) -> int:
        """N."""
        return int(jax.tree.leaves(self.each)[0].shape[-1])


class Pooling(nn.Module):
    """A pooling of local image tokens that depends on a text; a subclass implements the first three methods.

    `project_texts`, `prepare_images` and `pool_queries` are what the loss needs, and all else follows from them. The
    other methods are here in their plain form: correct for every pooling, with time and memory that grow with D for
    each pair. A pooling that can do better overrides them, as `flair_jax.models.attention_pooling` does:
    `prepare_texts` together with `cosines` for scoring and classification, `cosines_with_text` for search, and
    `__call__` if it has attention weights to show. Overriding them changes results by rounding only. `keep_tokens` is
    for pooling parts of images, which no training needs.

    Letters: B images, L local tokens of each, N texts, C texts of an image's own, D embedding width, Q that of a query.
    """

    def project_texts(self, text: Float[Array, "*N D"]) -> Float[Array, "*N Q"]:
        """Texts as queries: the part of the pooling that depends on texts alone.

        Args:
          text: features from the text tower, not normalised; N may be any number of axes, none included.
        """
        raise NotImplementedError(f"{type(self).__name__} has no project_texts, which every pooling must have")

    def prepare_images(self, local: Float[Array, "B L D"]) -> Any:
        """Images as `pool_queries` takes them: the part of the pooling that depends on images alone.

        Args:
          local: local tokens from the vision tower, not normalised.

        Returns:
          A tree of arrays, each with the B images along its FIRST axis.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prepare_images, which every pooling must have")

    def pool_queries(self, query: Float[Array, "B C Q"], images: Any) -> Float[Array, "B C D"]:
        """Each image as seen by its own C texts, not normalised, float32.

        Args:
          query: rows of `project_texts`.
          images: from `prepare_images`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pool_queries, which every pooling must have")

    def keep_tokens(self, images: Any, kept: Bool[Array, "B L"]) -> Any:
        """Images for `pool_queries` of which only some tokens count, as if the others were not there.

        Args:
          images: from `prepare_images`.
          kept: which tokens count; there may be none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no keep_tokens, so it cannot pool parts of images")

    def __call__(
        self, local: Float[Array, "B L D"], text: Float[Array, "N D"]
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N L+1"] | None]:
        """Every image as seen by every text.

        Returns:
          Pooled features, and the weights of H attention heads over the local tokens, with the weight of the empty slot
          in the last column; None if the pooling has no such weights.
        """
        query = self.project_texts(text)
        queries = jnp.broadcast_to(query[None], (local.shape[0], *query.shape))
        return self.pool_queries(queries, self.prepare_images(local)), None

    def prepare_texts(self, text: Float[Array, "N D"]) -> PreparedTexts:
        """All that `cosines` needs of texts."""
        return PreparedTexts((self.project_texts(text).T, l2_normalize(text).T))

    def cosines(self, image: Any, texts: PreparedTexts) -> Float[Array, " N"]:
        """cos(pool(image, text), text) of one image with every text.

        Args:
          image: one image of `prepare_images`, without the leading axis.
          texts: from `prepare_texts`, or some of its columns.
        """
        query, target = texts.each
        pooled = self.pool_queries(query.T[None], jax.tree.map(lambda leaf: leaf[None], image))[0]
        return jnp.sum(l2_normalize(pooled) * target.T, axis=-1)

    def cosines_with_text(self, local: Float[Array, "B L D"], text: Float[Array, " D"]) -> Float[Array, " B"]:
        """cos(pool(image, text), text) of many images with one text."""
        query = self.project_texts(text[None])
        queries = jnp.broadcast_to(query[None], (local.shape[0], *query.shape))
        pooled = self.pool_queries(queries, self.prepare_images(local))[:, 0]
        return l2_normalize(pooled) @ l2_normalize(text)
