"""Checkpoints on the hub, from a stand-in on this machine."""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants
from made_hub import TOKEN, MadeHub, made_hub, put, use_here

import flair_jax
from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.convert.folder import FILES, export_folder, push
from flair_jax.convert.transfer import convert
from flair_jax.errors import FlairError
from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS
from flair_jax.models.tokenizer_names import with_file
from flair_jax.weights import locate
from flair_jax.weights.hub import upload
from flair_jax.weights.param_map import torch_shapes


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[dict[str, str]]:
    with made_hub(tmp_path / "hub-home") as environment:
        use_here(monkeypatch, environment)
        yield environment


def test_to_the_hub_and_back(hub, small_checkpoint, photographs, tmp_path, monkeypatch, capsys) -> None:
    assert main(["export", str(small_checkpoint), "hf://me/mine"]) == 0
    repository = MadeHub.repositories["me/mine"]
    assert repository["private"]
    commit = repository["branches"]["main"]
    assert capsys.readouterr().out.strip().endswith(f"/me/mine/commit/{commit}")
    assert sorted(MadeHub.commits[commit]) == sorted({*FILES} - {"tokenizer.json"})
    assert 'flair_jax.load("hf://me/mine")' in MadeHub.commits[commit]["README.md"].decode()

    model, params = flair_jax.load(small_checkpoint)
    monkeypatch.setitem(sys.modules, "torch", None)  # which none of this needs
    for name in ("hf://me/mine", Path("hf://me/mine"), f"hf://me/mine@{commit}"):
        other, others = flair_jax.load(name)
        jax.tree.map(np.testing.assert_array_equal, params, others)
        assert model.config == other.config
    MadeHub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    output = tmp_path / "metrics.json"
    data = ["--dataset", "coco", "--data-dir", str(photographs), "--output", str(output)]
    assert main(["evaluate", "--checkpoint", "hf://me/mine", *data]) == 0
    assert not MadeHub.requests
    settings = json.loads(output.read_text())["settings"]
    assert settings["checkpoint"] == "hf://me/mine"
    assert settings["source"] == {"file": "small.safetensors"}
    assert (locate.locate("hf://me/mine") / "SHA256SUMS").is_file()


def test_the_cards_lines_run(hub, small_checkpoint, photographs, tmp_path, monkeypatch, capsys) -> None:
    """Its code, and in the table what stands beside the names of transformers, against the repository itself."""
    push(small_checkpoint, "hf://me/mine")
    text = MadeHub.commits[MadeHub.repositories["me/mine"]["branches"]["main"]]["README.md"].decode()
    card = huggingface_hub.ModelCard(text)
    assert (card.data.library_name, card.data.pipeline_tag) == ("flair_jax", "zero-shot-image-classification")
    shutil.copy(next(photographs.glob("**/*.jpg")), tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})
    assert re.match(r"\[\[-?\d", capsys.readouterr().out)
    names: dict[str, object] = {"flair_jax": flair_jax}
    for line in re.findall(r"^\| `.*`.* \| `(.*)` \|$", text, re.M):
        exec(line, names)
    assert names["logits"].shape == (1, 1)
    assert names["features"].shape == names["text"].shape == (1, 16)


def test_a_tokenizer_that_is_a_file_is_fetched_too(hub, small_model, tmp_path) -> None:
    pytest.importorskip("transformers")
    from made_transformers import WORDS, save_tokenizer

    save_tokenizer(tmp_path)
    model, params = small_model
    text = with_file(model.config.text, "siglip2", tmp_path / "tokenizer.json")
    tokens = flair_jax.tokenize_for(text, WORDS)
    checkpoint.save(tmp_path / "own", Flair(dataclasses.replace(model.config, text=text)), params, {})
    push(tmp_path / "own", "hf://me/mine")
    (tmp_path / "tokenizer.json").unlink()
    shutil.rmtree(tmp_path / "own")
    read, _ = flair_jax.load("hf://me/mine")
    np.testing.assert_array_equal(flair_jax.tokenize_for(read.config.text, WORDS), tokens)


