"""COSMOS (Kim et al., CVPR 2025, arXiv 2412.01814) as a configuration file: distillation across modalities.

    flair-jax train --config=examples/cosmos.py --config.data.dir=DIR --workdir=runs/cosmos

A teacher, the moving average of the parameters, sees the batch too. The student's image attends to its texts and each
of its texts to the image's patches, and what they gather is added to them. These cross-modal embeddings are compared
with the teacher's plain embeddings of images and of texts by InfoNCE, in all four combinations; their mean is added to
CLIP's loss of the plain embeddings of the student.

A new implementation from the paper and a copy of the authors' release (geniusxxx/cosmos, `--cosmos`), not tested
against their numbers. Kept: text crops (two global ones of 1 to 5 sentences, which alone are the teacher's texts, and
local ones of one), both cross-attentions with their residuals, all InfoNCE terms, a second logit scale. Left out or
otherwise:

- image crops: training reads one crop of an image, where they take two large ones and several small;
- an image attends to the features of all its texts, where theirs attends to the tokens of the first: a text tower gives
  one feature for a text;
- the teacher's momentum stays what it is, as in their `--fix-momentum`; its default rises to 1 with a cosine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from flair_jax import Flair, Pooling, TrainSettings
from flair_jax.configs.demo import get_config as get_demo
from flair_jax.data import Record, Source
from flair_jax.data.sets import open_sets
from flair_jax.errors import ConfigError
from flair_jax.models import Params, l2_normalize
from flair_jax.train import Features, Loss, LossValues

GLOBAL = 2  # text crops of several sentences, the first of each image's


def get_config() -> ml_collections.ConfigDict:
    """The demonstration's settings but for these; `default.py` explains the fields.

    After ten minutes on 2 cores of an AMD EPYC, `flair-jax evaluate --mode global --checkpoint runs/cosmos
    --config=examples/cosmos.py --dataset folder --data-dir demo/held-out` gives 31.8 % R@1 text to image and 35.7 %
    image to text, chance being 0.2 %.
    """
    c = get_demo()
    c.batch_size = 32
    c.captions_per_image = 8
    c.steps = 1000
    c.optimizer.ema_decay = 0.99  # the teacher's momentum; the larger the batch, the smaller
    c.evaluation.mode = "global"  # a text-conditioned embedding has the text in it
    c.factories.model = make_model
    c.factories.loss = make_loss
    c.factories.sources = make_sources
    return c


class CrossAttention(nn.Module):
    """Multi-head attention of some features of `width` D over others, each normalised by a LayerNorm."""

    width: int
    heads: int

    def setup(self) -> None:
        """The layers."""
        self.ln_q, self.ln_k = nn.LayerNorm(), nn.LayerNorm()
        self.query, self.key, self.value, self.out = (nn.Dense(self.width) for _ in range(4))

    def queries(self, features: Array) -> Array:
        """[*N, D] -> [*N, D]."""
        return self.query(self.ln_q(features))

    def context(self, tokens: Array) -> tuple[Array, Array]:
        """[B, L, D] -> keys and values [B, L, D]."""
        tokens = self.ln_k(tokens)
        return self.key(tokens), self.value(tokens)

    def __call__(self, queries: Array, context: tuple[Array, Array]) -> Array:
        """[B, C, D] and what `context` gave of B rows -> [B, C, D]."""
        heads = (x.reshape(*x.shape[:2], self.heads, -1) for x in (queries, *context))
        return self.out(jax.nn.dot_product_attention(*heads).reshape(queries.shape))


class CosmosPooling(Pooling):
    """Texts that attend to images, with a residual, as the model's pooling; and images that attend to texts."""

    embed_dim: int
    heads: int

    def setup(self) -> None:
        """The two cross-attentions, and the log of the factor on the cosines of the distillation."""
        self.over_images = CrossAttention(self.embed_dim, self.heads)
        self.over_texts = CrossAttention(self.embed_dim, self.heads)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ())

    def project_texts(self, text: Array) -> Array:
        """[*N, D] -> [*N, 2 D]: the texts, for the residual, and their queries."""
        return jnp.concatenate([text, self.over_images.queries(text)], axis=-1)

    def prepare_images(self, local: Array) -> tuple[Array, Array]:
        """[B, L, D] -> keys and values [B, L, D]."""
        return self.over_images.context(local)

    def pool_queries(self, query: Array, images: tuple[Array, Array]) -> Array:
        """[B, C, 2 D] and the keys and values of B images -> [B, C, D]."""
        text, query = jnp.split(query, 2, axis=-1)
        return text + self.over_images(query, images)

    def see_texts(self, image: Array, text: Array) -> Array:
        """Images [B, D] with what they gather from their own K texts [B, K, D]: [B, D]."""
        return image + self.over_texts(self.over_texts.queries(image)[:, None], self.over_texts.context(text))[:, 0]

    def __call__(self, local: Array, text: Array) -> tuple[Array, Array | None]:
        """As of every pooling; a model is initialised by it, so it touches all layers then."""
        if self.is_initializing():
            self.see_texts(local[:, 0], local)
        return super().__call__(local, text)


