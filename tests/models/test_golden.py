"""The model against numbers of the PyTorch original."""

from pathlib import Path

import jax
import numpy as np
import pytest
from numeric import assert_close

from flair_jax.models.flair import Flair
from flair_jax.models.resize import resize_position_embedding
from flair_jax.models.transformer import Block

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def forward(golden: Path) -> dict[str, jax.Array]:
    data = {name: jax.numpy.asarray(array) for name, array in np.load(golden / "forward.npz").items()}
    for name in ("images", "big_images"):
        data[name] = data[name].transpose(0, 2, 3, 1)  # torch's pictures are channels first
    return data


def test_image_features(golden_model, forward) -> None:
    model, params = golden_model
    image, local = jax.jit(model.encode_image)(params, forward["images"])
    assert_close(image, forward["global_image"])
    assert_close(local, forward["local_image"])


def test_text_features(golden_model, forward) -> None:
    model, params = golden_model
    assert_close(jax.jit(model.encode_text)(params, forward["tokens"]), forward["global_text"])


def test_features_before_projection(golden_model, forward) -> None:
    from flair_jax.models.towers import text_tower, vision_tower

    model, params = golden_model
    with jax.default_matmul_precision("highest"):
        tokens = vision_tower(model.config).apply({"params": params["vision"]}, forward["images"], method="tokens")
        text = text_tower(model.config).apply({"params": params["text"]}, forward["tokens"], method="end_of_text")
    assert_close(tokens[:, 0], forward["global_image_before_post"])
    assert_close(tokens[:, 1:], forward["local_image_before_post"])
    assert_close(text, forward["global_text_before_post"])


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_block_outputs(golden_model, forward, tower: str) -> None:
    """Each layer, from the output of the one before it."""
    model, params = golden_model
    config = model.config.vision if tower == "vision" else model.config.text
    block = Block(config.heads, int(config.width * config.mlp_ratio), tower == "text", "gelu", None, np.float32)
    for layer in range(1, config.layers):
        weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params[tower]["blocks"])
        with jax.default_matmul_precision("highest"):
            output = block.apply({"params": weights}, forward[f"{tower}_block_{layer - 1}"])
        assert_close(output, forward[f"{tower}_block_{layer}"])


def test_pooling_and_attention_weights(golden_model, forward) -> None:
    model, params = golden_model
    pooled, weights = jax.jit(model.pool_with_weights)(params, forward["local_image"], forward["global_text"])
    assert_close(pooled, forward["pooled"])
    assert_close(weights, forward["attention_heads"])
    assert_close(weights.mean(axis=1), forward["attention_average"])
    assert_close(jax.jit(model.pool)(params, forward["local_image"], forward["global_text"]), forward["pooled"])


def test_logits(golden_model, forward) -> None:
    model, params = golden_model
    assert_close(jax.jit(model.logits)(params, forward["images"], forward["tokens"]), forward["logits"])
    assert_close(jax.jit(model.global_logits)(params, forward["images"], forward["tokens"]), forward["global_logits"])


def test_larger_pictures(golden_model, forward) -> None:
    model, params = golden_model
    patch = model.config.vision.patch_size
    grid = (forward["big_images"].shape[1] // patch, forward["big_images"].shape[2] // patch)
    table = resize_position_embedding(params["vision"]["position_embedding"], grid)
    assert_close(table, forward["big_positional_embedding"])
    image, local = jax.jit(model.encode_image)(params, forward["big_images"])
    assert_close(image, forward["big_global_image"])
    assert_close(local, forward["big_local_image"])


def test_bfloat16_features_are_within_one_per_cent(golden_model, forward) -> None:
    """Of the float32 numbers, by norm; measured 0.45 to 0.55 %."""
    import dataclasses

    model, params = golden_model
    model = Flair(dataclasses.replace(model.config, dtype="bfloat16"))
    image, local = jax.jit(model.encode_image)(params, forward["images"])
    text = jax.jit(model.encode_text)(params, forward["tokens"])
    pooled = jax.jit(model.pool)(params, local, text)
    for ours, name in ((image, "global_image"), (local, "local_image"), (text, "global_text"), (pooled, "pooled")):
        assert ours.dtype == np.float32
        error = np.linalg.norm(ours - forward[name]) / np.linalg.norm(forward[name])
        assert 1e-5 < error < 1e-2, f"{name}: {error:.1e}"  # the lower bound: bfloat16 was really used
