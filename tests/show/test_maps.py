"""Maps as arrays, against the PyTorch original and against plain loops."""

import functools

import jax
import numpy as np
import pytest
from numeric import assert_close

import flair_jax
from flair_jax.errors import FlairError
from flair_jax.models.normalize import normalize
from flair_jax.show.maps import attention_maps, explain, explain_picture, patch_similarity

SENTENCES = ["a red circle", "the background is navy", "the face of a tabby cat"]


def test_public_names_are_these() -> None:
    assert flair_jax.attention_maps is attention_maps
    assert flair_jax.patch_similarity is patch_similarity


@pytest.mark.golden
def test_attention_is_that_of_the_original(golden, golden_model) -> None:
    data = np.load(golden / "forward.npz")
    model, params = golden_model
    images = data["images"].transpose(0, 2, 3, 1)  # torch's pictures are channels first
    maps = jax.jit(functools.partial(attention_maps, model))(params, images, data["tokens"])
    grid, expected = model.config.vision.grid, data["attention_heads"].swapaxes(1, 2)
    assert maps.heads.shape == (*expected.shape[:3], grid, grid)
    assert_close(maps.heads.reshape(*expected.shape[:3], -1), expected[..., :-1])
    assert_close(maps.empty, expected[..., -1])
    average = data["attention_average"]
    assert_close(maps.heads.mean(axis=2).reshape(*average.shape[:2], -1), average[..., :-1])
    assert_close(maps.empty.mean(axis=2), average[..., -1])


@pytest.fixture(scope="module")
def pictures(small_model) -> np.ndarray:
    """Not square, so that rows and columns cannot be exchanged: [2, 32, 48, 3]."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 48, 3), np.uint8)
    return np.asarray(normalize(pixels))


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return flair_jax.tokenize(SENTENCES)


def test_patches_are_pooled_one_by_one(small_model, pictures, tokens) -> None:
    model, params = small_model
    found = np.asarray(jax.jit(functools.partial(patch_similarity, model))(params, pictures, tokens))
    assert found.shape == (2, 3, 2, 3)
    _, local = model.encode_image(params, pictures)
    text = np.asarray(model.encode_text(params, tokens))
    pool = jax.jit(model.pool)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                alone = local[image, 3 * row + column][None, None]
                pooled = np.asarray(pool(params, alone, text))[0]
                norms = np.linalg.norm(pooled, axis=1) * np.linalg.norm(text, axis=1)
                assert_close(found[image, :, row, column], (pooled * text).sum(axis=1) / norms)


def test_a_patch_far_from_the_first_lies_where_it_is_in_the_picture(small_model, tokens) -> None:
    """What differs between two pictures that differ in one patch is largest in that patch."""
    model, params = small_model
    pixels = np.full((2, 32, 48, 3), 128, np.uint8)
    pixels[1, :16, 32:] = np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8)
    images = normalize(pixels)
    for maps in (patch_similarity(model, params, images, tokens), attention_maps(model, params, images, tokens).heads):
        difference = np.abs(np.asarray(maps[1] - maps[0])).reshape(-1, 2, 3).mean(axis=0)
        assert np.unravel_index(difference.argmax(), (2, 3)) == (0, 2)


def test_one_pass_gives_what_the_single_functions_give(small_model, pictures, tokens) -> None:
    model, params = small_model
    found = explain(model, params, pictures, tokens)
    assert_close(found.logits, model.logits(params, pictures, tokens))
    assert_close(found.global_logits, model.global_logits(params, pictures, tokens))
    maps = attention_maps(model, params, pictures, tokens)
    assert_close(found.attention.heads, maps.heads)
    assert_close(found.attention.empty, maps.empty)
    assert_close(found.patches, patch_similarity(model, params, pictures, tokens))
    # Softmax in float32; measured 1e-7.
    assert_close(maps.heads.sum(axis=(3, 4)) + maps.empty, np.ones(maps.empty.shape))


def test_padding_of_sentences_changes_nothing(small_model) -> None:
    model, params = small_model
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    three = explain_picture(model, params, pixels, SENTENCES)
    for number, sentence in enumerate(SENTENCES):
        alone = explain_picture(model, params, pixels, [sentence])
        jax.tree.map(lambda one, all_, n=number: assert_close(one[0], all_[n]), alone, three)
    assert all(len(leaf) == 3 and isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(three))


@pytest.mark.parametrize(
    ("sentences", "message"), [(["a", " \n"], "sentence 2 of 2 is empty"), ([], "no sentence is given")]
)
def test_sentences_must_say_something(small_model, sentences, message: str) -> None:
    with pytest.raises(FlairError, match=message):
        explain_picture(*small_model, np.zeros((32, 32, 3), np.uint8), sentences)


def test_pictures_must_be_whole_patches(small_model, tokens) -> None:
    for function in (attention_maps, patch_similarity):
        with pytest.raises(FlairError, match=r"images have shape \(1, 30, 32, 3\)"):
            function(*small_model, np.zeros((1, 30, 32, 3), np.float32), tokens)