def make_model(settings: TrainSettings) -> Flair:
    """The model that the settings name, with the pooling above."""
    config = settings.model_config()
    return Flair(config, pooling=CosmosPooling(config.embed_dim, config.pooling_heads))


def info_nce(one: Array, other: Array, scale: Array) -> Array:
    """CLIP's loss (Radford et al. 2021) of each of V views with each of U, [V, N, D] and [U, N, D]: their mean."""
    logits = scale * jnp.einsum("vnd,umd->vunm", l2_normalize(one), l2_normalize(other), precision="highest")
    both = jax.nn.log_softmax(logits, axis=-1) + jax.nn.log_softmax(logits, axis=-2)
    return -jnp.mean(jnp.diagonal(both, axis1=-2, axis2=-1)) / 2


def make_loss(settings: TrainSettings) -> Loss:
    """CLIP's loss plus the distillation."""
    if not settings.optimizer.ema_decay:
        raise ConfigError("config.optimizer.ema_decay is 0, but COSMOS's teacher is the average of the parameters")

    def loss(model: Flair, params: Params, features: Features, key: Array, teacher: Features | None) -> LossValues:
        del key
        assert teacher is not None and model.pooling is not None  # noqa: PT018, S101
        text, taught = (x.text.reshape(len(x.image), -1, x.text.shape[-1]) for x in (features, teacher))
        images = model.prepare_images(params, features.local)
        of_text = model.pool_queries(params, model.project_texts(params, text), images)
        of_image: Any = model.pooling.apply({"params": params["pooling"]}, features.image, text, method="see_texts")
        students = of_image[None], of_text.swapaxes(0, 1)
        teachers = teacher.image[None], taught[:, :GLOBAL].swapaxes(0, 1)
        scale = jnp.minimum(jnp.exp(params["pooling"]["logit_scale"]), 100.0)
        terms = {
            "clip": info_nce(features.image[None], text.swapaxes(0, 1), jnp.exp(params["logit_scale"])),
            "distillation": jnp.mean(jnp.stack([info_nce(s, t, scale) for s in students for t in teachers])),
        }
        return LossValues(terms["clip"] + terms["distillation"], terms)

    return loss


def crops_of(sentences: Sequence[str], rng: np.random.Generator, count: int) -> list[str]:
    """Text crops: two of 1 to 5 sentences drawn at random, the others of one; repeated where there are too few."""
    globals_ = [". ".join(rng.permutation(sentences)[: rng.integers(1, 6)]) for _ in range(GLOBAL)]
    order = rng.permutation(len(sentences))
    return globals_ + [sentences[order[number % len(order)]] for number in range(count - GLOBAL)]


@dataclasses.dataclass(frozen=True)
class Cropped:
    """A source whose captions are drawn by `crops_of`."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        draw: Any = lambda rng, count: crops_of(record.sentences, rng, count)  # noqa: E731
        return dataclasses.replace(record, draw=draw)

    def where(self, index: int) -> str:
        """Where the sample lies."""
        return self.source.where(index)


def make_sources(settings: TrainSettings) -> list[Source]:
    """The data sets that the settings name, with text crops."""
    return [Cropped(source) for source in open_sets(settings.data)]
