"""A model with a pooling of its own, from its configuration file through every command that takes its checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
from labelled import write_folders
from made_pictures import draw
from made_segmentation import make_voc
from numeric import assert_close
from runs import write_config

import flair_jax
from flair_jax.cli import main
from flair_jax.convert import stablehlo
from flair_jax.data.sets.retrieval import RETRIEVAL_SETS
from flair_jax.evaluate.retrieval import RetrievalSettings, evaluate
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever
from flair_jax.train import find_model, parse_config
from flair_jax.weights.locate import locate

# Appended to a configuration file. The factory looks at none of the compute settings.
OWN_POOLING = """
from __future__ import annotations

import dataclasses

import flax.linen as nn

from flair_jax import Flair, Pooling


class Gated(Pooling):
    width: int

    def setup(self):
        self.narrow, self.gate = nn.Dense(self.width), nn.Dense(16)

    def project_texts(self, text):
        return nn.sigmoid(self.gate(self.narrow(text)))

    def prepare_images(self, local):
        return local.mean(axis=1)

    def pool_queries(self, query, images):
        return query * images[:, None]


def my_model(settings):
    config = dataclasses.replace(settings.model_config(), dtype="float32")
    return Flair(config, pooling=Gated(settings.extra["width"]))


{written}

_plain = get_config


def get_config():
    c = _plain()
    c.steps = 2
    c.factories.model = my_model
    c.extra.width = 4
    return c
