"""Checkpoints as folders for the hub, and weight files as checkpoints."""

import dataclasses
import json
import shutil

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

import flair_jax
from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.convert.folder import FILES, export_folder
from flair_jax.convert.torch_forward import TorchFlair
from flair_jax.demo.recorded import MODEL
from flair_jax.errors import CheckpointError, ConfigError
from flair_jax.models.description import config_from_json, config_to_release_json
from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS
from flair_jax.models.tokenizer_names import with_file
from flair_jax.parallel.sharding import make_mesh, shardings
from flair_jax.settings import MeshSettings
from flair_jax.train import initial
from flair_jax.weights.locate import locate
from flair_jax.weights.param_map import ConversionError, torch_from_params, torch_shapes
from flair_jax.weights.write import write_tensors


@pytest.mark.golden
def test_every_bit_returns_and_torch_agrees(golden, golden_model, golden_checkpoint, tmp_path) -> None:
    target = tmp_path / "mine"
    original = safetensors.numpy.load_file(golden / "tiny.safetensors")
    assert main(["export", str(golden_checkpoint), str(target)]) == 0
    assert sorted(path.name for path in target.iterdir()) == sorted({*FILES} - {"tokenizer.json"})
    modes = {path.stat().st_mode & 0o777 for path in target.iterdir()}
    assert len(modes) == 1, "weights can be read by whom the rest can be"
    written = safetensors.numpy.load_file(target / "model.safetensors")
    assert written.keys() == original.keys()
    for name, tensor in original.items():
        assert written[name].tobytes() == tensor.tobytes(), name

    model, params = flair_jax.load(target)
    assert model.config == golden_model[0].config
    jax.tree.map(np.testing.assert_array_equal, params, golden_model[1])
    forward = np.load(golden / "forward.npz")
    images, tokens = np.ascontiguousarray(forward["images"].transpose(0, 2, 3, 1)), forward["tokens"]
    logits = [jax.jit(model.logits)(each, images, tokens) for each in (params, golden_model[1])]
    np.testing.assert_array_equal(*logits)  # the same program on the same numbers

    reference = TorchFlair({name: torch.from_numpy(each) for name, each in written.items()}, model.config)
    with torch.no_grad():
        theirs = reference.pool(
            reference.encode_image(torch.from_numpy(forward["images"]))[1],
            reference.encode_text(torch.from_numpy(tokens).long()),
        ).numpy()
    ours = model.pool(params, model.encode_image(params, images)[1], model.encode_text(params, tokens))
    # Two float32 implementations whose sums run in another order; measured 6e-7.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.golden
def test_what_the_folder_says(golden_checkpoint, golden_config, tmp_path) -> None:
    target = tmp_path / "tiny-flair"
    export_folder(golden_checkpoint, target)
    config = json.loads((target / "config.json").read_text())
    assert config["source"]["file"] == "tiny.safetensors"
    assert checkpoint.read_model_config(target) == golden_config
    open_clip = json.loads((target / "open_clip_config.json").read_text())
    pictures = open_clip["preprocess_cfg"]
    assert {**open_clip["model_cfg"], "source": config["source"]} == config
    assert pictures["size"] == golden_config.vision.image_size
    assert (pictures["interpolation"], pictures["resize_mode"], pictures["fill_color"]) == ("bicubic", "shortest", 0)
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    expected = (pixels / 255 - pictures["mean"]) / pictures["std"]
    np.testing.assert_allclose(flair_jax.normalize(pixels), expected, rtol=1e-5)  # float32 against float64
    card = huggingface_hub.ModelCard.load(target / "README.md")
    assert card.data.library_name == "flair_jax"
    assert "# tiny-flair" in card.text
    assert "origin: file `tiny.safetensors`" in card.text
    scripts = card.text.split("```python\n")[1].split("```")[0]
    compile(scripts, "README.md", "exec")


def released_constructor(
    embed_dim, vision_cfg, text_cfg, quick_gelu=False, init_logit_scale=None, init_logit_bias=None, **unknown
):
    """Takes what the PyTorch release's does, and of the towers what open_clip's do."""
    assert not unknown
    tower = {"layers", "width", "mlp_ratio"}
    assert set(vision_cfg) <= tower | {"head_width", "patch_size", "image_size", "output_tokens"}
    assert vision_cfg["output_tokens"], "or it gives no local tokens"
    assert set(text_cfg) <= tower | {"context_length", "vocab_size", "heads"}
    return init_logit_scale


