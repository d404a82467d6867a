"""Checkpoints on the hub, from a stand-in on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy
from flair_jax.convert.folder import FILES, export_folder
from flair_jax.convert.param_map import torch_shapes
from made_hub import TOKEN, MadeHub, made_hub

from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.models.config import PRESETS

CONSOLE = Path(sys.executable).with_name("flair-jax")


@pytest.fixture
def hub(tmp_path) -> Iterator[dict[str, str]]:
    with made_hub(tmp_path / "hub-home") as environment:
        yield environment


def run(hub: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's library reads its environment once."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=os.environ | hub, capture_output=True, text=True, check=False
    )


def test_to_the_hub_and_back(hub, small_checkpoint, photographs, tmp_path) -> None:
    pushed = run(hub, CONSOLE, "export", small_checkpoint, "hf://me/mine")
    assert pushed.returncode == 0, pushed.stderr
    repository = MadeHub.repositories["me/mine"]
    assert repository["private"]
    commit = repository["branches"]["main"]
    assert pushed.stdout.strip().endswith(f"/me/mine/commit/{commit}")
    assert sorted(MadeHub.commits[commit]) == sorted(FILES)
    assert 'flair_jax.load("hf://me/mine")' in MadeHub.commits[commit]["README.md"].decode()

    script = (
        "import sys, jax, flair_jax, numpy as np\n"
        "from pathlib import Path\n"
        "model, params = flair_jax.load(sys.argv[1])\n"
        "for name in ('hf://me/mine', Path('hf://me/mine'), 'hf://me/mine@' + sys.argv[2]):\n"
        "    other, others = flair_jax.load(name)\n"
        "    jax.tree.map(np.testing.assert_array_equal, params, others)\n"
        "    assert model.config == other.config\n"
        "print('torch' in sys.modules)\n"
    )
    loaded = run(hub, "-c", script, small_checkpoint, commit)
    assert loaded.stdout == "False\n", loaded.stderr
    MadeHub.requests.clear()
    output = tmp_path / "metrics.json"
    data = ("--dataset", "coco", "--data-dir", photographs, "--output", output)
    scored = run(hub | {"HF_HUB_OFFLINE": "1"}, CONSOLE, "evaluate", "--checkpoint", "hf://me/mine", *data)
    assert scored.returncode == 0, scored.stderr
    assert not MadeHub.requests
    settings = json.loads(output.read_text())["settings"]
    assert settings["checkpoint"] == "hf://me/mine"
    assert settings["source"] == {"file": "small.safetensors"}


def test_a_branch_and_a_card_that_is_there(hub, small_checkpoint, tmp_path) -> None:
    MadeHub.repositories["me/mine"] = {"private": False, "branches": {"main": "1" * 40}}
    MadeHub.commits["1" * 40] = {"README.md": b"Written on the hub.\n"}
    export_folder(small_checkpoint, tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("Written here.\n")
    script = (
        "import sys; from flair_jax.convert.folder import push\n"
        "push(sys.argv[1], 'hf://me/mine@wide')\n"
        "push(sys.argv[2], 'hf://me/mine')\n"
    )
    pushed = run(hub, "-c", script, small_checkpoint, tmp_path / "a")
    assert pushed.returncode == 0, pushed.stderr
    main_branch, branch = (MadeHub.repositories["me/mine"]["branches"][name] for name in ("main", "wide"))
    assert MadeHub.commits[branch]["README.md"] == b"Written on the hub.\n"
    assert MadeHub.commits[main_branch]["README.md"] == b"Written here.\n"
    for name in ("model.safetensors", "config.json"):
        assert MadeHub.commits[main_branch][name] == MadeHub.commits[branch][name]


def test_a_weight_file_on_the_hub_is_a_checkpoint(hub, photographs) -> None:
    rng = np.random.default_rng(0)
    shapes = torch_shapes(PRESETS["tiny"])
    tensors = {name: np.asarray(rng.normal(0, 0.1, shape), np.float32) for name, shape in shapes.items()}
    MadeHub.repositories["them/flair"] = {"private": False, "branches": {"main": "1" * 40}}
    MadeHub.commits["1" * 40] = {"flair-cc3m-recap.safetensors": safetensors.numpy.save(tensors)}
    data = ("--dataset", "coco", "--data-dir", photographs)
    scored = run(hub, CONSOLE, "evaluate", "--checkpoint", "hf://them/flair/flair-cc3m-recap.safetensors", *data)
    assert scored.returncode == 0, scored.stderr
    assert "37.7 / 51.6" in scored.stdout, "the numbers published for the file of this name"


def test_what_cannot_be_had_is_one_sentence(hub) -> None:
    MadeHub.repositories["them/flair"] = {"private": False, "branches": {"main": "1" * 40}}
    MadeHub.commits["1" * 40] = {"flair-cc3m-recap.pt": b""}
    expected = {
        "hf://them/flair": "no checkpoint in this repository (it needs config.json and model.safetensors, as",
        "hf://them/flair@gone": "cannot be downloaded (",
        "hf://them/flair/other.pt": "cannot be downloaded (",
        "hf://nobody/nothing": "cannot be downloaded (",
        "hf://": "expected hf://OWNER/REPOSITORY/FILE",
        "hf://them": "expected hf://OWNER/REPOSITORY/FILE",
    }
    script = (
        "import sys\n"
        "from flair_jax.checkpoint import locate\n"
        "from flair_jax.errors import FlairError\n"
        "for name in sys.argv[1:]:\n"
        "    try: locate(name)\n"
        "    except FlairError as error: print(error)\n"
    )
    outcome = run(hub, "-c", script, *expected)
    lines = outcome.stdout.splitlines()
    assert len(lines) == len(expected), outcome.stderr
    for line, (name, message) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"{name}: {message}")


def test_an_upload_without_a_token_is_refused_first(monkeypatch, capsys) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["export", "gone", "hf://me/mine"]) == 2
    assert (
        "hf://me/mine: uploading needs a token that may write; log in with `hf auth login`" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "changes", [{"HF_TOKEN": "wrong"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}]
)
def test_a_refused_upload_is_one_sentence(hub, tmp_path, changes: dict[str, str]) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from flair_jax.convert.hub import upload\n"
        "from flair_jax.errors import FlairError\n"
        "try: upload(Path(sys.argv[1]), 'hf://me/mine')\n"
        "except FlairError as error: print(error)\n"
    )
    outcome = run(hub | changes, "-c", script, tmp_path)
    assert outcome.stdout.startswith("hf://me/mine: cannot be uploaded ("), outcome.stderr
    assert outcome.stdout.count("\n") == 1
    assert TOKEN not in outcome.stdout + outcome.stderr
    assert not MadeHub.repositories


def test_names_of_commands_become_those_of_the_hub(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("flair_jax.convert.hub.download", lambda name: asked.append(name) or Path("file"))
    monkeypatch.setattr("flair_jax.convert.hub.download_checkpoint", lambda name: asked.append(name) or Path("folder"))
    checkpoint._fetch.cache_clear()
    try:
        assert checkpoint.locate(Path("hf://a/b@c/d.pt")) == Path("file")
        assert [checkpoint.locate(name) for name in ("hf://a/b", Path("hf://a/b"))] == [Path("folder")] * 2
    finally:
        checkpoint._fetch.cache_clear()
    assert asked == ["hf://a/b@c/d.pt", "hf://a/b"], "asked once for each"
