"""What weights were trained with and no tensor shows: in the config, in its JSON, and obeyed by all that reads it."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest
from numeric import assert_close

from flair_jax import Flair, FlairConfig, TextConfig, VisionConfig, normalize, tokenize
from flair_jax.data import tokenizer
from flair_jax.data.tokenizer import TOKENIZERS, find_tokenizer, tokenize_for
from flair_jax.errors import ConfigError
from flair_jax.models.description import config_from_json, config_to_json, config_to_release_json, refused_by_release
from flair_jax.models.presets import PRESETS
from flair_jax.scoring.embedding import cut_off
from flair_jax.scoring.scorer import Retriever
from flair_jax.search.fingerprint import fingerprint

MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)


@pytest.fixture(scope="module")
def unusual(small_config) -> FlairConfig:
    """With no convention at its default. The epsilons are so large that they show."""
    return dataclasses.replace(
        small_config,
        quick_gelu=True,
        pooling_layer_norm_eps=0.05,
        vision=dataclasses.replace(small_config.vision, layer_norm_eps=0.1, image_mean=MEAN, image_std=STD),
        text=dataclasses.replace(small_config.text, layer_norm_eps=0.2, causal=False, end_of_text_id=7),
    )


def test_descriptions_names_and_draws_are_those_of_before_there_was_a_choice() -> None:
    """Digests from the commit before: JSON texts of all presets, an index's name for a model, and random parameters."""
    later = ("ViT-B-16-FLAIR-248", "scenes")  # added or changed after it
    presets = [(name, each) for name, each in PRESETS.items() if name not in later]
    texts = json.dumps([[name, config_to_json(each), config_to_release_json(each)] for name, each in presets])
    assert hashlib.sha256(texts.encode()).hexdigest() == (
        "3d50dacb71d0d8d9a13a5c1784afce3fb2e01d109fc8168d4ee55184abbe4214"
    )
    model = Flair(PRESETS["tiny"])
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.abstract_params())
    assert fingerprint(model, zeros) == "633aa098eb72ecc954ad9e933e5ef0e31ccfa3dc6c43555e05cea846578f7575"


def test_only_what_is_not_the_default_is_written(unusual) -> None:
    description = config_to_json(unusual)
    assert config_from_json(json.loads(json.dumps(description))) == unusual
    usual = config_to_json(dataclasses.replace(unusual, text=TextConfig(), vision=VisionConfig(), quick_gelu=False))
    assert description["preprocess_cfg"] == {"mean": list(MEAN), "std": list(STD)}
    assert set(description["text_cfg"]) - set(usual["text_cfg"]) == {"layer_norm_eps", "causal", "end_of_text_id"}
    assert set(description["vision_cfg"]) - set(usual["vision_cfg"]) == {"layer_norm_eps"}
    assert "preprocess_cfg" not in config_to_release_json(unusual), "the release's constructor takes no such argument"
    assert set(refused_by_release(unusual)) == {"pooling_layer_norm_eps", "layer_norm_eps", "causal", "end_of_text_id"}
    assert not refused_by_release(PRESETS["ViT-B-16-FLAIR-quickgelu"])


