"""Which activation a converted model has, and that it stays with the weights."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from made_clip import clip_tensors, save_torchscript
from made_hub import made_hub, put, use_here

import flair_jax
from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.convert import transfer
from flair_jax.errors import ConfigError
from flair_jax.models.config import FlairConfig
from flair_jax.models.description import config_to_json
from flair_jax.models.flair import Flair
from flair_jax.models.presets import read_config
from flair_jax.train import initial
from flair_jax.weights.activation import settle, told_by
from flair_jax.weights.param_map import ConversionError, torch_shapes
from flair_jax.weights.read import read_weights
from flair_jax.weights.write import write_tensors


@pytest.fixture(scope="module")
def quick_config(small_config) -> FlairConfig:
    return dataclasses.replace(small_config, quick_gelu=True)


@pytest.fixture(scope="module")
def quick_checkpoint(small_model, quick_config, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("quick") / "checkpoint"
    checkpoint.save(path, Flair(quick_config), small_model[1], {"file": "quick.pt"})
    return path


def test_who_says_it() -> None:
    assert settle({}, clip=False) == (False, "FLAIR's own")
    assert settle({"the file": True, "its name": True}, clip=True) == (True, "the file")
    with pytest.raises(ConversionError, match="nothing says which activation .* pass --activation quick_gelu"):
        settle({}, clip=True)
    with pytest.raises(ConversionError, match="is QuickGELU by a, GELU by b; choose with --activation gelu or"):
        settle({"a": True, "b": False}, clip=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_b_16-quickgelu-laion400m.pt", True),
        ("me/ViT-B-16-QuickGELU/model.pt", True),
        ("quick_gelu.safetensors", True),
        ("vit_b_16-laion400m.pt", False),
        ("DFN2B-CLIP-ViT-L-14-39B.bin", False),  # which has the exact one, unlike others of DFN
    ],
)
def test_names_that_say_it(tmp_path, name: str, said: bool) -> None:
    torch.save({"visual.conv1.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    assert told_by(read_weights(tmp_path / "a.pt"), name) == ({f"the name {name}": True} if said else {})


def converted(source: Path, target: Path, config: FlairConfig | None, **options: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the checkpoint has QuickGELU, and what was remarked."""
    done = transfer.convert(str(source), target, config, **options)
    assert checkpoint.read_model_config(target) == done.config
    return done.config.quick_gelu, done.remarks


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_openais_archive_and_state_dict_are_quick(small_config, tmp_path) -> None:
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    tensors = {name: torch.from_numpy(tensor).half() for name, tensor in clip_tensors(small_config).items()}
    save_torchscript(tmp_path / "a.pt", {**tensors, **{name: torch.tensor(size) for name, size in sizes.items()}})
    quick, remarks = converted(tmp_path / "a.pt", tmp_path / "a", small_config)
    assert quick
    assert remarks[0] == "activation: QuickGELU, by a file of OpenAI's CLIP"
    assert f"read as float32: {len(tensors)} tensors of float16" in remarks
    # As for GELU; with the other activation it is 1000 times more.
    assert max(transfer.verify(str(tmp_path / "a.pt"), tmp_path / "a").values()) < 1e-5
    torch.save({**tensors, **sizes, "input_resolution": 64}, tmp_path / "b.pt")
    with pytest.raises(ConversionError, match="contradicts itself: input_resolution is 64, and the tensors show 32"):
        transfer.convert(str(tmp_path / "b.pt"), tmp_path / "b", small_config)


