"""Properties of the model that need no reference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from numeric import assert_close

from flair_jax import PRESETS, FlairError, normalize
from flair_jax.models.flair import Flair
from flair_jax.models.normalize import l2_normalize
from flair_jax.models.resize import resize_position_embedding
from flair_jax.models.transformer import ACTIVATIONS
from flair_jax.scoring.scorer import Retriever
from flair_jax.show.maps import attention_maps


@pytest.fixture(scope="module")
def inputs(small_config) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    size, context = small_config.vision.image_size, small_config.text.context_length
    tokens = rng.integers(1, 49406, (5, context), dtype=np.int32)
    for row, end in zip(tokens, (3, 9, 20, 40, context - 1), strict=True):
        row[end], row[end + 1 :] = 49407, 0
    return rng.standard_normal((3, size, size, 3), dtype=np.float32), tokens


def test_release_has_its_number_of_parameters() -> None:
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(Flair(PRESETS[name]).abstract_params()))
        for name in ("ViT-B-16-FLAIR", "ViT-B-32-FLAIR")
    }
    assert counts["ViT-B-16-FLAIR"] == 150_674_434
    assert counts["ViT-B-32-FLAIR"] == 150_674_434 + 768 * (3 * (32**2 - 16**2) + 7**2 - 14**2)


def test_parameters_are_a_plain_dict_with_stacked_layers(small_model) -> None:
    model, params = small_model
    initial = jax.jit(model.init)(jax.random.key(0))
    assert jax.tree.structure(initial) == jax.tree.structure(params)
    assert type(initial) is dict
    kernel = initial["vision"]["blocks"]["attention"]["query"]["kernel"]
    assert kernel.shape == (model.config.vision.layers, model.config.vision.width, model.config.vision.width)
    assert not np.allclose(kernel[0], kernel[1]), "layers must not share their draw"


def test_initial_distributions() -> None:
    """Standard deviations that the release's initialisation implies; 3 % is 3 sigma for the smallest tensor here."""
    config = PRESETS["tiny"]
    params = jax.jit(Flair(config).init)(jax.random.key(0))
    width, layers = config.text.width, config.text.layers
    vision_width = config.vision.width
    text, vision = params["text"]["blocks"], params["vision"]["blocks"]
    expected = [
        (text["attention"]["query"]["kernel"], width**-0.5),
        (text["attention"]["out"]["kernel"], width**-0.5 * (2 * layers) ** -0.5),
        (text["mlp"]["down"]["kernel"], width**-0.5 * (2 * layers) ** -0.5),
        (text["mlp"]["up"]["kernel"], (2 * width) ** -0.5),
        (params["text"]["token_embedding"], 0.02),
        (params["text"]["position_embedding"], 0.01),
        (params["text"]["projection"]["kernel"], width**-0.5),
        (params["vision"]["projection"]["kernel"], vision_width**-0.5),
        (params["vision"]["position_embedding"], vision_width**-0.5),
        # A uniform draw within +-b has deviation b / sqrt(3).
        (vision["attention"]["query"]["kernel"], (6 / (4 * vision_width)) ** 0.5 / 3**0.5),
        (vision["attention"]["out"]["kernel"], vision_width**-0.5 / 3**0.5),
        (vision["mlp"]["up"]["kernel"], vision_width**-0.5 / 3**0.5),
        (vision["mlp"]["down"]["kernel"], (4 * vision_width) ** -0.5 / 3**0.5),
        (params["vision"]["patch_embedding"], (3 * config.vision.patch_size**2) ** -0.5 / 3**0.5),
        (params["pooling"]["query"]["kernel"], (6 / (4 * config.embed_dim)) ** 0.5 / 3**0.5),
    ]
    for array, deviation in expected:
        np.testing.assert_allclose(np.std(array), deviation, rtol=0.06)
    assert np.all(params["pooling"]["query"]["bias"] == 0)
    assert float(params["logit_bias"]) == -10
    np.testing.assert_allclose(float(params["logit_scale"]), np.log(1 / 0.07), rtol=1e-6)


@pytest.fixture(scope="module")
def gradients(small_model, inputs):
    """A function of settings: a loss with its gradients."""
    model, params = small_model

    def gradients(**settings):
        other = Flair(dataclasses.replace(model.config, **settings))
        return jax.jit(jax.value_and_grad(lambda params: jnp.sum(jnp.sin(other.logits(params, *inputs)))))(params)

    return functools.cache(gradients)


@pytest.mark.parametrize("settings", [{"unroll": 2}, {"unroll": 9}, {"remat": "full"}, {"remat": "dots"}])
def test_compute_settings_change_no_number(gradients, settings) -> None:
    expected, actual = gradients(), gradients(**settings)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(actual[1]), jax.tree.leaves(expected[1]), strict=True):
        # Another order of float32 sums; measured below 1e-5 of each gradient's largest value.
        assert np.abs(ours - theirs).max() <= 1e-4 * max(np.abs(theirs).max(), 1e-3)


def test_cosines_are_those_of_pool(small_model, inputs) -> None:
    model, params = small_model
    images, tokens = inputs
    _, local = model.encode_image(params, images)
    text = model.encode_text(params, tokens)
    expected = jnp.einsum("bnd,nd->bn", l2_normalize(model.pool(params, local, text)), l2_normalize(text))
    texts, prepared = model.prepare_texts(params, text), model.prepare_images(params, local)
    cosines = jax.vmap(lambda image: model.cosines(params, image, texts))(prepared)
    assert_close(cosines, expected)


