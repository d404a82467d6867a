"""Plans of steps for topologies that are not there; those of TPUs through the TPU compiler."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from runs import write_config

from flair_jax.cli import main
from flair_jax.errors import ConfigError
from flair_jax.models.config import REMAT_POLICIES
from flair_jax.parallel.sharding import make_mesh
from flair_jax.plan.changes import changes_that_fit
from flair_jax.plan.planner import Planner
from flair_jax.plan.steps import plan_training
from flair_jax.plan.topology import find_topology
from flair_jax.settings import MeshSettings, TrainSettings
from flair_jax.train.flags import parse_config
from flair_jax.train.flops import CHIPS
from flair_jax.train.identity import describe_run
from flair_jax.train.losses import LossValues
from flair_jax.train.planned import planned_utilisation


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("plan"), Path("no-data-is-needed"))


@pytest.fixture
def planner(config_file):
    return lambda topology, *words, **options: Planner(
        parse_config([f"--config={config_file}", *words]), topology, **options
    )


@pytest.fixture(scope="module")
def tpu(config_file):
    """The step planned for 8 chips of a v5e."""
    return Planner(parse_config([f"--config={config_file}"]), "v5e:2x4").training({})


def test_training_on_a_tpu(tpu) -> None:
    assert tpu.fits
    assert tpu.chips == 8
    assert tpu.mesh == {"data": 8, "fsdp": 1, "tensor": 1}
    parts = tpu.memory.parameters + tpu.memory.optimizer + tpu.memory.batch
    assert parts < tpu.memory.total < 2**27
    # Adam has two moments of each parameter, and a count.
    assert tpu.memory.optimizer == pytest.approx(2 * tpu.memory.parameters, rel=1e-3)
    assert tpu.steps == 12
    assert tpu.seconds >= max(tpu.bounds.values()) > 0
    assert tpu.compiler_seconds > max(tpu.bounds.values())  # of so small a step, no bound is near
    assert tpu.bounds[tpu.binds] == max(tpu.bounds.values())
    # FLOPs of the program are those of the trace, but for what the compiler simplifies.
    assert sum(part.flops for part in tpu.parts) == pytest.approx(tpu.flops, rel=0.05)
    floor, roofline, compiler = (tpu.estimates[name] for name in ("floor", "roofline", "compiler"))
    assert floor.seconds < roofline.seconds < compiler.seconds == tpu.seconds
    assert roofline.seconds >= max(tpu.bounds["compute"], tpu.bounds["memory"])
    for estimate, executed in ((floor, tpu.useful_flops), (roofline, tpu.flops), (compiler, tpu.flops)):
        assert estimate.mfu == pytest.approx(tpu.useful_flops / 197e12 / estimate.seconds)
        assert estimate.hfu == pytest.approx(executed / 197e12 / estimate.seconds)
    quick = dataclasses.replace(tpu, compiler_seconds=0.0)
    assert quick.seconds == quick.bounds[quick.binds]
    # Parameters and moments are read and written at least, and the step moves no more than some 40 times its memory.
    state = tpu.memory.parameters + tpu.memory.optimizer
    assert 1.5 * state < tpu.bounds["memory"] * 819e9 < 40 * tpu.memory.total
    assert {"all-gather", "all-reduce"} <= set(tpu.wire)
    assert tpu.bounds["network"] == 0


def test_two_slices_exchange_over_the_network(planner) -> None:
    plan = planner("v5e:2x2", slices=2).training({})
    assert plan.chips == 8
    assert plan.bounds["network"] > 0
    assert any(kind.startswith("network:") for kind in plan.wire)


def test_parameters_are_split_over_fsdp(planner, tpu) -> None:
    plan = planner("cpu:8", mesh="data=2,fsdp=4").training({})
    assert plan.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
    # What is not split: biases, LayerNorms, position tables, and heads of widths that do not divide.
    assert plan.memory.parameters < 0.4 * tpu.memory.parameters
    assert plan.bounds == {}


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if chip.clock], ids=lambda chip: chip.name)
def test_the_compiler_reaches_most_of_the_peak_in_a_large_product(chip) -> None:
    """The clock by which its cycles are read is right within what it loses: 7 to 30 % by its own estimate."""
    from flair_jax.plan.hlo import read_program

    shape = "2x2" if chip.name in ("v5e", "v6e") else "2x2x1"
    device = find_topology(f"{chip.name}:{shape}").devices[0]
    assert chip.kinds[0] in device.device_kind.lower() or chip.name == "v5p"
    x = jax.ShapeDtypeStruct((8192, 8192), jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
    cycles = read_program(jax.jit(jnp.matmul).lower(x, x).compile().as_text()).cycles
    assert 0.65 < 2 * 8192**3 / (cycles / chip.clock) / chip.flops < 1


def test_what_of_a_loss_of_ones_own_is_not_counted_is_said(planner, monkeypatch) -> None:
    monkeypatch.setattr("flair_jax.plan.steps.compile_step", lambda step, *_: step)
    settings, topology = planner("cpu:2").settings({}), find_topology("cpu:2")
    assert plan_training(settings, topology).not_counted == ()

    def uniform(model, params, features, key, teacher) -> LossValues:
        return LossValues(features.text.mean(), {})

    (words,) = plan_training(settings, topology, loss=uniform).not_counted
    assert words.startswith("useful FLOPs of the loss")


def fake_plan(fits, seconds=lambda changes: 1.0):
    """A planner's method that notes what it is asked, and the notes."""
    tried = []

    def plan(changes):
        tried.append(changes)
        return type("Plan", (), {"fits": fits(changes), "seconds": seconds(changes)})()

    return plan, tried


