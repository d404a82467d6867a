"""Towers other than CLIP's: their features are those of transformers' PyTorch classes, with the same random weights."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from made_transformers import save_dinov3, save_siglip

import flair_jax
from flair_jax.convert import stablehlo
from flair_jax.convert.stablehlo_export import export
from flair_jax.convert.transfer import convert
from flair_jax.errors import ConfigError, FlairError
from flair_jax.models.config import TextConfig
from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS

# float32's rounding over two layers; measured 7e-7 of the largest value.
TOLERANCE = 5e-6


def close(ours, theirs) -> None:
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * np.abs(theirs).max(), rtol=0)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def as_torch(images: np.ndarray):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    reference = save_siglip(folder / "theirs")
    convert(str(folder / "theirs"), folder / "ours")
    return reference, *flair_jax.load(folder / "ours")


@pytest.fixture(scope="module")
def dinov3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov3")
    reference = save_dinov3(folder / "theirs")
    convert(str(folder / "theirs"), folder / "ours", PRESETS["tiny"])
    return reference, *flair_jax.load(folder / "ours")


def test_siglip_sees_as_theirs(siglip) -> None:
    reference, model, params = siglip
    images = noise(3, 32, 32, 3)
    image, local = jax.jit(model.encode_image)(params, images)
    theirs = reference.vision_model(as_torch(images))
    close(image, theirs.pooler_output)
    close(local, theirs.last_hidden_state)


def test_siglip_reads_as_theirs(siglip) -> None:
    """Padding too: what follows the end of a text, and how long it is, belongs to the text."""
    reference, model, params = siglip
    tokens = np.random.default_rng(0).integers(2, 300, (4, 16))
    tokens[1, 5:] = 0
    tokens[1, 4] = 1
    close(jax.jit(model.encode_text)(params, tokens), reference.text_model(torch.from_numpy(tokens)).pooler_output)
    changed = tokens.copy()
    changed[1, 7] = 9
    assert (
        np.abs(jax.jit(model.encode_text)(params, tokens) - jax.jit(model.encode_text)(params, changed))[1].max() > 1e-3
    )
    assert (model.text_lengths(tokens) == 16).all()


def test_siglip_scores_as_theirs(siglip) -> None:
    """Scale and bias are taken along; the global logits here are without the bias."""
    reference, model, params = siglip
    images, tokens = noise(2, 32, 32, 3), np.random.default_rng(0).integers(0, 300, (3, 16))
    theirs = reference(input_ids=torch.from_numpy(tokens), pixel_values=as_torch(images)).logits_per_image
    close(jax.jit(model.global_logits)(params, images, tokens) + params["logit_bias"], theirs)


@pytest.mark.parametrize("size", [32, 48])
def test_dinov3_sees_as_theirs(dinov3, size: int) -> None:
    """At its own size and at another, which needs no interpolation."""
    reference, model, params = dinov3
    images = noise(2, size, size + 16, 3)
    image, local = jax.jit(model.encode_image)(params, images)
    theirs = reference(as_torch(images))
    close(image, theirs.pooler_output)
    close(local, theirs.last_hidden_state[:, 5:])
    assert local.shape == (2, size // 8 * (size + 16) // 8, 32)


@pytest.mark.parametrize("name", ["siglip", "dinov3"])
def test_compute_settings_change_rounding_alone(request, name: str) -> None:
    _, model, params = request.getfixturevalue(name)
    images = noise(2, 32, 32, 3)
    tokens = jnp.ones((2, model.config.text.context_length), jnp.int32)

    def loss(params, **settings):
        changed = dataclasses.replace(model, config=dataclasses.replace(model.config, **settings))
        return changed.logits(params, images, tokens).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    again, same = jax.jit(jax.value_and_grad(functools.partial(loss, remat="full", unroll=2)))(params)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5 * scale), gradient, same)
    assert float(np.abs(gradient["vision"]["patch_embedding"]["kernel"]).max()) > 0
    low = dataclasses.replace(model, config=dataclasses.replace(model.config, dtype="bfloat16"))
    image, local = jax.jit(low.encode_image)(params, images)
    assert image.dtype == local.dtype == jnp.float32
    # bfloat16 has 8 bits, 2^-8 is 0.4 %; measured 1 % over two layers.
    whole = jax.jit(model.encode_image)(params, images)[0]
    assert 0 < np.abs(image - whole).max() / np.abs(whole).max() < 0.05


def test_functions_without_this_code_give_the_same(siglip, dinov3, tmp_path) -> None:
    """StableHLO, whose batch has any size; rounding alone differs."""
    for _, model, params in (siglip, dinov3):
        flair_jax.checkpoint.save(tmp_path / "ours", model, params, {})
        export(tmp_path / "ours", tmp_path / "functions.stablehlo")
        exported = stablehlo.load(tmp_path / "functions.stablehlo")
        images, tokens = noise(3, 32, 32, 3), np.full((2, model.config.text.context_length), 1, np.int32)
        for ours, theirs in (
            (exported.encode_image(images), jax.jit(model.encode_image)(params, images)),
            ([exported.encode_text(tokens)], [jax.jit(model.encode_text)(params, tokens)]),
        ):
            for one, two in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(one, two, atol=TOLERANCE * np.abs(two).max())


def test_a_name_that_no_table_has_is_refused(siglip) -> None:
    config = siglip[1].config
    for part, text in (("vision", "clip, siglip, dinov3"), ("text", "clip, siglip")):
        changed = dataclasses.replace(getattr(config, part), tower="nope")
        with pytest.raises(ConfigError, match=f"{part}.tower='nope' is unknown; the towers are {text}"):
            Flair(dataclasses.replace(config, **{part: changed})).abstract_params()


def test_sizes_that_do_not_go_together_are_refused(siglip, dinov3) -> None:
    config = siglip[1].config
    with pytest.raises(ConfigError, match=r"embed_dim=64, .* set it to vision.width=32"):
        Flair(dataclasses.replace(config, embed_dim=64)).abstract_params()
    with pytest.raises(ConfigError, match="set text.causal to false"):
        Flair(dataclasses.replace(config, text=TextConfig(tower="siglip"))).abstract_params()
    narrow = dataclasses.replace(dinov3[1].config.vision, head_width=2)
    with pytest.raises(ConfigError, match="head_width=2 is not a multiple of 4"):
        Flair(dataclasses.replace(dinov3[1].config, vision=narrow)).abstract_params()
    with pytest.raises(FlairError, match="tokens have 8 columns; this text tower reads the last of 16"):
        siglip[1].encode_text(siglip[2], np.ones((1, 8), np.int32))


def test_what_knows_a_tower_by_its_method_refuses(siglip, dinov3) -> None:
    with pytest.raises(ConfigError, match="packed captions need a text tower with the method `packed`"):
        siglip[1].check_packable()
    kernel = dataclasses.replace(dinov3[1], config=dataclasses.replace(dinov3[1].config, attention="pallas"))
    with pytest.raises(ConfigError, match="attention='pallas'"):
        kernel.encode_image(dinov3[2], noise(1, 32, 32, 3))


def test_descriptions_of_older_models_stay_as_they_are() -> None:
    text = flair_jax.models.config_to_json(PRESETS["tiny"])
    assert "tower" not in text["vision_cfg"]
    assert "tower" not in text["text_cfg"]


def test_flops_are_counted_as_traced(dinov3) -> None:
    """By hand: 2 layers over 21 tokens, with MLPs of 48, and 16 patches; no projection."""
    from flair_jax.train.flops import step_flops

    forward = 2 * (21 * 2 * 32 * (4 * 32 + 2 * 48) + 4 * 21 * 21 * 32) + 16 * 2 * 3 * 8 * 8 * 32
    count = lambda model: step_flops(model, 1, 1, None, lock=("image", "text"))  # noqa: E731
    other = dataclasses.replace(dinov3[1], vision=_Nothing())
    assert count(dinov3[1]) - count(other) == forward


class _Nothing(nn.Module):
    def __call__(self, images):
        return jnp.zeros((len(images), 32)), jnp.zeros((len(images), 16, 32))