def test_how_images_are_prepared_is_read_where_open_clip_writes_it(small_config) -> None:
    preparation = {"size": 32, "mode": "RGB", "mean": list(MEAN), "std": list(STD)}
    resized = {"interpolation": "bilinear", "resize_mode": "longest", "fill_color": 128}
    model = config_to_json(small_config)
    read = config_from_json({"model_cfg": model, "preprocess_cfg": {**preparation, **resized}})
    wanted = dataclasses.replace(small_config.vision, image_mean=MEAN, image_std=STD, **resized)
    assert read.vision == wanted
    assert config_to_json(read)["preprocess_cfg"] == {"mean": list(MEAN), "std": list(STD), **resized}
    assert config_from_json(json.loads(json.dumps(config_to_json(read)))) == read
    either = config_from_json(
        {"model_cfg": model, "preprocess_cfg": {"interpolation": "random", "mean": None, "mode": None}}
    )
    assert either == small_config, "what open_clip evaluates as bicubic"
    pixels = np.array([[[0, 128, 255]]], np.uint8)
    assert_close(Flair(read).normalize(pixels), (pixels / 255 - MEAN) / STD)
    np.testing.assert_array_equal(Flair(small_config).normalize(pixels), normalize(pixels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocess_cfg": {"mean": [0.5, 0.5]}}, "vision.image_mean=.0.5, 0.5. must be a tuple of three numbers"),
        ({"preprocess_cfg": {"std": [0.5, 0, 0.5]}}, "vision.image_std=.0.5, 0.0, 0.5. must be"),
        ({"preprocess_cfg": {"std": 0.5}}, "`preprocess_cfg.std` must be a list, found 0.5"),
        ({"preprocess_cfg": {"mean": ["a", 0, 0]}}, "`preprocess_cfg.mean` must be a number, found 'a'"),
        (
            {"preprocess_cfg": {"interpolation": "nearest"}},
            "vision.interpolation='nearest' is unknown; choose one of bi",
        ),
        ({"preprocess_cfg": {"interpolation": 3}}, "`preprocess_cfg.interpolation` must be a text, found 3"),
        ({"preprocess_cfg": {"resize_mode": "crop"}}, "vision.resize_mode='crop' is unknown; choose one of shortest,"),
        ({"preprocess_cfg": {"fill_color": 256}}, "vision.fill_color=256 must be a whole number from 0 to 255"),
        ({"preprocess_cfg": {"fill_color": [0, 0, 0]}}, "`preprocess_cfg.fill_color` must be a whole number, found"),
        ({"preprocess_cfg": {"mode": "L"}}, "`preprocess_cfg.mode` is 'L'; pictures are in RGB here"),
        ({"preprocess_cfg": "bicubic"}, "`preprocess_cfg` must be an object, found 'bicubic'"),
        ({"text_cfg": {"causal": 1}}, "`text_cfg.causal` must be true or false, found 1"),
        ({"text_cfg": {"tokenizer": 3}}, "`text_cfg.tokenizer` must be a text, found 3"),
        ({"text_cfg": {"end_of_text_id": 1.5}}, "`text_cfg.end_of_text_id` must be a whole number, found 1.5"),
        ({"text_cfg": {"end_of_text_id": 49408}}, "text.end_of_text_id=49408 must be a token's id, below text.vocab_s"),
        ({"vision_cfg": {"image_mean": [0, 0, 0]}}, "1 unknown field: vision_cfg.image_mean"),
        ({"vision_cfg": {"layer_norm_eps": -1}}, "vision.layer_norm_eps=-1.0 must be a number from 0"),
    ],
)
def test_wrong_conventions(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_json({"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}} | change)


def test_every_convention_is_obeyed_as_by_torch(unusual) -> None:
    """Against plain PyTorch, which reads the same config by code of its own; measured 1e-6, and over 0.01 without."""
    torch = pytest.importorskip("torch")
    from flair_jax.convert.torch_forward import TorchFlair
    from flair_jax.weights.param_map import torch_from_params

    model, rng = Flair(unusual), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), model.abstract_params())
    params = jax.tree.map(jax.numpy.asarray, params)
    tensors = {name: torch.from_numpy(each) for name, each in torch_from_params(params, unusual).items()}
    images = rng.standard_normal((2, 32, 32, 3), dtype=np.float32)
    tokens = rng.integers(8, 49000, (3, 77), dtype=np.int32)
    tokens[[0, 1, 2], [5, 0, 76]] = 7
    tokens[0, 40] = 7  # the first counts

    def outputs(config: FlairConfig) -> list[np.ndarray]:
        there = TorchFlair(tensors, config)
        with torch.no_grad():
            image, local = there.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
            text = there.encode_text(torch.from_numpy(tokens).long())
            return [each.numpy() for each in (image, text, there.pool(local, text))]

    image, local = model.encode_image(params, images)
    text = model.encode_text(params, tokens)
    ours = [image, text, model.pool(params, local, text)]
    for here, there in zip(ours, outputs(unusual), strict=True):
        assert_close(here, there)
    for part, name in (("vision", "layer_norm_eps"), ("text", "layer_norm_eps"), ("text", "causal")):
        default = getattr(type(getattr(unusual, part)), name)
        changed = dataclasses.replace(unusual, **{part: dataclasses.replace(getattr(unusual, part), **{name: default})})
        place = 0 if part == "vision" else 1
        assert np.abs(outputs(changed)[place] - ours[place]).max() > 0.01, f"{part}.{name} does not show"
    assert np.abs(outputs(dataclasses.replace(unusual, pooling_layer_norm_eps=1e-5))[2] - ours[2]).max() > 0.01


def test_where_a_text_ends_is_asked_of_the_model(small_config, unusual) -> None:
    tokens = np.array([[1, 9, 5, 0, 0], [1, 7, 9, 7, 9]], np.int32)
    assert Flair(small_config).text_lengths(tokens).tolist() == [2, 3]
    causal = dataclasses.replace(unusual, text=dataclasses.replace(unusual.text, causal=True))
    assert Flair(causal).text_lengths(tokens).tolist() == [1, 2]
    assert Flair(unusual).text_lengths(tokens).tolist() == [5, 5]


def test_padding_that_is_seen_is_not_cut_off(unusual) -> None:
    model = Flair(unusual)
    params, tokens = model.init(jax.random.key(0)), tokenize(["a dog", "two cats"])
    assert_close(Retriever(model, params).encode_texts(tokens), model.encode_text(params, tokens))
    shorter = np.asarray(model.encode_text(params, tokens[:, :16]))
    assert np.abs(shorter - np.asarray(model.encode_text(params, tokens))).max() > 1e-3, "or this shows nothing"


@pytest.fixture
def letters(monkeypatch) -> None:
    """A tokenizer of letters without a start."""

    def ids(texts, context_length):
        rows = np.full((len(texts), context_length), 3, np.int32)
        for row, text in zip(rows, texts, strict=True):
            codes = [ord(letter) for letter in text][: context_length - 1]
            row[: len(codes) + 1] = [*codes, 2]
        return rows

    def count(texts):
        return np.array([len(text) for text in texts])

    row = tokenizer.Tokenizer("letters", ids, count, start=None, end=2, padding=3)
    monkeypatch.setitem(TOKENIZERS, "letters", row)


def test_another_tokenizer_by_its_name(letters) -> None:
    text = TextConfig(tokenizer="letters", context_length=5)
    assert tokenize_for(text, ["ab", "abcdef"]).tolist() == [[97, 98, 2, 3, 3], [97, 98, 99, 100, 2]]
    cut = cut_off(["ab", "abcdef"], text)
    assert (cut.context_length, cut.texts, cut.tokens_share) == (5, 1, 2 / 8)
    np.testing.assert_array_equal(tokenize_for(TextConfig(), ["a dog"]), tokenize("a dog"))
    with pytest.raises(ConfigError, match="text.tokenizer='sentencepiece' is unknown; the tokenizers are clip"):
        find_tokenizer("sentencepiece")


def test_the_table_says_what_clips_tokenizer_does() -> None:
    clip = TOKENIZERS["clip"]
    (row,) = clip.tokenize(["a dog"], 8)
    assert [row[0], row[3], row[4]] == [clip.start, clip.end, clip.padding]
    assert clip.count_tokens(["a dog"]).tolist() == [2]
    assert clip.room(8) == 6