def test_the_description_is_what_the_release_constructs_from(caplog, tmp_path) -> None:
    # But for the demonstration's: the release knows neither its scale of pixels nor where its logits start.
    for config in (each for name, each in PRESETS.items() if name != "scenes"):
        assert released_constructor(**config_to_release_json(config)) is None
        assert config_from_json(config_to_release_json(config)) == config
    other = dataclasses.replace(PRESETS["tiny"], pooling_heads=4, init_logit_scale=1.0)
    assert config_from_json(config_to_release_json(other)) == other
    model = flair_jax.Flair(other)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.abstract_params())
    checkpoint.save(tmp_path / "other", model, params, {})
    export_folder(tmp_path / "other", tmp_path / "exported")
    assert "exported: the PyTorch release pools with 8 heads only" in caplog.text
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["pooling_heads"] == 4
    assert flair_jax.load(tmp_path / "exported")[0].config == other


def test_other_pixels_than_the_releases_are_said(small_checkpoint, tmp_path, caplog) -> None:
    """The demonstration's have another mean and deviation; a model that takes the release's is exported silently."""
    for target in ("demo.safetensors", "demo/"):
        caplog.clear()
        assert main(["export", str(MODEL), str(tmp_path / target)]) == 0
        [said] = [each for each in caplog.messages if "prepares images" in each]
        assert said.startswith(
            f"{target.rstrip('/')}: the PyTorch release prepares images in another way, wrong for this"
        )
        assert "mean [0.4, 0.4, 0.4] (there [0.48145466, 0.4578275, 0.40821073]), std [4.0, 4.0, 4.0] (there [" in said
    caplog.clear()
    assert main(["export", str(small_checkpoint), str(tmp_path / "small.safetensors")]) == 0
    assert not caplog.messages


def test_a_card_that_somebody_wrote_is_kept(small_checkpoint, tmp_path) -> None:
    for _ in range(2):
        export_folder(small_checkpoint, tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("My model.\n")
    export_folder(small_checkpoint, tmp_path / "a")
    export_folder(tmp_path / "a", tmp_path / "b")
    for name in ("a", "b"):
        assert (tmp_path / name / "README.md").read_text() == "My model.\n"
    jax.tree.map(np.testing.assert_array_equal, flair_jax.load(tmp_path / "b")[1], flair_jax.load(small_checkpoint)[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_tokenizer_that_is_a_file_goes_along(small_model, tmp_path) -> None:
    pytest.importorskip("transformers")
    from made_transformers import WORDS, save_tokenizer

    (tmp_path / "theirs").mkdir()
    save_tokenizer(tmp_path / "theirs")
    model, params = small_model
    text = with_file(model.config.text, "siglip2", tmp_path / "theirs" / "tokenizer.json")
    own = Flair(dataclasses.replace(model.config, text=text))
    tokens = flair_jax.tokenize_for(text, WORDS)
    checkpoint.save(tmp_path / "own", own, params, {})
    export_folder(tmp_path / "own", tmp_path / "exported")
    for name in ("theirs", "own"):
        shutil.rmtree(tmp_path / name)
    shutil.move(tmp_path / "exported", tmp_path / "moved")
    assert str(tmp_path) not in (tmp_path / "moved" / "config.json").read_text()
    assert str(tmp_path) not in (tmp_path / "moved" / "open_clip_config.json").read_text()
    assert "flair_jax.tokenize_for(model.config.text, " in (tmp_path / "moved" / "README.md").read_text()
    read, _ = flair_jax.load(tmp_path / "moved")
    np.testing.assert_array_equal(flair_jax.tokenize_for(read.config.text, WORDS), tokens)
    export_folder(tmp_path / "moved", tmp_path / "again")
    (tmp_path / "moved" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        flair_jax.load(tmp_path / "moved")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "SHA256SUMS"])
def test_a_flipped_bit_is_found(small_checkpoint, tmp_path, file: str) -> None:
    export_folder(small_checkpoint, tmp_path / "a")
    content = bytearray((tmp_path / "a" / file).read_bytes())
    content[-9] ^= 1
    (tmp_path / "a" / file).write_bytes(content)
    with pytest.raises(CheckpointError, match="a: the checkpoint is damaged .*copy, convert or export it again"):
        flair_jax.load(tmp_path / "a")


def test_what_is_no_export_is_never_replaced(small_checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("years of work")
    assert main(["export", str(small_checkpoint), str(tmp_path / "papers")]) == 2
    assert "papers: exists and is not an exported model; choose another folder" in capsys.readouterr().err
    assert (tmp_path / "papers" / "thesis.tex").read_text() == "years of work"


def test_a_failed_export_leaves_nothing(small_checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("flair_jax.convert.folder.model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_folder(small_checkpoint, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind"), [("a", "folder"), ("v1.5/", "folder"), ("b.safetensors", "file"), ("c.pt", "file")]
)
def test_the_ending_decides(small_checkpoint, tmp_path, name: str, kind: str) -> None:
    assert main(["export", str(small_checkpoint), f"{tmp_path}/{name}"]) == 0
    assert (tmp_path / name).is_dir() == (kind == "folder")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["v1.5"],
            "v1.5: nothing is written with the ending .5; choose .pt, .safetensors, .stablehlo or .onnx, or put /",
        ),
        (["a.safetensors", "--dtype", "bfloat16"], "--dtype: only .stablehlo has a compute dtype"),
        (["a/", "--dtype", "float32"], "--dtype: only .stablehlo has a compute dtype"),
        (["hf://me"], "hf://me: expected hf://OWNER/REPOSITORY"),
        (["hf://me/mine/model.pt"], "hf://me/mine/model.pt: a whole repository is written; name it as hf://me/mine"),
    ],
)
def test_bad_targets_are_one_sentence(small_checkpoint, tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(small_checkpoint), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flair-jax: error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_damage_is_named_without_digests(small_checkpoint, tmp_path) -> None:
    export_folder(small_checkpoint, tmp_path / "a")
    (tmp_path / "a" / "SHA256SUMS").unlink()
    weights = tmp_path / "a" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"a: the parameters cannot be read \(.*cut short, [\d,]+ bytes are"):
        flair_jax.load(tmp_path / "a")
    tensors = safetensors.numpy.load(content)
    del tensors["ln_final.bias"]
    safetensors.numpy.save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"(?s)a: the parameters cannot be read.*missing: ln_final.bias"):
        flair_jax.load(tmp_path / "a")