def write_open_clip(folder: Path, config: FlairConfig, **settings: object) -> None:
    folder.mkdir()
    model = {name: value for name, value in config_to_json(config).items() if name != "pooling_heads"} | settings
    preparation = {"mean": [0.5, 0.5, 0.5], "std": [0.26862954, 0.26130258, 0.27577711], "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preparation}))
    safetensors.numpy.save_file(clip_tensors(config), folder / "open_clip_model.safetensors")


@pytest.mark.parametrize("settings", [{"quick_gelu": True}, {}])
def test_open_clips_folder_says_it_and_the_heads(small_config, tmp_path, settings: dict) -> None:
    write_open_clip(tmp_path / "hub", small_config, **settings)
    (tmp_path / "hub" / "model.safetensors").write_bytes(b"the same under transformers' names")
    (tmp_path / "hub" / "config.json").write_text('{"model_type": "clip"}')
    quick, remarks = converted(tmp_path / "hub", tmp_path / "a", None)
    assert quick == bool(settings)
    assert remarks == (f"activation: {'QuickGELU' if quick else 'exact GELU'}, by open_clip_config.json",)
    vision = checkpoint.read_model_config(tmp_path / "a").vision
    assert vision.heads == small_config.vision.heads
    assert (vision.image_mean, vision.interpolation) == ((0.5, 0.5, 0.5), "bilinear")
    _, remarks = converted(tmp_path / "hub", tmp_path / "b", small_config)
    assert (
        "open_clip_config.json: images were prepared with interpolation bilinear, and are here with bicubic" in remarks
    )


def test_a_description_that_is_not_followed_is_said(small_config, tmp_path) -> None:
    write_open_clip(tmp_path / "hub", small_config, quick_gelu=1, custom_text=True)
    with pytest.raises(ConfigError, match=r"1 unknown field: custom_text"):
        transfer.convert(str(tmp_path / "hub"), tmp_path / "a")
    quick, remarks = converted(tmp_path / "hub", tmp_path / "a", small_config)
    assert quick, "what open_clip takes for true"
    assert any("--config holds against" in remark and "custom_text" in remark for remark in remarks)


@pytest.mark.parametrize(("said", "quick"), [("true", True), (1, True), (0, False), (None, None)])
def test_what_a_file_says_beside_its_tensors(tmp_path, said: object, quick: bool | None) -> None:
    torch.save({"state_dict": {"visual.conv1.weight": torch.ones(2, 2)}, "quick_gelu": said}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").quick_gelu is quick


def test_what_cannot_be_understood_beside_tensors_is_no_gelu(tmp_path) -> None:
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "a.safetensors", metadata={"quick_gelu": "yes"})
    with pytest.raises(ConversionError, match="says beside its tensors that quick_gelu is 'yes', not true or false"):
        read_weights(tmp_path / "a.safetensors")


def test_where_nothing_says_it_it_is_asked_for(small_config, tmp_path, capsys) -> None:
    safetensors.numpy.save_file(clip_tensors(small_config), tmp_path / "clip.safetensors")
    (tmp_path / "c.json").write_text(json.dumps(config_to_json(small_config)))
    common = ["convert", str(tmp_path / "clip.safetensors"), str(tmp_path / "a"), "--config", str(tmp_path / "c.json")]
    assert main(common) == 2
    assert "clip.safetensors: nothing says which activation these CLIP towers" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert main([*common, "--activation", "quick_gelu"]) == 0
    assert "activation: QuickGELU, by --activation\n" in capsys.readouterr().out
    description = json.loads((tmp_path / "a" / "config.json").read_text())
    assert description["quick_gelu"] is True
    assert read_config(tmp_path / "a" / "config.json").quick_gelu, "a checkpoint's description is one for `--config`"


def test_the_flag_has_the_last_word(small_config, tmp_path) -> None:
    write_open_clip(tmp_path / "quickgelu", small_config)
    with pytest.raises(ConversionError, match="QuickGELU by the name quickgelu/.*, GELU by open_clip_config"):
        transfer.convert(str(tmp_path / "quickgelu"), tmp_path / "a")
    quick, remarks = converted(tmp_path / "quickgelu", tmp_path / "a", None, activation="gelu")
    assert not quick
    assert remarks[0].startswith("activation: exact GELU, by --activation, against the name quickgelu/")


def test_a_repository_of_open_clip_on_the_hub(small_config, tmp_path, monkeypatch) -> None:
    write_open_clip(tmp_path / "files", small_config, quick_gelu=True)
    with made_hub(tmp_path / "home") as environment:
        use_here(monkeypatch, environment)
        put("them/clip", {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}, "refs/pr/1")
        for number, name in enumerate(
            ("hf://them/clip@refs/pr/1", "hf://them/clip@refs/pr/1/open_clip_model.safetensors")
        ):
            assert converted(name, tmp_path / str(number), None)[0]


@pytest.mark.parametrize("target", ["a.safetensors", "a.pt", "folder"])
def test_it_stays_with_what_is_exported(quick_checkpoint, quick_config, tmp_path, target: str) -> None:
    assert main(["export", str(quick_checkpoint), str(tmp_path / target)]) == 0
    done = transfer.convert(str(tmp_path / target), tmp_path / "back", quick_config if "." in target else None)
    assert done.config == quick_config
    if target == "folder":
        assert flair_jax.load(tmp_path / target)[0].config == quick_config
        assert "QuickGELU" in (tmp_path / target / "README.md").read_text()
    else:
        plain = dataclasses.replace(quick_config, quick_gelu=False)  # an old description
        assert transfer.convert(str(tmp_path / target), tmp_path / "back", plain).config == quick_config


def test_a_weight_file_as_a_checkpoint_keeps_it(tmp_path) -> None:
    config = dataclasses.replace(read_config("tiny"), quick_gelu=True)
    tensors = {name: np.ones(shape, np.float32) for name, shape in torch_shapes(config).items()}
    for name, quick in (("a.safetensors", True), ("a.pt", True), ("b.pt", False)):
        write_tensors(tmp_path / name, tensors, quick_gelu=quick)
        assert checkpoint.read_model_config(tmp_path / name).quick_gelu == quick


def test_a_model_with_nan_is_not_exported(small_model, tmp_path, capsys) -> None:
    model, params = small_model
    params = {**params, "logit_scale": np.float32(np.nan)}
    checkpoint.save(tmp_path / "nan", model, params, {})
    for target in ("a.safetensors", "folder", "a.stablehlo"):
        assert main(["export", str(tmp_path / "nan"), str(tmp_path / target)]) == 2
        assert "logit_scale (1 NaN); take weights from before the training diverged" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["nan"]


def test_towers_of_another_activation_start_no_training(quick_checkpoint, small_checkpoint, small_model) -> None:
    with pytest.raises(ConfigError, match="is not the model config.model names; they differ in quick_gelu"):
        initial.initial_params(quick_checkpoint, small_model[0], small_model[1])
    quick = Flair(dataclasses.replace(small_model[0].config, quick_gelu=True))
    with pytest.raises(ConfigError, match="they differ in quick_gelu"):
        initial.initial_params(small_checkpoint, quick, small_model[1])
