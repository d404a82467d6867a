"""Files in, checkpoint out, and back."""

import json
import signal
import subprocess
import sys
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

import flair_jax
from flair_jax.convert import transfer
from flair_jax.errors import CheckpointError
from flair_jax.models.presets import read_config
from flair_jax.weights.param_map import ConversionError, torch_from_params, torch_shapes
from flair_jax.weights.read import read_weights
from flair_jax.weights.write import write_tensors


@pytest.mark.golden
@pytest.mark.parametrize("name", ["tiny.pt", "tiny_module_prefix.pt", "tiny_bare.pt", "tiny.safetensors"])
def test_every_kind_of_file_gives_the_same_parameters(golden, golden_model, tmp_path, name: str) -> None:
    done = transfer.convert(str(golden / name), tmp_path / "checkpoint", read_config(golden / "tiny_config.json"))
    model, params = flair_jax.load(tmp_path / "checkpoint")
    assert model.config == done.config == golden_model[0].config
    assert done.remarks == ("activation: exact GELU, by FLAIR's own",)
    jax.tree.map(np.testing.assert_array_equal, params, golden_model[1])
    assert json.loads((tmp_path / "checkpoint" / "config.json").read_text())["source"]["file"] == name


@pytest.mark.golden
def test_verify_agrees_and_notices(golden, golden_checkpoint, tmp_path) -> None:
    source = str(golden / "tiny.pt")
    differences = transfer.verify(source, golden_checkpoint)
    assert len(differences) == 4
    assert max(differences.values()) < 2e-5
    model, params = flair_jax.load(golden_checkpoint)
    params["pooling"]["ln_k"]["scale"] = params["pooling"]["ln_k"]["scale"].at[0].add(0.05)
    flair_jax.checkpoint.save(tmp_path / "changed", model, params, {})
    with pytest.raises(ConversionError, match="differs from PyTorch's arithmetic by more than 1e-04: pooled features"):
        transfer.verify(source, tmp_path / "changed")


@pytest.mark.golden
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_export_returns_every_bit(golden, golden_checkpoint, tmp_path, ending: str) -> None:
    target = tmp_path / f"back{ending}"
    original = safetensors.numpy.load_file(golden / "tiny.safetensors")
    assert transfer.export(golden_checkpoint, target) == len(original)
    if ending == ".pt":
        loaded = torch.load(target, weights_only=True)
        assert all(isinstance(tensor, torch.Tensor) for tensor in loaded.values())
    back = read_weights(target).tensors
    assert back.keys() == original.keys()
    for name, tensor in original.items():
        assert back[name].tobytes() == tensor.tobytes(), name


@pytest.mark.golden
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_become_float32(golden, tmp_path, dtype) -> None:
    tensors = {
        name: torch.from_numpy(tensor).to(torch.float16 if dtype is np.float16 else torch.bfloat16)
        for name, tensor in safetensors.numpy.load_file(golden / "tiny.safetensors").items()
    }
    from safetensors.torch import save_file

    torch.save(tensors, tmp_path / "half.pt")
    save_file(tensors, tmp_path / "half.safetensors")
    for name in ("half.pt", "half.safetensors"):
        transfer.convert(str(tmp_path / name), tmp_path / "checkpoint", read_config(golden / "tiny_config.json"))
        _, params = flair_jax.load(tmp_path / "checkpoint")
        projection = params["text"]["projection"]["kernel"]
        assert projection.dtype == np.float32
        np.testing.assert_array_equal(projection, tensors["text_post.proj"].float().numpy())


@pytest.mark.golden
def test_towers_of_clip(golden, tmp_path) -> None:
    """The same towers under open_clip's names; what CLIP lacks is drawn, and all of it is the same each time."""
    flair = safetensors.numpy.load_file(golden / "tiny.safetensors")
    clip = {name: tensor for name, tensor in flair.items() if not name.startswith(("visual_proj.", "logit_bias"))}
    clip |= {"visual.proj": clip.pop("image_post.proj"), "text_projection": clip.pop("text_post.proj")}
    safetensors.numpy.save_file(clip, tmp_path / "clip.safetensors")
    config = read_config(golden / "tiny_config.json")
    transfer.convert(str(tmp_path / "clip.safetensors"), tmp_path / "checkpoint", config, activation="gelu")
    assert max(transfer.verify(str(tmp_path / "clip.safetensors"), tmp_path / "checkpoint").values()) < 1e-5
    assert "CLIP" in flair_jax.checkpoint.read_description(tmp_path / "checkpoint")["source"]["towers"]
    model, params = flair_jax.load(tmp_path / "checkpoint")
    back = torch_from_params(jax.device_get(params), model.config)
    for name, tensor in flair.items():
        assert (back[name] == tensor).all() == (not name.startswith(("visual_proj.", "logit_"))), name
    assert float(params["logit_scale"]) == np.float32(config.init_logit_scale)