def test_a_text_that_matches_nothing_attends_to_nothing(small_model, inputs) -> None:
    """With large negative logits the empty slot takes all the weight, and only the out-projection's bias is left."""
    model, params = small_model
    pooling = params["pooling"]
    one = jnp.ones_like(pooling["query"]["bias"])
    zero = jnp.zeros_like(pooling["query"]["kernel"])
    query, key = {"kernel": zero, "bias": one * 50}, {"kernel": zero, "bias": -one * 50}
    params = {**params, "pooling": {**pooling, "query": query, "key": key}}
    local, text = model.encode_image(params, inputs[0])[1], model.encode_text(params, inputs[1])
    pooled, weights = model.pool_with_weights(params, local, text)
    assert_close(weights[..., -1], jnp.ones(weights.shape[:-1]))
    assert_close(pooled, jnp.broadcast_to(pooling["out"]["bias"], pooled.shape))
    assert np.isfinite(model.cosines(params, jax.tree.map(lambda x: x[0], model.prepare_images(params, local)),
                                     model.prepare_texts(params, text))).all()  # fmt: skip


def test_padding_after_the_end_changes_nothing(small_model, inputs) -> None:
    model, params = small_model
    tokens = inputs[1][:2]
    assert_close(model.encode_text(params, tokens[:, :10]), model.encode_text(params, tokens))


@pytest.mark.parametrize("grid", [(3, 3), (7, 7), (9, 4), (20, 31)])
def test_position_tables_resize_as_in_torch(grid: tuple[int, int]) -> None:
    """Up and down, square or not; the golden data has one size."""
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((1 + 14 * 14, 8), dtype=np.float32)
    patches = torch.from_numpy(table[1:]).reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    expected = np.concatenate([table[:1], resized.permute(0, 2, 3, 1).reshape(-1, 8).numpy()])
    assert_close(resize_position_embedding(jnp.asarray(table), grid), expected)


def test_pictures_of_another_shape(small_model) -> None:
    model, params = small_model
    _, local = model.encode_image(params, jnp.zeros((2, 48, 64, 3)))
    assert local.shape == (2, 3 * 4, model.config.embed_dim)


def test_wrong_shapes_are_named(small_model) -> None:
    model, params = small_model
    with pytest.raises(FlairError, match=r"images have shape \(1, 33, 32, 3\).*patch size 16"):
        model.encode_image(params, jnp.zeros((1, 33, 32, 3)))
    with pytest.raises(FlairError, match=r"tokens have shape \(1, 78\).*T from 1 to 77"):
        model.encode_text(params, jnp.zeros((1, 78), jnp.int32))


def test_pixels_are_normalised_once(small_model, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users: the tests alone check annotations
    model, params = small_model
    pixels, tokens = np.zeros((1, 32, 32, 3), np.uint8), np.ones((1, 77), np.int32)
    for method in (model.logits, model.global_logits, jax.jit(model.logits), functools.partial(attention_maps, model)):
        with pytest.raises(FlairError, match=r"images are uint8, .*; give model.normalize\(pixels\)"):
            method(params, pixels, tokens)
    with pytest.raises(FlairError, match="images are int32"):
        model.encode_image(params, jnp.zeros((1, 32, 32, 3), jnp.int32))
    with pytest.raises(FlairError, match="pixels are float32; expected whole numbers"):
        model.normalize(model.normalize(pixels))
    with pytest.raises(FlairError, match="pixels are float32; expected"):
        Retriever(model, params).encode_images(pixels / 255, with_local=False)


def test_no_pictures_and_no_texts_have_no_features(small_model) -> None:
    model, params = small_model
    features, local = model.encode_image(params, jnp.zeros((0, 32, 32, 3)))
    assert (features.shape, local.shape) == ((0, 16), (0, 4, 16))
    tokens = jnp.zeros((2, 77), jnp.int32)
    assert model.encode_text(params, tokens[:0]).shape == (0, 16)
    assert model.logits(params, jnp.zeros((0, 32, 32, 3)), tokens).shape == (0, 2)


def test_l2_normalize_of_zero_is_zero() -> None:
    assert np.all(l2_normalize(jnp.zeros((2, 4))) == 0)


def test_normalize_works_on_the_device() -> None:
    pixels = np.full((1, 2, 2, 3), 255, np.uint8)
    result = jax.jit(normalize)(pixels)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result[0, 0, 0, 0], (1 - 0.48145466) / 0.26862954, rtol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "quick_gelu"])
def test_activations_are_those_of_torch(name: str) -> None:
    """Values and gradients; QuickGELU differs from the others by up to 0.02, and these by up to 5e-4."""
    torch = pytest.importorskip("torch")
    x = np.linspace(-8, 8, 401, dtype=np.float32)
    there = torch.tensor(x, requires_grad=True)
    approximate = "tanh" if name == "gelu_tanh" else "none"
    quick = there * torch.sigmoid(1.702 * there)
    result = quick if name == "quick_gelu" else torch.nn.functional.gelu(there, approximate=approximate)
    result.sum().backward()
    values, gradient = jax.vjp(ACTIVATIONS[name], jnp.asarray(x))
    # float32's rounding of values up to 8 and of an exponential; measured 1e-6.
    np.testing.assert_allclose(values, result.detach().numpy(), rtol=1e-6, atol=2e-6)
    # In the tanh form 1 - tanh^2 cancels where it is flat, before it is multiplied by x; measured 9.3e-6.
    flat = 2e-5 if name == "gelu_tanh" else 2e-6
    np.testing.assert_allclose(gradient(np.ones_like(x))[0], there.grad.numpy(), rtol=1e-5, atol=flat)
