"""Packed captions give the features, losses and gradients of padded ones, on every mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_close
from test_step import MESHES, packed, settings_for

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair
from flair_jax.models.tokens import PackedTexts
from flair_jax.parallel.sharding import global_batch, make_mesh
from flair_jax.settings import TrainSettings
from flair_jax.train.losses import make_loss
from flair_jax.train.optim import make_optimizer
from flair_jax.train.packing import find_packing
from flair_jax.train.step import Batch, TrainStep, abstract_state

IMAGES, CAPTIONS = 16, 3


def batch_for(model: Flair, seed: int) -> Batch:
    """Captions of all lengths, in an order of its own."""
    rng = np.random.default_rng(seed)
    text, size = model.config.text, model.config.vision.image_size
    tokens = rng.integers(1, text.vocab_size - 1, (IMAGES * CAPTIONS, text.context_length), dtype=np.int32)
    lengths = rng.integers(2, text.context_length + 1, len(tokens))
    lengths[:2] = 2, text.context_length
    tokens[np.arange(text.context_length) >= lengths[:, None]] = 0
    tokens[np.arange(len(tokens)), lengths - 1] = text.vocab_size - 1
    return Batch(rng.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8), tokens)


def gradients(model: Flair, settings: TrainSettings, params, batch: Batch, devices: int):
    """Loss, its terms, and the gradients of one step."""
    mesh = make_mesh(settings.mesh, jax.devices()[:devices])
    step = TrainStep(
        model, make_optimizer(settings.optimizer, lambda _: 0.0, ()), settings, make_loss(settings.loss, 4)
    )
    with jax.set_mesh(mesh):
        target = abstract_state(model, step.optimizer, mesh).params
        params = jax.tree.map(lambda leaf, like: jax.device_put(np.asarray(leaf), like.sharding), params, target)
        compute = jax.jit(lambda params, batch: step.gradients(params, batch, jax.random.key(3), None))
        return jax.device_get(compute(params, global_batch(batch, mesh)))


def changes(mesh: str, parts: int, **others) -> tuple[int, TrainSettings]:
    devices, axes = MESHES[mesh]
    return devices, settings_for(
        **{f"mesh.{axis}": size for axis, size in axes.items()},
        **{"batch_size": IMAGES, "captions_per_image": CAPTIONS, "accumulation_steps": parts, **others},
    )


@pytest.mark.parametrize("remat", ["none", "full"])
def test_features_are_those_of_padded_captions(small_model, remat: str) -> None:
    """Within 2e-6 of the largest: sums over keys run in another order."""
    model, params = small_model
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, remat=remat))
    _, settings = changes("1 device", 1, **{"packing.row_tokens": 128, "remat": remat})
    batch = batch_for(model, 0)
    texts = packed(model, settings, batch).tokens
    assert isinstance(texts, PackedTexts)
    assert texts.tokens.size < 0.75 * batch.tokens.size
    assert_close(model.encode_packed(params, texts), model.encode_text(params, batch.tokens), rtol=2e-6)


@pytest.mark.parametrize(("mesh", "parts"), [*((mesh, 1) for mesh in MESHES), ("1 device", 4), ("data 2, fsdp 4", 2)])
def test_losses_and_gradients_are_those_of_padded_captions(small_model, mesh: str, parts: int) -> None:
    """Within 2e-6 of the largest number of each array, against padded captions on the same mesh."""
    model, params = small_model
    devices, padded = changes(mesh, parts)
    batch = batch_for(model, 1)
    expected, values = gradients(model, padded, params, batch, devices)
    _, settings = changes(mesh, parts, **{"packing.row_tokens": 96, "packing.tokens_per_caption": 77.0})
    found, of_packed = gradients(model, settings, params, packed(model, settings, batch, devices), devices)
    assert_close(of_packed.total, values.total, rtol=2e-6)
    for name, value in values.terms.items():
        assert_close(of_packed.terms[name], value, rtol=2e-6)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        if "key" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path):
            continue  # zero but for rounding: softmax does not see it
        assert_close(ours, theirs, rtol=2e-6)


def test_what_cannot_be_packed_is_refused(small_model) -> None:
    model, _ = small_model
    mesh = make_mesh(settings_for().mesh, jax.devices()[:1])
    short = settings_for(**{"packing.row_tokens": 64})
    with pytest.raises(ConfigError, match=r"row_tokens=64 is less than the model's context length, 77"):
        find_packing(short, model, mesh)
    settings = settings_for(**{"packing.row_tokens": 128})
    text = dataclasses.replace(model.config.text, causal=False)
    both_ways = Flair(dataclasses.replace(model.config, text=text))
    with pytest.raises(ConfigError, match=r"text.causal is false.*config.packing.row_tokens=0"):
        find_packing(settings, both_ways, mesh)
    layers = settings_for(**{"packing.row_tokens": 128, "mesh.data": 1, "mesh.tensor": 8})
    with pytest.raises(ConfigError, match=r"data \* fsdp = 1 is not a multiple of the 8 processes"):
        find_packing(layers, model, make_mesh(layers.mesh), 8)
    with pytest.raises(ConfigError, match=r"packing.tokens_per_caption=7.9 must be at least 8"):
        settings_for(**{"packing.tokens_per_caption": 7.9})


def test_padding_changes_nothing(small_model) -> None:
    """What lies in unused columns has no influence, and gets no gradient from features."""
    model, params = small_model
    _, settings = changes("1 device", 1, **{"packing.row_tokens": 128, "packing.tokens_per_caption": 77.0})
    texts = packed(model, settings, batch_for(model, 2)).tokens
    noise = np.random.default_rng(0).integers(0, 1000, texts.tokens.shape, dtype=np.int32)
    other = texts._replace(tokens=np.where(texts.segments == 0, noise, texts.tokens))
    same = jnp.array_equal(model.encode_packed(params, texts), model.encode_packed(params, other))
    assert same
