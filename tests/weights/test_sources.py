"""Which file is meant, and what describes it."""

import json
from pathlib import Path

import pytest
from made_hub import made_hub, put, use_here

from flair_jax.weights.param_map import ConversionError
from flair_jax.weights.sources import find_weights

OURS = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
OPEN_CLIP, OTHER = {"model_cfg": {**OURS, "embed_dim": 4}}, {"model_type": "clip", "embed_dim": 8}


def fill(folder: Path, files: list[str], config: dict = OURS) -> Path:
    folder.mkdir(exist_ok=True)
    for name in files:
        content = {"config.json": config, "open_clip_config.json": OPEN_CLIP}.get(name, {})
        (folder / name).write_text(json.dumps(content))
    return folder


DESCRIBED = ["config.json", "open_clip_config.json"]
BOTH = ["model.safetensors", "open_clip_pytorch_model.bin", *DESCRIBED]


@pytest.mark.parametrize(
    ("files", "config", "chosen", "described_in"),
    [
        (["model.safetensors", "README.md", *DESCRIBED], OURS, "model.safetensors", "config.json"),
        (["model.safetensors", *DESCRIBED], OTHER, "model.safetensors", "open_clip_config.json"),
        (BOTH, OTHER, "open_clip_pytorch_model.bin", "open_clip_config.json"),
        (["open_clip_model.safetensors", "open_clip_pytorch_model.bin"], OURS, "open_clip_model.safetensors", ""),
        (["model.safetensors.index.json", "model-1-of-1.safetensors"], OURS, "model.safetensors.index.json", ""),
        (["epoch_32.pt", "._epoch_32.pt", "config.json"], OURS, "epoch_32.pt", "config.json"),
        (["epoch_32.pt", "config.json"], OTHER, "epoch_32.pt", ""),
    ],
)  # fmt: skip
def test_a_folder(tmp_path, monkeypatch, files: list[str], config: dict, chosen: str, described_in: str) -> None:
    folder = fill(tmp_path / "models", files, config)
    source = find_weights(str(folder))
    assert source.file == folder / chosen
    assert source.name == f"models/{chosen}"
    assert source.described_in == described_in
    assert bool(source.description) == bool(described_in)
    with made_hub(tmp_path / "home") as environment:
        use_here(monkeypatch, environment)
        put("them/models", {path.name: path.read_bytes() for path in folder.iterdir() if "index" not in path.name})
        if "index" not in chosen:
            there = find_weights("hf://them/models")
            assert (there.file.name, there.described_in) == (chosen, described_in)


def test_a_file_is_described_by_what_is_written_beside_its_kind_only(tmp_path) -> None:
    folder = fill(tmp_path, ["open_clip_model.safetensors", "model.safetensors", "mine.pt", *DESCRIBED])
    assert find_weights(str(folder / "open_clip_model.safetensors")).description == OPEN_CLIP
    assert find_weights(str(folder / "model.safetensors")).description == OURS
    assert find_weights(str(folder / "mine.pt")).description == {}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.pt", "b.ckpt", "config.json"], r"holds several weight files \(a.pt, b.ckpt\); name the file"),
        (["README.md"], "holds no weight file; name the file"),
    ],
)
def test_an_unclear_folder_is_refused(tmp_path, files: list[str], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        find_weights(str(fill(tmp_path, files)))


def test_what_needs_no_conversion_says_so(tmp_path) -> None:
    (tmp_path / "params").mkdir()
    with pytest.raises(ConversionError, match="is a checkpoint of flair_jax itself, which needs no conversion"):
        find_weights(str(tmp_path))


@pytest.mark.parametrize("address", ["https://huggingface.co/a/b/resolve/main/c.pt", "ftp://a/b.pt", "file:///a/b.pt"])
def test_addresses_are_no_names(address: str) -> None:
    with pytest.raises(ConversionError, match="addresses are not fetched; a file on the hub is named hf://"):
        find_weights(address)


def test_a_broken_description_is_named(tmp_path) -> None:
    fill(tmp_path, ["open_clip_model.safetensors"])
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(ConversionError, match="open_clip_config.json: cannot be read as JSON"):
        find_weights(str(tmp_path))
