"""From a folder of transformers to a trained model: the commands that a user gives, with nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import jax
from made_transformers import WORDS, save_dinov3, save_siglip
from runs import write_config

import flair_jax
from flair_jax.cli import main
from flair_jax.data.tokenizer import tokenize_for


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    reference = save_siglip(folder / "theirs")
    assert main(["convert", str(folder / "theirs"), str(folder / "ours")]) == 0
    return reference, folder / "ours"


def train(folder: Path, scenes: Path, start: Path, *options: str) -> int:
    config = write_config(folder, scenes)
    model = (f"--config.init={start}", f"--config.model={start}/config.json")
    return main(["train", f"--config={config}", "--config.steps=2", *model, *options, f"--workdir={folder / 'run'}"])


def test_features_of_texts_are_theirs(siglip, tmp_path) -> None:
    reference, ours = siglip
    (tmp_path / "texts.txt").write_text("\n".join(WORDS))
    arguments = ("--texts", tmp_path / "texts.txt", "--checkpoint", ours, "--output", tmp_path / "texts.npz")
    assert main(["embed", *map(str, arguments)]) == 0
    found = dict(np.load(tmp_path / "texts.npz"))["global"]
    model, _ = flair_jax.load(ours)
    tokens = torch.from_numpy(tokenize_for(model.config.text, WORDS)).long()
    with torch.no_grad():
        theirs = reference.text_model(tokens).pooler_output.numpy()
    np.testing.assert_allclose(found, theirs, atol=5e-6 * np.abs(theirs).max())  # float32's rounding


def test_a_start_is_scored_trained_and_scored_again(siglip, scenes, photographs, tmp_path, capsys) -> None:
    _, ours = siglip
    score = ["evaluate", "--dataset", "coco", "--data-dir", str(photographs), "--output", str(tmp_path / "coco.json")]
    assert main([*score, "--checkpoint", str(ours)]) != 0
    assert "has the towers of a SigLIP; the pooling is random" in capsys.readouterr().err
    assert main([*score, "--checkpoint", str(ours), "--mode", "global"]) == 0
    assert train(tmp_path, scenes, ours) == 0
    _, started = flair_jax.load(ours)
    model, trained = flair_jax.load(tmp_path / "run")
    assert model.config.text.tokenizer == f"siglip2:{ours}/tokenizer.json"
    moved = {part: max(map(_change, *map(jax.tree.leaves, (started[part], trained[part])))) for part in started}
    assert min(moved.values()) > 0, moved
    (tmp_path / "coco.json").unlink()
    assert main([*score, "--checkpoint", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "coco.json").read_text())["results"][0]
    assert result["cut_off"]["context_length"] == 16
    assert train(tmp_path, scenes, ours) == 0
    assert "finished: all 2 steps are done" in capsys.readouterr().out, "the same run, by the same description"


def test_a_locked_dinov3_is_kept_while_the_rest_learns(scenes, tmp_path) -> None:
    save_dinov3(tmp_path / "theirs")
    small = tmp_path / "small.json"
    small.write_text(
        json.dumps({"embed_dim": 16, "vision_cfg": {}, "text_cfg": {"width": 16, "layers": 2, "heads": 2}})
    )
    ours = tmp_path / "ours"
    assert main(["convert", str(tmp_path / "theirs"), str(ours), "--config", str(small)]) == 0
    assert train(tmp_path, scenes, ours, "--config.lock=('image',)") == 0
    _, started = flair_jax.load(ours)
    _, trained = flair_jax.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, trained["vision"], started["vision"])
    assert max(map(_change, *map(jax.tree.leaves, (started["text"], trained["text"])))) > 0


def _change(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())
