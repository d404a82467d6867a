"""Training with poolings and a tower that are not FLAIR's: the loss by hand, runs, and what is resumed."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_close
from own_modules import GatedMean, HiddenFastPath, NarrowAttention, PatchMeans, PlainMean
from runs import losses

import flair_jax
from flair_jax import Flair, Pooling, TrainSettings
from flair_jax.errors import AnotherRunError
from flair_jax.train.flags import parse_config
from flair_jax.train.loss_context import Features
from flair_jax.train.losses import flair_loss
from flair_jax.train.run import train
from flair_jax.train.terms import sample_captions

IMAGES, CAPTIONS = 4, 2
POOLINGS = (GatedMean(), NarrowAttention(8), PlainMean())


@pytest.fixture(scope="module")
def features(small_config) -> Features:
    rng, width = np.random.default_rng(5), small_config.embed_dim
    shapes = (IMAGES, width), (IMAGES, 3, width), (IMAGES * CAPTIONS, width)
    return Features(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


@pytest.mark.parametrize("pairs_per_block", [3, 8192])
@pytest.mark.parametrize(
    "pooling", [GatedMean(), NarrowAttention(8), PlainMean()], ids=lambda each: type(each).__name__
)
def test_the_text_conditioned_loss_by_hand(small_config, features, pooling: Pooling, pairs_per_block: int) -> None:
    """Pair by pair, from the pooled features of all pairs."""
    model, key = Flair(small_config, pooling=pooling), jax.random.key(8)
    params = model.init(jax.random.key(1))
    pooled = np.asarray(model.pool(params, features.local, features.text), np.float64)
    scale, total = np.exp(float(params["logit_scale"])), 0.0
    for row in range(IMAGES):
        drawn = sample_captions(key, jnp.int32(0), jnp.int32(row), group_size=IMAGES, captions_per_image=CAPTIONS)
        for caption in np.asarray(drawn):
            image, text = pooled[row, caption], np.asarray(features.text[caption], np.float64)
            cosine = image @ text / np.linalg.norm(image) / np.linalg.norm(text)
            logit = scale * cosine + float(params["logit_bias"])
            total += np.logaddexp(0, -logit if caption // CAPTIONS == row else logit)
    expected = total / (IMAGES + CAPTIONS - 1)

    def loss(params):
        settings = {"group_size": IMAGES, "terms": ("tcs",), "pairs_per_block": pairs_per_block}
        return flair_loss(model, params, features, key, **settings).total

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert_close(value, expected)  # float32 sums of some 24 pairs; measured 1e-7
    for leaf in jax.tree.leaves(gradients.get("pooling", {})):
        assert np.abs(leaf).max() > 0, "it would not learn"


def read(config: Path, **changes: object) -> TrainSettings:
    return TrainSettings.from_config(
        parse_config([f"--config={config}", *(f"--config.{k}={v}" for k, v in changes.items())])
    )


@pytest.mark.parametrize("part", ["pooling", "tower"])
def test_a_run_is_resumed_and_loaded_with_its_own_module(config, tmp_path, part: str) -> None:
    settings = read(config, **{"steps": 3, "checkpoint.every_steps": 2, "optimizer.schedule": "constant"})
    described = settings.model_config()
    if part == "pooling":
        model = Flair(described, pooling=GatedMean())
    else:
        model = Flair(described, vision=PatchMeans(described.vision.patch_size, described.embed_dim))
    outcome = train(settings, tmp_path / "run", model=model)
    assert outcome.finished
    assert np.isfinite(list(losses(tmp_path / "run").values())).all()
    longer = train(dataclasses.replace(settings, steps=5), tmp_path / "run", model=model)
    assert longer.checkpoint.name == "5"
    with pytest.raises(AnotherRunError, match=r"own_modules\."):
        train(dataclasses.replace(settings, steps=6), tmp_path / "run")
    loaded, params = flair_jax.load(tmp_path / "run", model=model)
    assert loaded is model
    assert jax.tree.structure(params) == jax.tree.structure(model.abstract_params())


def test_without_its_fast_path_flairs_own_pooling_trains_the_same(config, tmp_path) -> None:
    """The loss uses the three methods alone, and they are inherited: bit for bit."""
    settings = read(config, steps=2)
    described = settings.model_config()
    plain = HiddenFastPath(described.embed_dim, described.pooling_heads, dtype=described.dtype)
    train(settings, tmp_path / "own")
    train(settings, tmp_path / "plain", model=Flair(described, pooling=plain))
    assert losses(tmp_path / "own") == losses(tmp_path / "plain")
