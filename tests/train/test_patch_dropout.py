"""Patches that the image tower is trained without."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_close
from own_modules import PatchMeans
from test_step import run, settings_for

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import make_mesh
from flair_jax.train.objects import make_objects
from flair_jax.train.optim import make_optimizer
from flair_jax.train.step import Batch, make_train_step


@pytest.fixture(scope="module")
def fine(small_model) -> tuple[Flair, dict]:
    """With 16 patches instead of 4."""
    model, params = small_model
    vision = dataclasses.replace(model.config.vision, patch_size=8)
    model = Flair(dataclasses.replace(model.config, vision=vision))
    rng = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)  # noqa: E731
    return model, {**params, "vision": jax.tree.map(draw, model.abstract_params()["vision"])}


def test_kept_patches_are_all_that_counts(fine) -> None:
    model, params = fine
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 32, 32, 3), dtype=np.float32)
    image, local = model.encode_image(params, images)
    order = np.stack([rng.permutation(16), rng.permutation(16)])
    permuted_image, permuted = model.encode_patches(params, images, order)
    assert_close(permuted_image, image)
    assert_close(permuted, np.take_along_axis(np.asarray(local), order[..., None], axis=1))

    kept = order[:, :5]
    few_image, few = model.encode_patches(params, images, kept)
    assert few.shape == (2, 5, 16)
    changed = images.reshape(2, 4, 8, 4, 8, 3).copy()
    for number in order[0, 5:]:
        changed[0, number // 4, :, number % 4] = 9
    again_image, again = model.encode_patches(params, changed.reshape(images.shape), kept)
    np.testing.assert_array_equal(again_image, few_image)
    np.testing.assert_array_equal(again, few)
    changed[0, kept[0, 0] // 4, :, kept[0, 0] % 4] = 9
    other, _ = model.encode_patches(params, changed.reshape(images.shape), kept)
    assert np.abs(other[0] - few_image[0]).max() > 1e-3
    np.testing.assert_array_equal(other[1], few_image[1])


@pytest.mark.parametrize(("share", "count"), [(0.5, 8), (0.3, 11), (0.99, 1)])
def test_each_step_draws_its_own(fine, share: float, count: int) -> None:
    """int(16 * 0.7) is 11; at least one stays."""
    model, _ = fine
    settings = settings_for(patch_dropout=share, seed=3)
    step = make_train_step(model, make_optimizer(settings.optimizer, lambda _: 0.0, ()), settings).__self__
    with jax.set_mesh(make_mesh(settings.mesh, jax.devices()[:1])):
        first, again, second = (np.asarray(step.draw_patches(64, jnp.int32(number))) for number in (1, 1, 2))
    assert first.shape == (64, count)
    assert all(len(set(row)) == count for row in first.tolist())
    np.testing.assert_array_equal(first, again)
    assert (np.sort(first, axis=1) != np.sort(second, axis=1)).any()
    assert len({tuple(sorted(row)) for row in first.tolist()}) > 8, "each image has its own"
    assert set(first.ravel().tolist()) == set(range(16)), "and every patch is kept by some image"


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    tokens = np.zeros((16, 8), np.int32)
    tokens[:, :5] = rng.integers(1, 49000, (16, 5))
    tokens[:, 5] = 49407
    return Batch(rng.integers(0, 256, (8, 32, 32, 3), np.uint8), tokens)


def test_the_same_on_other_devices_and_in_parts(fine, batch) -> None:
    """Sums in another order differ by a few 1e-7 of the loss; other patches by 0.001 and more.

    The term draws no captions and the parameters hardly move, so that the loss of a batch changes by its patches alone.
    """
    model, params = fine
    shape = {"batch_size": 8, "captions_per_image": 2, "seed": 5, "patch_dropout": 0.5, "loss.terms": ("mps",)}
    still = {"optimizer.warmup_steps": 1, "optimizer.learning_rate": 1e-12}
    alone, _ = run(model, settings_for(**shape, **still), params, [batch, batch])
    meshed = settings_for(**shape, **still, accumulation_steps=2, **{"mesh.data": 2, "mesh.fsdp": 2})
    many, _ = run(model, meshed, params, [batch, batch], devices=4)
    for ours, theirs in zip(alone, many, strict=True):
        assert_close(ours.loss, theirs.loss, rtol=2e-5)
    assert abs(alone[0].loss - alone[1].loss) > 1e-3


def test_an_image_tower_that_cannot(small_config) -> None:
    model = Flair(small_config, vision=PatchMeans(patch=16, embed_dim=16))
    settings = settings_for(patch_dropout=0.5, steps=10, **{"optimizer.warmup_steps": 1})
    with pytest.raises(ConfigError, match="by image towers with the method `of_patches`, which PatchMeans lacks; give"):
        make_objects(settings, model=model)
    with pytest.raises(ConfigError, match="config.patch_dropout=1.0 must be from 0 to below 1"):
        settings_for(patch_dropout=1.0)
