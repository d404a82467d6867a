"""Functions and parameters without the model's code, here and in processes of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flair_jax.convert import stablehlo
from flair_jax.convert.stablehlo_export import export

import flair_jax
from flair_jax.cli import main
from flair_jax.errors import CheckpointError, FlairError

# Docs and tests run the same lines.
GUIDE = Path(__file__).parent.parent.parent / "docs" / "export.md"


@pytest.fixture(scope="module")
def exported(small_checkpoint, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "small.stablehlo"
    assert main(["export", str(small_checkpoint), str(target)]) == 0
    return target


def inputs(config, images: int, texts: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(images)
    size = config.vision.image_size
    tokens = rng.integers(1, config.text.vocab_size - 1, (texts, config.text.context_length), dtype=np.int32)
    tokens[:, -1] = config.text.vocab_size - 1
    return rng.standard_normal((images, size, size, 3), dtype=np.float32), tokens


# float32: the same operations, which the compiler may fuse in another way; measured 5e-7 of the largest value.
# bfloat16: what is rounded where follows from that too, and a rounding is 2^-8; measured 3e-3.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 1e-2)])
def test_equal_to_the_original_at_every_batch_size(small_checkpoint, tmp_path, dtype: str, tolerance: float) -> None:
    export(small_checkpoint, tmp_path / "a.stablehlo", dtype=dtype)
    loaded = stablehlo.load(tmp_path / "a.stablehlo")
    model, params = flair_jax.load(small_checkpoint, dtype=dtype)
    for sizes in ((1, 1), (3, 2), (2, 5)):
        images, tokens = inputs(model.config, *sizes)
        ours = jax.jit(model.encode_image)(params, images)
        text = jax.jit(model.encode_text)(params, tokens)
        pooled = jax.jit(model.pool)(params, ours[1], text)
        theirs = loaded.encode_image(images)
        pairs = [*zip(ours, theirs, strict=True), (text, loaded.encode_text(tokens))]
        pairs.append((pooled, loaded.pool(ours[1], text)))
        for expected, found in pairs:
            assert found.dtype == np.float32
            difference = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
            assert difference <= tolerance, difference


def test_logits_of_the_guide(exported, small_checkpoint) -> None:
    """Scale and bias lie beside the functions, so that logits can be had without the model."""
    loaded = stablehlo.load(exported)
    model, params = flair_jax.load(small_checkpoint)
    images, tokens = inputs(model.config, 2, 3)

    @jax.jit
    def logits(images, tokens):
        text = loaded.encode_text(tokens)
        pooled = loaded.pool(loaded.encode_image(images)[1], text)
        cosines = (pooled * text).sum(-1) / np.linalg.norm(pooled, axis=-1) / np.linalg.norm(text, axis=-1)
        return loaded.logit_scale * cosines + loaded.logit_bias

    np.testing.assert_allclose(loaded.logit_scale, np.exp(params["logit_scale"]), rtol=1e-6)
    with jax.disable_jit():
        pass
    np.testing.assert_allclose(logits(images, tokens), model.logits(params, images, tokens), rtol=1e-5)