@pytest.mark.parametrize("fitting", [*REMAT_POLICIES[1:], "none of these"])
def test_the_fastest_rematerialisation_that_fits_is_found(planner, fitting) -> None:
    order = [*REMAT_POLICIES, "none of these"]
    dear = order[order.index(fitting) :]
    for fastest in dear[:-1] or ["full"]:
        plan, tried = fake_plan(
            lambda changes: "mesh.fsdp" in changes or changes["remat"] in dear,
            lambda changes, fastest=fastest: 1.0 + (changes["remat"] != fastest),
        )
        found = changes_that_fit(plan, planner("cpu:2").settings({}), 2)
        last = {"remat": fastest} if dear[:-1] else {"remat": "full", "mesh.data": 1, "mesh.fsdp": 2}
        assert found[-1][0] == last
        fits = [plan.fits for _, plan in found]
        assert fits == sorted(fits)
        assert all(changes in tried for changes, _ in found)
        assert len(tried) <= len(REMAT_POLICIES)


def test_all_is_tried_before_nothing_fits(planner) -> None:
    plan, tried = fake_plan(lambda changes: False)
    settings = planner("cpu:2").settings({})
    every = changes_that_fit(plan, settings, 2)
    assert [changes for changes, _ in every] == tried
    assert every[-1][0]["accumulation_steps"] == 4  # of 8 images on 2 chips
    assert every[-1][0]["remat"] == "full"


def test_too_large_for_the_chip_is_said(planner) -> None:
    words = ["--config.model=ViT-L-14-FLAIR", "--config.batch_size=512", "--config.loss.group_size=512"]
    plan = planner("v5e:1x1", *words, "--config.remat=none").training({})
    assert not plan.fits
    assert "G" in plan.too_large
    assert plan.estimates == {}


def test_the_plan_of_what_fits_is_printed_too(config_file, planner, capfd, monkeypatch) -> None:
    """And what was tried before it, with a line on stderr for each compilation."""
    found = planner("cpu:2").training({})
    capfd.readouterr()

    def plan(settings, topology, **options):
        return found if settings.remat == "full" else dataclasses.replace(found, memory=None, too_large="9 GiB")

    monkeypatch.setattr("flair_jax.plan.planner.plan_training", plan)
    words = ["plan", f"--config={config_file}", "--topology", "cpu:2"]
    assert main([*words, "--json"]) == 1
    out, err = capfd.readouterr()
    plans = json.loads(out)
    assert plans[0]["changes"] == {}
    assert plans[-1]["changes"] == {"remat": "full"}
    assert [plan["fits"] for plan in plans] == [False] * (len(plans) - 1) + [True]
    lines = err.splitlines()
    assert lines[:2] == ["cpu:2: compiling a training step, as configured ...", lines[1]]
    assert re.fullmatch(r"cpu:2: compiled a training step, as configured in \d+ s: does not fit: 9 GiB", lines[1])
    assert any(re.search(r"--config.remat=full in \d+ s: fits, 0.0 GiB$", line) for line in lines)
    assert len(lines) >= 2 * len(plans)
    assert main(words) == 1
    first, _, second = capfd.readouterr().out.partition("with --config.remat=full\n")
    assert "does not fit: 9 GiB" in first
    assert "GiB" in second.partition("does not fit")[0]


