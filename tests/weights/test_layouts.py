"""Models in the layout of transformers, converted: what is read, what is drawn, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

pytest.importorskip("transformers")

from made_hub import made_hub, put, use_here
from made_transformers import PREPARED, save_dinov3, save_siglip

import flair_jax
from flair_jax.cli import main
from flair_jax.convert.folder import load_tensors
from flair_jax.convert.transfer import convert, verify
from flair_jax.errors import CheckpointError
from flair_jax.models.presets import PRESETS, read_config
from flair_jax.train.optim import decay_mask
from flair_jax.weights.layouts import LAYOUTS
from flair_jax.weights.param_map import ConversionError, torch_shapes


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    save_siglip(folder / "siglip")
    save_dinov3(folder / "dinov3")
    return folder


@pytest.fixture
def siglip(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "siglip", tmp_path / "siglip"))


@pytest.fixture
def dinov3(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "dinov3", tmp_path / "dinov3"))


def change(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def change_part(folder: Path, part: str, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", **{part: config[part] | fields})


def test_every_field_that_decides_the_model_is_kept(siglip, tmp_path, capsys) -> None:
    assert main(["convert", str(siglip), str(tmp_path / "ours")]) == 0
    printed = capsys.readouterr().out
    assert "towers of SigLIP; the pooling is random and must be trained" in printed
    assert "evaluate --mode global" in printed
    config = flair_jax.checkpoint.read_model_config(tmp_path / "ours")
    assert config.embed_dim == 32
    vision, text = config.vision, config.text
    assert (vision.tower, vision.image_size, vision.patch_size, vision.heads) == ("siglip", 32, 8, 2)
    assert (vision.image_mean, vision.interpolation, vision.resize_mode) == ((0.5,) * 3, "bilinear", "squash")
    assert int(vision.width * vision.mlp_ratio) == int(text.width * text.mlp_ratio) == 48
    assert (vision.layer_norm_eps, text.layer_norm_eps) == (1e-6, 1e-6)
    assert (text.tower, text.causal, text.context_length, text.vocab_size) == ("siglip", False, 16, 300)
    assert config == read_config(tmp_path / "ours" / "config.json"), "the description that training is given"


def test_the_checkpoint_can_be_moved_with_its_tokenizer(siglip, tmp_path) -> None:
    convert(str(siglip), tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["text_cfg"]["tokenizer"] == (
        "siglip2:tokenizer.json"
    )
    (tmp_path / "ours").rename(tmp_path / "moved")
    model, _ = flair_jax.load(tmp_path / "moved")
    tokens = flair_jax.data.tokenize_for(model.config.text, ["A red RING"])
    assert tokens.shape == (1, 16)
    (tmp_path / "moved" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged .tokenizer.json"):
        flair_jax.load(tmp_path / "moved")


@pytest.mark.parametrize("kind", ["siglip", "dinov3"])
def test_every_parameter_is_made_once(request, tmp_path, kind: str) -> None:
    """From the file's tensors, or else as for training from nothing with seed 0; the file's are not drawn again."""
    import jax

    given = None if kind == "siglip" else PRESETS["tiny"]
    convert(str(request.getfixturevalue(kind)), tmp_path / "ours", given)
    model, params = flair_jax.load(tmp_path / "ours")
    drawn = jax.jit(model.init)(jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(drawn)
    random = ("pooling",) if kind == "siglip" else ("pooling", "text", "logit_scale", "logit_bias")
    for part in params:
        same = [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (params[part], drawn[part])), strict=True)]
        assert all(same) if part in random else not any(same), part
    undecayed = {"/".join(path[-2:]) for path in paths_without(decay_mask(params))}
    assert "vision/class_token" in undecayed or "head/probe_token" in undecayed
    assert not any("kernel" in name for name in undecayed)


def paths_without(mask: dict, prefix: tuple[str, ...] = ()):
    for name, value in mask.items():
        if isinstance(value, dict):
            yield from paths_without(value, (*prefix, name))
        elif not value:
            yield (*prefix, name)


@pytest.mark.parametrize(
    ("kind", "part", "fields", "reason"),
    [
        ("siglip", "vision_config", {"hidden_act": "relu"}, "vision_config.hidden_act is 'relu', and .* 'gelu_pytorch"),
        ("siglip", "text_config", {"hidden_act": "gelu"}, "text_config.hidden_act is 'gelu'"),
        ("siglip", "vision_config", {"vision_use_head": False}, "vision_use_head is False"),
        ("siglip", "vision_config", {"image_size": [32, 48]}, r"image_size is \[32, 48\], and a value like 224"),
        ("siglip", "vision_config", {"num_attention_heads": 5}, "hidden_size=32 is no multiple of num_attention_hea"),
        ("siglip", "vision_config", {"num_hidden_layers": 0}, "num_hidden_layers is 0; a positive number"),
        ("siglip", "vision_config", {"num_hidden_layers": 3}, "missing: vision_model.encoder.layers.2"),
        ("siglip", "vision_config", {"num_hidden_layers": 1}, "left over: vision_model.encoder.layers.1"),
        ("siglip", "text_config", {"projection_size": 16}, "projection_size is 16, and images have 32 channels"),
        ("siglip", "text_config", {"vocab_size": True}, "vocab_size is True"),
        ("siglip", "text_config", {"layer_norm_eps": "1e-6"}, "layer_norm_eps is '1e-6'"),
        ("dinov3", None, {"num_register_tokens": 0}, "num_register_tokens is 0, and .* with 4 alone"),
        ("dinov3", None, {"use_gated_mlp": True}, "use_gated_mlp is True"),
        ("dinov3", None, {"key_bias": True}, "key_bias is True"),
        ("dinov3", None, {"rope_theta": 10.0}, "rope_theta is 10.0, and .* with 100.0 alone"),
        ("dinov3", None, {"image_size": 30}, "vision.image_size=30 is not a positive multiple"),
    ],
)
def test_models_of_another_kind_are_refused(request, tmp_path, kind, part, fields, reason: str) -> None:
    folder = request.getfixturevalue(kind)
    if part:
        change_part(folder, part, **fields)
    else:
        change(folder / "config.json", **fields)
    with pytest.raises(ConversionError, match=reason):
        convert(str(folder), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_what_is_missing_or_has_no_meaning_is_said(siglip, dinov3, tmp_path) -> None:
    for options, reason in (
        ({"config": PRESETS["tiny"]}, "--config: the config.json beside the weights describes the whole model"),
        ({"activation": "gelu"}, "leave --activation and --context-length out"),
    ):
        with pytest.raises(ConversionError, match=reason):
            convert(str(siglip), tmp_path / "ours", **options)
    (siglip / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match="tokenizer.json is not beside the weights"):
        convert(str(siglip), tmp_path / "ours")
    (dinov3 / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConversionError, match="preprocessor_config.json: cannot be read as JSON"):
        convert(str(dinov3), tmp_path / "ours")
    (dinov3 / "config.json").unlink()
    with pytest.raises(ConversionError, match="these names are transformers', of which docs/convert.md lists"):
        convert(str(dinov3), tmp_path / "ours")
    with pytest.raises(ConversionError, match="--verify computes FLAIR's and CLIP's towers alone"):
        verify(str(siglip), tmp_path / "ours")


@pytest.mark.parametrize(
    ("fields", "remark"),
    [
        ({"size": {"height": 64, "width": 32}}, "size is 64 x 32, and pictures have 32 pixels"),
        ({"size": {"height": [1], "width": "x"}}, "size is [1] x 'x', and pictures have 32 pixels"),
        ({"resample": [2]}, "resample is [2], and pictures are resized bilinear here"),
        ({"resample": 0}, "resample is 0, and pictures are resized bilinear here"),
        ({}, None),
    ],
)
def test_how_pictures_were_prepared_is_followed_or_remarked(siglip, tmp_path, fields, remark) -> None:
    change(siglip / "preprocessor_config.json", **fields)
    done = convert(str(siglip), tmp_path / "ours")
    assert [remark is not None and remark in each for each in done.remarks] == [True] * (remark is not None)


def test_preparation_of_another_kind(dinov3, tmp_path) -> None:
    """A DINOv3 without the file has ImageNet's mean; one that says otherwise is believed, but not as to scaling."""
    usual = convert(str(dinov3), tmp_path / "ours", PRESETS["tiny"])
    assert usual.config.vision.image_mean == (0.485, 0.456, 0.406)
    assert any("no preprocessor_config.json" in remark for remark in usual.remarks)
    assert "passed over: embeddings.mask_token" in usual.remarks
    beside = dinov3 / "preprocessor_config.json"
    beside.write_text(json.dumps(PREPARED | {"size": {"shortest_edge": 32}, "resample": 3}))
    told = convert(str(dinov3), tmp_path / "ours", PRESETS["tiny"]).config.vision
    assert (told.image_std, told.interpolation, told.resize_mode) == ((0.5,) * 3, "bicubic", "shortest")
    for fields, reason in (
        ({"rescale_factor": 1.0}, "pixels are scaled"),
        ({"rescale_factor": "1/255"}, "pixels are scaled"),
        ({"do_normalize": False}, "pixels are scaled"),
        ({"image_mean": [1]}, "three numbers"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std"),
    ):
        beside.write_text(json.dumps(PREPARED | fields))
        with pytest.raises(ConversionError, match=reason):
            convert(str(dinov3), tmp_path / "ours", PRESETS["tiny"])


def test_from_the_hub_with_what_belongs_to_it(siglip, tmp_path, monkeypatch) -> None:
    with made_hub(tmp_path / "hub-home") as environment:
        use_here(monkeypatch, environment)
        put("google/siglip2", {file.name: file.read_bytes() for file in siglip.iterdir()} | {"README.md": b"card"})
        there = convert("hf://google/siglip2", tmp_path / "there")
    here = convert(str(siglip), tmp_path / "here")
    assert there.remarks == here.remarks
    for name in ("tokenizer.json", "SHA256SUMS"):
        assert (tmp_path / "here" / name).exists()
    assert (tmp_path / "there" / "tokenizer.json").read_bytes() == (siglip / "tokenizer.json").read_bytes()
    assert there.config.vision == here.config.vision


def test_damaged_weights_are_refused(siglip, tmp_path) -> None:
    file = siglip / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    name = "vision_model.head.probe"
    for changed, reason in (
        (np.full_like(tensors[name], np.nan), "NaN"),
        (tensors[name][..., :-1].copy(), "wrong shape: vision_model.head.probe"),
    ):
        safetensors.numpy.save_file({**tensors, name: changed}, file)
        with pytest.raises(ConversionError, match=reason):
            convert(str(siglip), tmp_path / "ours")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConversionError):
        convert(str(siglip), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_the_releases_form_has_no_place_for_them(siglip, dinov3, tmp_path) -> None:
    convert(str(dinov3), tmp_path / "ours", PRESETS["tiny"])
    with pytest.raises(CheckpointError, match="no place for other towers than CLIP's, and here vision is one"):
        load_tensors(tmp_path / "ours")


def test_texts_that_mean_nothing_are_not_scored(dinov3, tmp_path, capsys) -> None:
    assert main(["convert", str(dinov3), str(tmp_path / "ours"), "--config", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "the text tower is random too" in printed
    assert "--mode global" not in printed
    from flair_jax.weights.origin import check_texts

    source = flair_jax.checkpoint.read_description(tmp_path / "ours")["source"]
    with pytest.raises(CheckpointError, match="its text tower is random, so no text means anything"):
        check_texts("ours", source)


def test_published_sizes_are_described() -> None:
    """Of the published config.json, which leaves out what is the default; sizes that a ratio rounds down as well."""
    base = LAYOUTS["siglip"].describe({"model_type": "siglip", "text_config": {"vocab_size": 256000}})
    shapes = torch_shapes(base, LAYOUTS["siglip"].rows)
    assert shapes["text_model.embeddings.token_embedding.weight"] == (256000, 768)
    assert shapes["vision_model.embeddings.position_embedding.weight"] == (196, 768)
    wide = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
    large = LAYOUTS["siglip"].describe({"vision_config": wide, "text_config": {**wide, "vocab_size": 100}})
    shapes = torch_shapes(large, LAYOUTS["siglip"].rows)
    assert shapes["vision_model.encoder.layers.3.mlp.fc1.weight"] == (4304, 1152)
    dino = LAYOUTS["dinov3_vit"].describe(
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_register_tokens": 4}
    )
    sizes = sum(int(np.prod(shape)) for shape in torch_shapes(dino, LAYOUTS["dinov3_vit"].rows).values())
    assert sizes + 768 == 85_660_416, "DINOv3 ViT-B/16's parameters, the mask token among them"
