"""Retrieval evaluation in the middle of training."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from runs import run, run_distributed

from flair_jax.data import scenes_builder
from flair_jax.demo import write_pictures
from flair_jax.sharding import copy_to, data_mesh


@pytest.fixture(scope="module")
def flags(scenes, tmp_path_factory) -> tuple[str, ...]:
    """Six steps, evaluated at every third."""
    pictures = tmp_path_factory.mktemp("evaluation") / "pictures"
    write_pictures(pictures, scenes_builder.read(scenes, "validation", "small"))
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
    status, _, err = run(config, workdir, *flags)
    assert status == 0, err
    return workdir


def test_metrics_while_training(alone) -> None:
    measured = evaluations(alone)
    assert set(measured) == {3, 6}
    assert all(1 <= values["evaluation/image_to_text_mean_rank"] <= 16 for values in measured.values())
    assert all(values["evaluation/text_to_image_ties"] == 0 for values in measured.values())
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
    assert "pair/s" in results[0][2]
    assert "pair/s" not in results[1][2]


def test_split_parameters_become_copies_on_other_meshes() -> None:
    """Of one process: from a mesh that splits an array, from copies, from the host."""
    spread = NamedSharding(jax.make_mesh((2, 4), ("data", "fsdp")), PartitionSpec("fsdp"))
    rows = np.arange(8.0)
    tree = {"split": jax.device_put(rows, spread), "host": rows}
    for leaf in jax.tree.leaves(copy_to(data_mesh(jax.devices()), tree)):
        assert leaf.is_fully_replicated
        assert len(leaf.addressable_shards) == 8
        np.testing.assert_array_equal(leaf, rows)