"""
SENTENCE = "a red kettle"


@pytest.fixture(scope="module")
def own_config(tmp_path_factory, scenes) -> Path:
    path = write_config(tmp_path_factory.mktemp("own-config"), scenes)
    path.write_text(OWN_POOLING.replace("{written}", path.read_text()))
    return path


@pytest.fixture(scope="module")
def run(own_config, tmp_path_factory) -> Path:
    """Two steps, with a field that is not the file's."""
    workdir = tmp_path_factory.mktemp("own-run") / "run"
    assert main(["train", f"--config={own_config}", "--config.extra.width=3", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def given(own_config) -> tuple[str, ...]:
    """What makes the model that was trained."""
    return "--config", str(own_config), "--config.extra.width=3"


@pytest.fixture
def command(run, given, capfd):
    """Runs a command with the checkpoint and its configuration: exit status, stdout, the error's line."""

    def call(name: str, *arguments: object, checkpoint: tuple = ("--checkpoint", run), config: tuple = given):
        capfd.readouterr()
        status = main([name, *map(str, (*arguments, *checkpoint, *config))])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return status, out, (err.splitlines() or [""])[-1]

    return call


@pytest.fixture(scope="module")
def loaded(run, own_config) -> tuple[flair_jax.Flair, dict]:
    """The model, by Python."""
    config = parse_config([f"--config={own_config}", "--config.extra.width=3"])
    model, _ = find_model(flair_jax.TrainSettings.from_config(config))
    return flair_jax.load(run, model=model)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        draw(folder / f"{number}.png", number)
    return folder


def test_evaluation(command, loaded, photographs, tmp_path) -> None:
    retrieval = ("--dataset", "coco", "--data-dir", photographs, "--output", tmp_path / "coco.json")
    status, out, err = command("evaluate", *retrieval)
    assert status == 0, err
    (result,) = json.loads((tmp_path / "coco.json").read_text())["results"]
    settings = RetrievalSettings("text-conditioned")
    data = RETRIEVAL_SETS["coco"].load(photographs)
    retriever = Retriever(*loaded)
    assert result["metrics"] == evaluate(loaded[0], retriever, data, settings, BlockStore(None)).metrics

    write_folders(tmp_path / "labelled")
    labelled = ("--task", "classify", "--dataset", "folder", "--data-dir", tmp_path / "labelled")
    status, out, err = command("evaluate", *labelled)
    assert status == 0, err
    assert "classification, text-conditioned" in out

    make_voc(tmp_path / "voc", [1])
    segmented = ("--task", "segment", "--dataset", "voc20", "--data-dir", tmp_path / "voc", "--short-side", 32)
    status, out, err = command("evaluate", *segmented, "--segment-by", "pooled-patches")
    assert status == 0, err
    assert "mean IoU" in out


def test_index_and_search(command, loaded, run, pictures, tmp_path) -> None:
    status, _, err = command("index", pictures, "--output", tmp_path / "index")
    assert status == 0, err
    status, out, err = command("search", tmp_path / "index", SENTENCE, checkpoint=())
    assert status == 0, err
    index = flair_jax.search.SearchIndex.open(tmp_path / "index")
    hits = flair_jax.Searcher(index, *loaded).search(SENTENCE)
    assert out.splitlines()[1:] == [f"{hit.score:16.4f}  {hit.global_score:8.4f}  {hit.path}" for hit in hits]
    status, _, err = command("search", tmp_path / "index", SENTENCE, checkpoint=(), config=())
    assert status == 2
    held = "holds a model with pooling configuration_file.Gated, and not with the modules of FLAIR"
    assert f"{locate(run)}: {held}" in err
    assert "--config=FILE" in err


def test_embed(command, loaded, pictures, tmp_path) -> None:
    status, _, err = command("embed", pictures, "--output", tmp_path / "pictures.npz")
    assert status == 0, err
    status, _, err = command("embed", pictures, "--output", tmp_path / "half.npz", "--dtype", "bfloat16")
    assert status == 0, err
    model, params = loaded
    pixels = np.stack([flair_jax.preprocess(pictures / f"{number}.png", 32) for number in range(4)])
    expected, _ = model.encode_image(params, model.normalize(pixels))
    found, half = (np.load(tmp_path / f"{name}.npz")["global"] for name in ("pictures", "half"))
    assert_close(found, expected)
    rounding = np.abs(half - found).max() / np.abs(found).max()
    assert 1e-4 < rounding < 3e-2, "8 bits of mantissa through two layers; 0 if --dtype were not followed"


def test_where_it_looks_is_not_known(command, pictures, tmp_path) -> None:
    status, _, err = command("attend", pictures / "0.png", SENTENCE, "--output", tmp_path / "maps")
    assert status == 2
    assert err.startswith("flair-jax: error: Gated, the model's pooling, has no attention weights")
    assert not (tmp_path / "maps").exists()


def test_the_page_gets_the_model(command, monkeypatch) -> None:
    """Gradio has an environment of its own."""
    served = []
    monkeypatch.setattr("flair_jax.show.app.serve", lambda *arguments: served.append(arguments[-1]))
    assert command("demo-app")[0] == 0
    assert [model.own_modules for model in served] == [{"pooling": "configuration_file.Gated"}]


def test_export(command, loaded, run, tmp_path) -> None:
    target = tmp_path / "own.stablehlo"
    status, out, err = command("export", run, target, "--dtype", "bfloat16", checkpoint=())
    assert status == 0, err
    assert "computing in bfloat16" in out
    model, params = loaded
    text = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    local = np.random.default_rng(1).normal(size=(2, 4, 16)).astype(np.float32)
    # `Gated` has no compute dtype of its own, so `pool` is the same; only the towers round.
    assert_close(stablehlo.load(target).pool(local, text), model.pool(params, local, text))

    for name in ("own.safetensors", "own"):
        status, _, err = command("export", run, tmp_path / name, checkpoint=())
        assert status == 2
        assert "which has no place for a model with modules of its own" in err
        status, _, err = command("export", run, tmp_path / name, checkpoint=(), config=())
        assert status == 2
        assert "holds a model with pooling configuration_file.Gated, for which the PyTorch release's form has no" in err
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (("--config.extra.width=3",), "--config.extra.width=3: is a field of a configuration; name that by --config"),
        (("--config", "tiny"), "--config=tiny: no such configuration file; shipped are"),
        (("--config", "cc3m_recap"), "--config=cc3m_recap: its factories.model is None, so that a checkpoint of it"),
        (("--config", "{own}"), "cannot be read; give the model that was saved, with its sizes"),  # of another width
        (("--config", "{own}", "--config.extra.length=3"), "--config.extra.length: no such field"),
        (("--config", "{own}", "--configuration=3"), "unrecognized arguments: --configuration=3"),
        (("--config", "{own}", "--config.extra.width='x'"), "--config.extra.width"),
    ],
)
def test_wrong_configurations(command, own_config, pictures, tmp_path, config: tuple[str, ...], message: str) -> None:
    words = tuple(word.format(own=own_config) for word in config)
    status, _, err = command("embed", pictures, "--output", tmp_path / "features.npz", config=words)
    assert status == 2
    assert message in err