def test_parameters_of_another_model_are_refused(small_model, small_checkpoint, tmp_path) -> None:
    export_folder(small_checkpoint, tmp_path / "a")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*leaf.shape, 2), leaf.dtype, sharding=sharding), small_model[1]
    )
    with pytest.raises(CheckpointError, match="a parameter has shape"):
        checkpoint.restore_params(tmp_path / "a", target)


def test_parameters_go_where_the_sharding_says(small_checkpoint, tmp_path) -> None:
    export_folder(small_checkpoint, tmp_path / "a")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = flair_jax.load(tmp_path / "a", sharding=everywhere)[1]
    assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, flair_jax.load(small_checkpoint)[1])


def test_training_starts_from_an_exported_folder(small_model, small_checkpoint, tmp_path) -> None:
    """Parameters split over a mesh, the same from the folder as from the checkpoint."""
    export_folder(small_checkpoint, tmp_path / "a")
    model, params = small_model
    mesh = make_mesh(MeshSettings(data=2, fsdp=4, tensor=1))
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        params,
        shardings(params, mesh),
    )
    found = initial.initial_params(tmp_path / "a", model, target)
    jax.tree.map(np.testing.assert_array_equal, found, initial.initial_params(small_checkpoint, model, target))
    jax.tree.map(lambda leaf, wanted: leaf.sharding == wanted.sharding or pytest.fail("elsewhere"), found, target)
    assert not found["text"]["token_embedding"].sharding.is_fully_replicated


@pytest.fixture(scope="module")
def preset_tensors() -> dict[str, np.ndarray]:
    """A state dict of a preset's sizes."""
    rng = np.random.default_rng(0)
    shapes = torch_shapes(PRESETS["tiny"])
    return {name: np.asarray(rng.normal(0, 0.1, shape), np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["flair-cc3m-recap.pt", "flair-cc3m-recap.safetensors"])
def test_a_weight_file_is_a_checkpoint(preset_tensors, tmp_path, name: str) -> None:
    write_tensors(tmp_path / name, preset_tensors)
    model, params = flair_jax.load(tmp_path / name, dtype="bfloat16")
    assert model.config.dtype == "bfloat16"
    assert checkpoint.read_model_config(tmp_path / name) == PRESETS["tiny"]
    back = torch_from_params(jax.device_get(params), model.config)
    assert all((back[key] == tensor).all() for key, tensor in preset_tensors.items())
    assert checkpoint.read_description(tmp_path / name)["source"] == {"file": name}


@pytest.mark.golden
def test_a_weight_file_that_needs_converting_says_so(golden, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="make a checkpoint of it first, with `flair-jax convert` .*--config"):
        flair_jax.load(golden / "tiny.safetensors")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(ConversionError, match=r"noise\.pt"):
        flair_jax.load(tmp_path / "noise.pt")


def test_a_path_may_begin_with_the_home_folder(small_checkpoint, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(small_checkpoint.parent))
    assert locate(f"~/{small_checkpoint.name}") == small_checkpoint


def test_a_wrong_description_is_named(small_checkpoint, tmp_path) -> None:
    export_folder(small_checkpoint, tmp_path / "a")
    (tmp_path / "a" / "SHA256SUMS").unlink()
    (tmp_path / "a" / "config.json").write_text('{"embed_dim": 16, "vision_cfg": {}, "text_cfg": {"depth": 3}}')
    with pytest.raises(ConfigError, match=r"config.json: 1 unknown field: text_cfg.depth"):
        flair_jax.load(tmp_path / "a")