def test_command(config_file, capfd) -> None:
    words = [f"--config={config_file}", "--topology", "cpu:2"]
    assert main(["plan", *words, "--evaluate", "--config.evaluation.batch_size=2"]) == 0
    out = capfd.readouterr().out
    assert "8 images a step" in out
    assert "50,028 pairs a step" in out
    assert main(["plan", *words, "--json"]) == 0
    (plan,) = json.loads(capfd.readouterr().out)
    assert plan["memory"]["total"] > plan["memory"]["parameters"] > 0
    assert plan["settings"]["packing.row_tokens"] == 0
    assert main(["plan", *words, "--sweep", "remat=none,full", "batch_size=8"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["remat", "batch_size"], ["none", "8"], ["full", "8"]]


def test_a_tpus_times_are_shown_as_what_they_are(config_file, capfd, tmp_path) -> None:
    """Packed captions; from the cache the second time, which is the same in all."""
    words = ["plan", f"--config={config_file}", "--topology", "v5e:2x2", "--cache", str(tmp_path / "cache")]
    words += ["--config.packing.row_tokens=32", "--config.packing.tokens_per_caption=8.0"]
    assert main([*words, "--parts"]) == 0
    out = capfd.readouterr().out
    for words_shown in ("the compiler's estimate", "roofline, by operation", "floor: useful FLOPs", "MFU", "HFU"):
        assert words_shown in out
    assert "packing.row_tokens=32, packing.tokens_per_caption=8.0" in out
    assert "text: MLP" in out
    (kept,) = (tmp_path / "cache").iterdir()
    written = kept.stat().st_mtime_ns
    assert main([*words, "--json"]) == 0
    (plan,) = json.loads(capfd.readouterr().out)
    assert f"{1000 * plan['compiler_seconds']:.2f}" in out
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(b"damaged")
    assert main(words) == 2
    assert f"{kept}: not a program that was kept here" in capfd.readouterr().err
    assert plan["kernels"] == []
    assert {part["where"] for part in plan["parts"]} >= {"vision", "text", "loss", "pooling", "optimiser and rest"}
    for key, total in (("seconds", "compiler_seconds"), ("roofline", "roofline_seconds")):
        assert sum(part[key] for part in plan["parts"]) == pytest.approx(plan[total], rel=1e-9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology", "v5e:3x5"], "the TPU compiler does not know it"),
        (["--topology", "v9:2x2"], "expected one of v6e, v5e, v5p, v4"),
        (["--topology", "cpu:900"], "JAX was started with"),
        (["--topology", "cpu:2", "--mesh", "rows=2"], "--mesh rows=2: expected sizes of data, fsdp, tensor"),
        (["--topology", "cpu:2", "--mesh", "data=--1"], "--mesh data=--1: expected sizes of data, fsdp, tensor"),
        (["--topology", "v5e:9998x9998"], "99,960,004 chips; there must be 1 to 65,536"),
        (["--topology", "cpu:2", "--mesh", "data=3"], "make 3 devices, and there are 2 cpu devices"),
        (["--topology", "cpu:2", "--sweep", "rematerialise=none"], "expected a field of the configuration"),
        (["--topology", "cpu:2", "--sweep", "batch_size=many"], "config.batch_size is a int"),
        (["--topology", "cpu:2", "--config.nothing=1"], "nothing"),
    ],
)
def test_wrong_words_are_explained(config_file, capfd, words, message) -> None:
    assert main(["plan", f"--config={config_file}", *words]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_configuration_is_needed(capfd) -> None:
    assert main(["plan", "--topology", "cpu:1"]) == 2
    assert "--config is needed" in capfd.readouterr().err
    with pytest.raises(ConfigError):
        parse_config([])


def test_weak_scaling(planner) -> None:
    """With as many images on each chip: the towers' work stays, the loss's grows with the captions, and what each chip
    sends grows no faster than they do.
    """
    plans = [
        planner(f"cpu:{chips}", f"--config.batch_size={4 * chips}", "--config.loss.group_size=4").training({})
        for chips in (2, 4, 8)
    ]
    towers = [plan.flops - plan.loss_flops for plan in plans]
    assert towers == pytest.approx([towers[0]] * 3, rel=1e-6)
    loss = [plan.loss_flops for plan in plans]
    assert loss[0] < loss[1] < loss[2] < 4 * loss[0]
    sent = [sum(plan.wire.values()) for plan in plans]
    captions = [plan.units for plan in plans]
    assert sent[1] / sent[0] < captions[1] / captions[0]
    assert sent[2] / sent[1] < captions[2] / captions[1]


def test_a_plan_is_kept_for_the_run_that_it_is_of(tpu, planner, config_file, tmp_path, monkeypatch) -> None:
    planner("v5e:2x4").keep(tpu, tmp_path / "run")
    monkeypatch.setattr("flair_jax.train.planned.find_chip", lambda kind: next(c for c in CHIPS if c.name == "v5e"))
    said: list[str] = []
    mesh = make_mesh(MeshSettings(-1, 1, 1))

    def of(*words: str) -> float | None:
        settings = TrainSettings.from_config(parse_config([f"--config={config_file}", *words]))
        run = describe_run(settings, 40, settings.model_config())
        return planned_utilisation(tmp_path / "run", run, mesh, SimpleNamespace(say=said.append))

    assert of() == tpu.estimates["compiler"].mfu
    assert of("--config.seed=3", "--config.steps=99", "--config.data.workers=1") == of()
    assert not said
    assert of("--config.remat=full") is None
    assert said[0].endswith("they differ in remat")
    with pytest.raises(ConfigError, match="a plan for CPUs has no utilisation to keep there"):
        planner("cpu:1").check_keeps(tmp_path)
