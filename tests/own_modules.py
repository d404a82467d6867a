"""Poolings and towers that a researcher might write, with nothing but the documented methods."""

import flax.linen as nn
import jax.numpy as jnp

from flair_jax import Pooling, TextConditionedPooling


class HiddenFastPath(TextConditionedPooling):
    """FLAIR's own pooling with the same parameters, in the plain form of all that it does faster."""

    __call__ = Pooling.__call__
    prepare_texts = Pooling.prepare_texts
    cosines = Pooling.cosines
    cosines_with_text = Pooling.cosines_with_text


class GatedMean(Pooling):
    """The mean of the local tokens, each channel opened or closed by the text. It has no attention weights."""

    @nn.compact
    def project_texts(self, text):
        return nn.sigmoid(nn.Dense(text.shape[-1], name="gate")(text))

    def prepare_images(self, local):
        return local.mean(axis=1)

    def pool_queries(self, query, images):
        return query * images[:, None]


class NarrowAttention(Pooling):
    """One head whose queries and keys are narrower than the features; images are a tree of two arrays."""

    width: int

    def setup(self) -> None:
        self.query, self.key = nn.Dense(self.width), nn.Dense(self.width)

    def project_texts(self, text):
        return self.query(text)

    def prepare_images(self, local):
        return {"key": self.key(local), "value": local}

    def pool_queries(self, query, images):
        logits = jnp.einsum("bcq,blq->bcl", query, images["key"])
        return jnp.einsum("bcl,bld->bcd", nn.softmax(logits), images["value"])


class PlainMean(Pooling):
    """The mean of the local tokens plus the text: a pooling without parameters."""

    def project_texts(self, text):
        return text

    def prepare_images(self, local):
        return local.mean(axis=1)

    def pool_queries(self, query, images):
        return query + images[:, None]


class PatchMeans(nn.Module):
    """A vision tower: colours of patches, projected; the global token is the mean of the local ones."""

    patch: int
    embed_dim: int

    @nn.compact
    def __call__(self, images):
        patches = nn.avg_pool(images, (self.patch, self.patch), (self.patch, self.patch))
        local = nn.Dense(self.embed_dim)(patches.reshape(len(images), -1, 3))
        return local.mean(axis=1), local


class BagOfWords(nn.Module):
    """A text tower without an order, in which every token counts, padding too."""

    vocab_size: int
    embed_dim: int

    @nn.compact
    def __call__(self, tokens):
        return nn.Embed(self.vocab_size, self.embed_dim)(tokens).mean(axis=1)
