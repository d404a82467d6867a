import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS
from flair_jax.weights.infer import infer_config
from flair_jax.weights.param_map import (
    ConversionError,
    params_from_torch,
    torch_from_params,
    torch_shapes,
)


@pytest.mark.golden
def test_the_released_model_converts_and_comes_back_bit_for_bit(golden) -> None:
    """Every tensor of the real size, random bits and all: NaN patterns too must survive."""
    listing = json.loads((golden / "ViT-B-16-FLAIR.keys.json").read_text())
    shapes = {name: tuple(entry["shape"]) for name, entry in listing["tensors"].items()}
    config = PRESETS["ViT-B-16-FLAIR"]
    assert torch_shapes(config) == shapes
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.integers(0, 2**32, shape, np.uint32).reshape(shape).view(np.float32)
        if shape
        else np.float32(rng.random()).reshape(())
        for name, shape in shapes.items()
    }
    assert infer_config(tensors, None) == config
    params = params_from_torch(tensors, config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == listing["total"] == 150_674_434
    abstract = Flair(config).abstract_params()
    assert jax.tree.map(lambda leaf: leaf.shape, params) == jax.tree.map(lambda leaf: leaf.shape, abstract)
    back = torch_from_params(params, config)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape, name
        assert back[name].flags.c_contiguous, name
        assert back[name].tobytes() == tensor.tobytes(), name


@pytest.fixture
def tensors(golden) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(golden / "tiny.safetensors")


@pytest.mark.golden
def test_all_that_is_wrong_is_listed_at_once(tensors, golden_config) -> None:
    tensors["extra.weight"] = np.zeros((2, 3), np.float32)
    del tensors["ln_final.bias"]
    tensors["text_post.proj"] = tensors["text_post.proj"][:-1]
    tensors["visual.ln_pre.bias"] = tensors["visual.ln_pre.bias"].astype(np.int64)
    with pytest.raises(ConversionError) as error:
        params_from_torch(tensors, golden_config)
    message = str(error.value)
    assert "4 problems" in message
    assert "missing: ln_final.bias" in message
    assert "left over: extra.weight [2, 3]" in message
    assert "wrong shape: text_post.proj is" in message
    assert "not floating-point: visual.ln_pre.bias is int64" in message


@pytest.mark.golden
def test_a_missing_layer_in_the_middle_is_named(tensors, golden_config) -> None:
    last = golden_config.text.layers - 1
    for name in [name for name in tensors if name.startswith("transformer.resblocks.0.ln_1")]:
        del tensors[name]
    assert infer_config(tensors, golden_config).text.layers == last + 1
    with pytest.raises(ConversionError, match=r"missing: transformer.resblocks.0.ln_1.weight"):
        params_from_torch(tensors, golden_config)


def test_a_layer_of_an_impossible_number_is_left_over(small_config) -> None:
    tensors = {name: np.zeros(shape, np.float32) for name, shape in torch_shapes(small_config).items()}
    odd = f"transformer.resblocks.{'9' * 5000}.ln_1.weight"
    assert infer_config({**tensors, odd: np.zeros(1)}, small_config) == small_config
    with pytest.raises(ConversionError, match="left over: transformer.resblocks.9999"):
        params_from_torch({**tensors, odd: np.zeros(1)}, small_config)


@pytest.mark.golden
def test_heads_must_be_told_for_unknown_sizes(small_config) -> None:
    tensors = {name: np.zeros(shape, np.float32) for name, shape in torch_shapes(small_config).items()}
    with pytest.raises(ConfigError, match="tensors do not show the numbers of attention heads; pass --config"):
        infer_config(tensors, None)
    assert infer_config(tensors, small_config) == small_config
    wrong = dataclasses.replace(small_config, embed_dim=small_config.embed_dim * 2)
    with pytest.raises(ConversionError, match=f"embed_dim is {small_config.embed_dim} in the file"):
        infer_config(tensors, wrong)


def test_a_preset_at_another_picture_size_keeps_its_heads() -> None:
    config = PRESETS["tiny"]
    larger = dataclasses.replace(config, vision=dataclasses.replace(config.vision, image_size=96))
    shapes = torch_shapes(larger)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    assert infer_config(tensors, None) == larger


@pytest.mark.parametrize("tensors", [{}, {"visual.proj": np.zeros((4, 4), np.float32)}])
def test_another_model_is_refused(tensors) -> None:
    with pytest.raises(ConversionError, match="not a FLAIR checkpoint: visual.conv1.weight"):
        infer_config(tensors, None)


def test_transformers_names_are_recognised() -> None:
    with pytest.raises(ConversionError, match=r"these names are transformers', of which .* take the open_clip_\* file"):
        infer_config({"vision_model.embeddings.class_embedding": np.zeros(4, np.float32)}, None)
