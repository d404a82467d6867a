"""Evaluations in the middle of training."""

import contextlib
import json
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from runs import run, run_distributed

from flair_jax.data.sets import scenes_builder
from flair_jax.data.sets.retrieval import find_retrieval_set
from flair_jax.data.tokenizer import count_tokens
from flair_jax.demo.run import write_pictures
from flair_jax.errors import DatasetError
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import data_mesh, replicate
from flair_jax.settings import EvaluationSettings
from flair_jax.train.evaluation import RunEvaluation
from flair_jax.train.loop import Run
from flair_jax.train.preemption import Preempted, Preemption


@pytest.fixture(scope="module")
def pictures(scenes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "pictures"
    write_pictures(folder, scenes_builder.read(scenes, "validation", "small"))
    return folder


@pytest.fixture(scope="module")
def flags(pictures) -> tuple[str, ...]:
    """Six steps, evaluated at every third."""
    evaluation = {"every_steps": 3, "dataset": "folder", "dir": pictures, "mode": "text-conditioned", "batch_size": 8}
    return ("--config.steps=6", *(f"--config.evaluation.{name}={value}" for name, value in evaluation.items()))


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def evaluations(workdir: Path) -> dict[int, dict[str, float]]:
    """By step."""
    found = {
        line["step"]: {name: value for name, value in line.items() if name.startswith("evaluation/")}
        for line in metrics(workdir)
    }
    return {step: values for step, values in found.items() if values}


@pytest.fixture(scope="module")
def alone(config, flags, tmp_path_factory) -> Path:
    """A run of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    status, out, err = run(config, workdir, *flags)
    assert status == 0, err
    result = metrics(workdir)[-1]["evaluation/image_to_text_R@1"]
    (said,) = [line for line in out.splitlines() if line.startswith("evaluated after step 6: ")]
    assert f"image_to_text_R@1 {result:.3f}, " in said
    assert "_ties" not in said
    assert re.search(r"6/6 steps .*loss=\d\.\d{3}", err), "the bar shows what was logged last"
    return workdir


def test_metrics_while_training(alone, pictures) -> None:
    measured = evaluations(alone)
    assert set(measured) == {3, 6}
    assert all(1 <= values["evaluation/image_to_text_mean_rank"] <= 16 for values in measured.values())
    assert all(values["evaluation/text_to_image_ties"] == 0 for values in measured.values())
    # The model reads 16 tokens, 14 of them the text's own.
    counts = count_tokens(find_retrieval_set("folder").load(pictures).texts)
    lost = np.maximum(counts - 14, 0)
    for values in measured.values():
        assert values["evaluation/texts_cut_off"] == np.mean(lost > 0) > 0
        assert values["evaluation/tokens_cut_off"] == lost.sum() / counts.sum()
    (start,) = (json.loads(line) for line in (alone / "starts.jsonl").read_text().splitlines())
    assert start["step"] == 0
    assert start["versions"]["pillow"]
    first = metrics(alone)[0]
    assert {"loss", "tcs", "mps", "logit_scale", "learning_rate", "grad_norm", "images_per_second"} <= set(first)
    assert 0 <= first["waiting_for_data"] <= 1
    assert any(alone.glob("events.out.tfevents.*"))


def test_two_processes_with_split_parameters_share_it(config, flags, alone, tmp_path) -> None:
    """Losses differ in the last digits, which changes no rank here."""
    results = run_distributed(config, tmp_path / "run", *flags, "--config.mesh.fsdp=2", processes=2, devices=1)
    assert [status for status, _, _ in results] == [0, 0], results[0][2]
    assert evaluations(tmp_path / "run") == evaluations(alone)
    assert "pairs/s" in results[0][2]
    assert "pairs/s" not in results[1][2]


def test_sharded_parameters_are_replicated_on_other_meshes() -> None:
    """Of one process: from a mesh that shards an array, and from NumPy."""
    spread = NamedSharding(jax.make_mesh((2, 4), ("data", "fsdp")), PartitionSpec("fsdp"))
    rows = np.arange(8.0)
    tree = {"sharded": jax.device_put(rows, spread), "numpy": rows}
    for leaf in jax.tree.leaves(replicate(tree, data_mesh(jax.devices()))):
        assert leaf.is_fully_replicated
        assert len(leaf.addressable_shards) == 8
        np.testing.assert_array_equal(leaf, rows)


@pytest.fixture
def copied(pictures, tmp_path) -> Path:
    return Path(shutil.copytree(pictures, tmp_path / "pictures"))


def evaluation_of(folder: Path, model: Flair, dataset: str = "folder") -> RunEvaluation:
    return RunEvaluation.from_settings("", EvaluationSettings(3, dataset, str(folder), "global", 1, 8), model)


def test_pictures_and_captions_are_looked_at_before_the_first_step(copied, small_model) -> None:
    (copied / "0003.png").unlink()
    (copied / "0005.png").write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        evaluation_of(copied, small_model[0])
    assert str(caught.value).splitlines() == [
        "config.evaluation: 2 of 16 pictures cannot be read; mend them, or train with "
        "--config.evaluation.every_steps=0:",
        f"  {copied}/0003.png: no such picture",
        f"  {copied}/0005.png: the file is empty",
    ]
    (copied / "captions.jsonl").write_text('{"image": "0001.png", "caption": " "}\n')
    with pytest.raises(DatasetError, match=r"captions.jsonl, line 1: a caption is empty; write it, or take it out"):
        evaluation_of(copied, small_model[0])
    (copied / "flickr30k_val.json").write_text('[{"image": "pictures/0001.png", "caption": " "}]')
    with pytest.raises(DatasetError, match=r"1 of 1 captions are empty; mend them, .* The first is of .*0001.png"):
        evaluation_of(copied, small_model[0], "flickr30k-val")


def test_an_evaluation_that_fails_is_said_and_logged(copied, small_model) -> None:
    """A picture vanishes while training goes on."""
    model, params = small_model
    evaluation = evaluation_of(copied, model)
    (copied / "0003.png").unlink()
    said, logged = [], []
    run = Run(
        settings=None,
        steps=9,
        mesh=None,
        train_step=None,
        meter=SimpleNamespace(outside=lambda what: contextlib.nullcontext()),
        checkpoints=None,
        evaluations=(evaluation,),
        logger=SimpleNamespace(say=said.append, write=lambda *values: logged.append(values)),
        preemption=Preemption(0),
        startup=None,
        profiler=None,
        background=None,
    )
    run._evaluate(SimpleNamespace(evaluated=params), 2)
    assert not logged
    run._evaluate(SimpleNamespace(evaluated=params), 3)
    assert logged == [(3, {"evaluation/failed": 1.0})]
    assert said[0].startswith(
        "the evaluation after step 3 has failed, and training continues: 1 of 16 pictures cannot be read; mend them, or"
    )
    assert f"{copied}/0003.png: no such picture" in said[0]
    assert "--skip-broken" not in said[0]


def test_sigterm_breaks_off_what_can_wait() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Preemption(0) as preemption:
        assert not preemption.reached(1)
        with pytest.raises(Preempted), preemption.may_break():
            signal.raise_signal(signal.SIGTERM)
        assert preemption.reached(2)
        with pytest.raises(Preempted), preemption.may_break():
            raise AssertionError("SIGTERM came before")
    assert signal.getsignal(signal.SIGTERM) is before