@pytest.mark.golden
def test_a_clip_that_lacks_a_tensor_is_refused(golden, tmp_path) -> None:
    flair = safetensors.numpy.load_file(golden / "tiny.safetensors")
    clip = {name: tensor for name, tensor in flair.items() if not name.startswith(("visual_proj.", "ln_final.bias"))}
    clip |= {"visual.proj": clip.pop("image_post.proj"), "text_projection": clip.pop("text_post.proj")}
    safetensors.numpy.save_file(clip, tmp_path / "clip.safetensors")
    with pytest.raises(ConversionError, match=r"missing: ln_final.bias"):
        transfer.convert(
            str(tmp_path / "clip.safetensors"),
            tmp_path / "checkpoint",
            read_config(golden / "tiny_config.json"),
            activation="gelu",
        )


SHAPES = {
    "odd grid, one text head": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 40, "patch_size": 8, "width": 36, "layers": 1, "head_width": 12, "mlp_ratio": 2.0},
        "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 20, "heads": 1, "layers": 4},
    },
    "more pooling heads, wide text": {
        "embed_dim": 48,
        "pooling_heads": 12,
        "vision_cfg": {"image_size": 28, "patch_size": 14, "width": 32, "layers": 3, "head_width": 32},
        "text_cfg": {"context_length": 33, "vocab_size": 120, "width": 64, "heads": 8, "layers": 2, "mlp_ratio": 3.0},
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_agree_with_torch(name: str, tmp_path) -> None:
    """Models of no preset's sizes, random in every tensor, through file, checkpoint and both forward passes."""
    description = tmp_path / "model.json"
    description.write_text(json.dumps(SHAPES[name]))
    rng = np.random.default_rng(0)
    tensors = {
        name: np.asarray(rng.normal(0, 0.4, shape), np.float32)
        for name, shape in torch_shapes(read_config(description)).items()
    }
    write_tensors(tmp_path / "model.safetensors", tensors)
    transfer.convert(str(tmp_path / "model.safetensors"), tmp_path / "checkpoint", read_config(description))
    assert max(transfer.verify(str(tmp_path / "model.safetensors"), tmp_path / "checkpoint").values()) < 2e-5


@pytest.mark.golden
def test_a_failed_conversion_writes_nothing(golden, tmp_path) -> None:
    tensors = safetensors.numpy.load_file(golden / "tiny.safetensors")
    del tensors["logit_bias"]
    safetensors.numpy.save_file(tensors, tmp_path / "part.safetensors")
    with pytest.raises(ConversionError, match=r"part.safetensors: the tensors do not fit.*\n  missing: logit_bias"):
        transfer.convert(
            str(tmp_path / "part.safetensors"), tmp_path / "out" / "x", read_config(golden / "tiny_config.json")
        )
    assert not (tmp_path / "out").exists()


def test_what_is_not_a_checkpoint_is_never_replaced(tmp_path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("years of work")
    (tmp_path / "papers" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="papers: exists and is not a flair_jax checkpoint"):
        transfer.convert("any.safetensors", tmp_path / "papers")
    assert (tmp_path / "papers" / "thesis.tex").read_text() == "years of work"


@pytest.mark.golden
def test_a_killed_conversion_leaves_nothing_that_loads(golden, golden_model, tmp_path) -> None:
    """Killed at the worst moment, when all is written and only the rename is missing; then started again."""
    target = tmp_path / "checkpoint"
    script = (
        "import os, signal, sys\n"
        "from flair_jax import files\n"
        "from flair_jax.convert import transfer\n"
        "from flair_jax.models.presets import read_config\n"
        "files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "transfer.convert(sys.argv[1], sys.argv[2], read_config(sys.argv[3]))\n"
    )
    arguments = [str(golden / "tiny.safetensors"), str(target), str(golden / "tiny_config.json")]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not target.exists()
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        flair_jax.load(target)
    assert list(tmp_path.iterdir()), "the kill came too early to test anything"
    transfer.convert(arguments[0], target, read_config(arguments[2]))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"], "leftovers must be cleared"
    jax.tree.map(np.testing.assert_array_equal, flair_jax.load(target)[1], golden_model[1])


@pytest.mark.golden
def test_converting_again_replaces_the_checkpoint(golden, tmp_path) -> None:
    for _ in range(2):
        transfer.convert(
            str(golden / "tiny.safetensors"), tmp_path / "checkpoint", read_config(golden / "tiny_config.json")
        )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    flair_jax.load(tmp_path / "checkpoint")


def test_export_to_another_ending(small_checkpoint, tmp_path) -> None:
    with pytest.raises(ConversionError, match="ending must be one of .pt, .safetensors"):
        transfer.export(small_checkpoint, tmp_path / "model.bin")


def test_a_written_pt_file_is_an_ordinary_one(tmp_path) -> None:
    write_tensors(tmp_path / "a.pt", {"x": np.arange(4, dtype=np.float32), "s": np.array(3, np.float32)})
    assert zipfile.is_zipfile(tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["s"].shape == ()


def test_without_torch_the_error_says_what_to_do(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    with pytest.raises(
        ConversionError, match=r"(?s)reading a.pt needs PyTorch.*CPU.*safetensors file needs no PyTorch"
    ):
        read_weights(tmp_path / "a.pt")
