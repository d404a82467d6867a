"""A third term of the loss, written with the public API, and weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numeric import assert_close

from flair_jax.configs.default import get_config
from flair_jax.errors import ConfigError
from flair_jax.models.normalize import l2_normalize
from flair_jax.settings import LossSettings, TrainSettings
from flair_jax.train.loss_context import Features, LossContext
from flair_jax.train.losses import CountedLoss, make_loss
from flair_jax.train.terms import TERMS, LossSizes, Term

IMAGES, CAPTIONS, GROUP = 16, 3, 4


def infonce(context: LossContext) -> jax.Array:
    """CLIP's loss of global features, each image with its captions: both directions, over the whole batch."""
    image, text = l2_normalize(context.own.image), l2_normalize(context.own.text)
    all_images, all_text = context.gather(image), l2_normalize(context.text.reshape(-1, text.shape[-1]))
    to_text = jax.nn.log_softmax(context.scale * image @ all_text.T)
    to_image = jax.nn.log_softmax(context.scale * text @ all_images.T)
    own = context.is_own(context.numbers, jnp.int32(0), jnp.arange(len(all_text))[None])
    own_image = jnp.repeat(context.numbers, context.captions)
    return -(to_text.mean(where=own) + to_image[jnp.arange(len(text)), own_image].mean()) / 2 * len(image) / IMAGES


TABLE = {**TERMS, "infonce": Term(infonce, lambda sizes, group_size: 12.0 * sizes.images**2 * sizes.captions)}


def loss_of(*terms: str, weights: tuple[float, ...] = ()):
    settings = LossSettings(terms=terms, weights=weights, group_size=GROUP, pairs_per_block=40)
    return make_loss(settings, GROUP, table=TABLE)


def by_hand(params: dict, features: Features) -> float:
    image, text = (
        each / np.linalg.norm(each, axis=1, keepdims=True)
        for each in (np.asarray(features.image, np.float64), np.asarray(features.text, np.float64))
    )
    logits = np.exp(float(params["logit_scale"])) * image @ text.T
    own = np.arange(IMAGES)[:, None] == np.arange(IMAGES * CAPTIONS)[None] // CAPTIONS
    both = [logits - np.log(np.exp(logits).sum(axis, keepdims=True)) for axis in (0, 1)]
    return -sum(each[own].mean() for each in both) / 2


@pytest.fixture(scope="module")
def batch() -> Features:
    rng = np.random.default_rng(7)
    shapes = ((IMAGES, 16), (IMAGES, 4, 16), (IMAGES * CAPTIONS, 16))
    return Features(*(jnp.asarray(rng.normal(0, 1, shape), np.float32) for shape in shapes))


def test_a_third_term_on_one_device_and_eight(small_model, batch) -> None:
    """1e-5 relative of the sum of values, as for the others; gradients 1e-4, whose sums run in another order."""
    model, params = small_model
    loss = loss_of("infonce", "tcs", "mps", weights=(0.5, 1.0, 2.0))

    def values(params, features):
        values = loss(model, params, features, jax.random.key(0))
        return values.total, values

    found = []
    for devices in (1, 8):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            rows = NamedSharding(mesh, P("data"))
            sharded = jax.tree.map(lambda leaf, rows=rows: jax.device_put(leaf, rows), batch)
            gradients, values_found = jax.jit(jax.grad(values, argnums=(0, 1), has_aux=True))(params, sharded)
        found.append(jax.device_get((values_found, gradients)))
    (one, gradients), (eight, same) = found
    for each in (one, eight):
        assert_close(each.terms["infonce"], by_hand(params, batch), rtol=1e-5)
        assert_close(each.total, 0.5 * each.terms["infonce"] + each.terms["tcs"] + 2 * each.terms["mps"], rtol=1e-6)
    assert_close(eight.total, one.total, rtol=1e-5)
    assert_close(same[0]["logit_scale"], gradients[0]["logit_scale"], rtol=1e-4)
    for ours, expected in zip(same[1], gradients[1], strict=True):
        assert np.abs(expected).max() > 0
        assert_close(ours, expected, rtol=1e-4)


def test_without_weights_the_loss_is_the_mean(small_model, batch) -> None:
    model, params = small_model
    whole = loss_of("tcs", "mps")(model, params, batch, jax.random.key(0))
    assert list(whole.terms) == ["tcs", "mps"]
    assert float(whole.total) == float(whole.terms["tcs"] + whole.terms["mps"]) / 2
    alone = loss_of("mps")(model, params, batch, jax.random.key(0))
    assert float(alone.total) == float(alone.terms["mps"]) == float(whole.terms["mps"])


def test_flops_are_those_of_the_terms() -> None:
    sizes = LossSizes(IMAGES, CAPTIONS, 4, 16, image_learns=True, text_learns=True)
    one, both = loss_of("infonce"), loss_of("mps", "infonce")
    assert isinstance(one, CountedLoss)
    assert one.flops(sizes) == 12 * IMAGES**2 * CAPTIONS
    assert both.flops(sizes) == one.flops(sizes) + loss_of("mps").flops(sizes)


def test_an_unknown_term_is_named() -> None:
    with pytest.raises(ConfigError, match=r"config.loss.terms=\('clip',\) are not among tcs, mps, infonce"):
        loss_of("clip")
    with pytest.raises(ConfigError, match="2 terms need as many"):
        loss_of("tcs", "mps", weights=(1.0,))


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        (("tcs", "mps"), (1.0,), "must have one factor for each of config.loss.terms"),
        (("mps",), (-1.0,), "must not be negative"),
        (("tcs", "mps"), (0.0, 0.0), "nor all 0"),
        (("mps",), (float("nan"),), "finite"),
    ],
)
def test_wrong_weights(terms, weights, message) -> None:
    config = get_config()
    config.loss.update(terms=terms, weights=weights)
    with pytest.raises(ConfigError, match=message):
        TrainSettings.from_config(config)
    config.loss.weights = (0.0,) * (len(terms) - 1) + (0.5,)
    assert dataclasses.asdict(TrainSettings.from_config(config).loss)["weights"][-1] == 0.5
