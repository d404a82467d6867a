import json

import pytest

from flair_jax.errors import ConfigError
from flair_jax.models.config import FlairConfig, VisionConfig
from flair_jax.models.description import config_from_json, config_to_json
from flair_jax.models.presets import PRESETS, read_config


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    assert config_from_json(json.loads(json.dumps(config_to_json(PRESETS[name])))) == PRESETS[name]


def test_the_release_file_is_understood() -> None:
    released = {
        "embed_dim": 512,
        "init_logit_bias": -10,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16, "output_tokens": True},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    }
    assert config_from_json(released) == PRESETS["ViT-B-16-FLAIR"]


def test_the_activation_is_written_as_by_open_clip_and_false_where_it_is_not() -> None:
    plain, quick = (config_to_json(PRESETS[name]) for name in ("ViT-B-16-FLAIR", "ViT-B-16-FLAIR-quickgelu"))
    assert quick == {**plain, "quick_gelu": True}, "older descriptions, and the names of indexes, stay as they are"
    assert not config_from_json(plain).quick_gelu
    assert config_from_json({"model_cfg": quick, "preprocess_cfg": {}}).quick_gelu
    assert config_from_json({**plain, "source": {"file": "a.pt"}}) == PRESETS["ViT-B-16-FLAIR"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quick_gelu": "yes"}, "`quick_gelu` must be true or false, found 'yes'"),
        ({"act_layer": "silu"}, "unknown field.*act_layer"),
        ({"vision_cfg": {"pool_type": "tok"}}, "vision_cfg.pool_type"),
        ({"vision_cfg": {"width": "768"}}, "vision_cfg.width` must be a whole number"),
        ({"vision_cfg": {"width": 100}}, "width=100 is not a positive multiple of vision.head_width=64"),
        ({"text_cfg": None}, "text_cfg` must be an object"),
        ({"embed_dim": True}, "embed_dim` must be a whole number"),
    ],
)
def test_wrong_descriptions(change: dict, message: str) -> None:
    description = {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}} | change
    with pytest.raises(ConfigError, match=message):
        config_from_json(description)


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="dtype='float16' is unknown"):
        FlairConfig(dtype="float16")
    with pytest.raises(ConfigError, match="remat='all' is unknown"):
        FlairConfig(remat="all")
    with pytest.raises(ConfigError, match="attention='flash' is unknown; choose one of auto, xla, cudnn, pallas"):
        FlairConfig(attention="flash")
    with pytest.raises(ConfigError, match=r"image_size=225 is not a positive multiple of vision.patch_size=16"):
        FlairConfig(vision=VisionConfig(image_size=225))


def test_read_config(tmp_path) -> None:
    assert read_config("tiny") is PRESETS["tiny"]
    with pytest.raises(ConfigError, match="neither a JSON file nor a preset; the presets are ViT-B-16-FLAIR"):
        read_config("ViT-B-99")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="broken.json: cannot be read as JSON"):
        read_config(tmp_path / "broken.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"embed_dim": 1e400, "vision_cfg": {}, "text_cfg": {}}', "embed_dim` must be a whole number, found inf"),
        ('{"embed_dim": 512.0, "vision_cfg": {}, "text_cfg": {}}', "embed_dim` must be a whole number"),
        ('{"embed_dim": -512, "vision_cfg": {}, "text_cfg": {}}', "embed_dim=-512 must be a whole number from 1 to"),
        (
            '{"embed_dim": 512, "vision_cfg": {}, "text_cfg": {"vocab_size": 1000000000000}}',
            "text.vocab_size=1000000000",
        ),
        (
            '{"embed_dim": 512, "vision_cfg": {"mlp_ratio": -1}, "text_cfg": {}}',
            "vision.mlp_ratio=-1.0 must be a number",
        ),
        ('{"embed_dim": 512, "vision_cfg": {"mlp_ratio": NaN}, "text_cfg": {}}', "NaN is not JSON"),
        ('{"embed_dim": 512, "vision_cfg": {"mlp_ratio": 1e999}, "text_cfg": {}}', "vision.mlp_ratio=inf must be"),
        ('{"embed_dim": 512, "vision_cfg": {"mlp_ratio": 1e-9}, "text_cfg": {}}', "leaves no hidden unit of width 768"),
        ('{"embed_dim": 512, "vision_cfg": {"head_width": 0}, "text_cfg": {}}', "vision.head_width=0 must be a whole"),
        (
            '{"embed_dim": 512, "vision_cfg": {"layers": true}, "text_cfg": {}}',
            "layers` must be a whole number, found T",
        ),
        ('{"embed_dim": 512, "vision_cfg": [1], "text_cfg": {}}', "vision_cfg` must be an object"),
        ('{"embed_dim": 512, "vision_cfg": {"width": {"a": 1}}, "text_cfg": {}}', "found {'a': 1}"),
        (
            '{"embed_dim": 512, "embed_dim": 256, "vision_cfg": {}, "text_cfg": {}}',
            "cannot be read as JSON .a name occurs",
        ),
        ('[["embed_dim", 512], ["vision_cfg", {}], ["text_cfg", {}]]', "expected an object"),
        (
            '{"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}, "\\u001b[2J\\ud800": 1}',
            r"unknown field: '\\x1b\[2J\\ud800'",
        ),
        (
            '{"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}, "init_logit_scale": 1' + "0" * 400 + "}",
            "init_logit_sca",
        ),
        ('{"embed_dim": 1' + "0" * 5000 + "}", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON .it is nested too deeply"),
        (" " * (1 << 20) + "{}", "cannot be read as JSON .it has more than 1,048,576 bytes"),
    ],
)
def test_tampered_files(tmp_path, text: str, message: str) -> None:
    """One sentence, with the file's name, and nothing of the size that they claim is made."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(tmp_path / "config.json")
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