def test_a_conversion_from_the_hub_names_its_base(hub, small_checkpoint, tmp_path) -> None:
    push(small_checkpoint, "hf://me/mine")
    convert("hf://me/mine", tmp_path / "converted")
    export_folder(tmp_path / "converted", tmp_path / "again")
    assert huggingface_hub.ModelCard.load(tmp_path / "again" / "README.md").data.base_model == "me/mine"


def test_a_branch_and_a_card_that_is_there(hub, small_checkpoint, tmp_path) -> None:
    put("me/mine", {"README.md": b"Written on the hub.\n"})
    export_folder(small_checkpoint, tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("Written here.\n")
    push(small_checkpoint, "hf://me/mine@wide")
    push(tmp_path / "a", "hf://me/mine")
    main_branch, branch = (MadeHub.repositories["me/mine"]["branches"][name] for name in ("main", "wide"))
    assert MadeHub.commits[branch]["README.md"] == b"Written on the hub.\n"
    assert MadeHub.commits[main_branch]["README.md"] == b"Written here.\n"
    for name in ("model.safetensors", "config.json"):
        assert MadeHub.commits[main_branch][name] == MadeHub.commits[branch][name]


def test_a_weight_file_on_the_hub_is_a_checkpoint(hub, photographs, capsys) -> None:
    rng = np.random.default_rng(0)
    shapes = torch_shapes(PRESETS["tiny"])
    tensors = {name: np.asarray(rng.normal(0, 0.1, shape), np.float32) for name, shape in shapes.items()}
    put("them/flair", {"flair-cc3m-recap.safetensors": safetensors.numpy.save(tensors)})
    data = ["--dataset", "coco", "--data-dir", str(photographs)]
    assert main(["evaluate", "--checkpoint", "hf://them/flair/flair-cc3m-recap.safetensors", *data]) == 0
    assert "37.7 / 51.6" in capsys.readouterr().out, "the numbers published for the file of this name"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://them/flair", "no checkpoint in this repository (it needs config.json and model.safetensors, as"),
        ("hf://them/flair@gone", "cannot be downloaded: the repository has no branch, tag or commit gone"),
        ("hf://them/flair/other.pt", "cannot be downloaded: the repository has no file other.pt; it has flair.pt"),
        ("hf://nobody/nothing", "cannot be downloaded: http"),
        ("hf://", "expected hf://OWNER/REPOSITORY/FILE"),
        ("hf://them", "expected hf://OWNER/REPOSITORY/FILE"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(hub, name: str, message: str) -> None:
    put("them/flair", {"flair.pt": b""})
    with pytest.raises(FlairError) as error:
        locate.locate(name)
    assert str(error.value).startswith(f"{name}: {message}")
    assert "\n" not in str(error.value)


def test_an_upload_without_a_token_is_refused_first(monkeypatch, capsys) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["export", "gone", "hf://me/mine"]) == 2
    assert (
        "hf://me/mine: uploading needs a token that may write; log in with `hf auth login`" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"HF_TOKEN": "wrong"}, "the hub answers 401: it does not accept your token"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no connection with http://127.0.0.1:9 ("),
        ({"HF_HUB_OFFLINE": "1"}, "_OFFLINE is set, and this needs the hub; unset it to reach the hub"),
    ],
)
def test_a_refused_upload_is_one_sentence(hub, tmp_path, monkeypatch, changes: dict[str, str], message: str) -> None:
    use_here(monkeypatch, hub | changes)
    with pytest.raises(FlairError) as error:
        upload(tmp_path, "hf://me/mine")
    assert str(error.value).startswith("hf://me/mine: cannot be uploaded: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert TOKEN not in str(error.value)
    assert not MadeHub.repositories


def test_names_of_commands_become_those_of_the_hub(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("flair_jax.weights.hub.download", lambda name: asked.append(name) or Path("file"))
    monkeypatch.setattr("flair_jax.weights.hub.download_checkpoint", lambda name: asked.append(name) or Path("folder"))
    locate._fetch.cache_clear()
    try:
        assert locate.locate(Path("hf://a/b@c/d.pt")) == Path("file")
        assert [locate.locate(name) for name in ("hf://a/b", Path("hf://a/b"))] == [Path("folder")] * 2
    finally:
        locate._fetch.cache_clear()
    assert asked == ["hf://a/b@c/d.pt", "hf://a/b"], "asked once for each"
