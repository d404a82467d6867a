"""What a run measures of itself beside its losses, and what of that survives its end."""

import contextlib
import json
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from flair_jax.errors import ConfigError
from flair_jax.settings import TrainSettings
from flair_jax.train.background import Background
from flair_jax.train.flags import parse_config
from flair_jax.train.flops import find_chip
from flair_jax.train.goodput import Record, Start, goodput, has_saved, kept_steps, read_record, repeated_steps
from flair_jax.train.health import Health
from flair_jax.train.planned import planned_utilisation, write_plan
from flair_jax.train.startup import Startup

RUN = {"total_steps": 100, "batch_size": 8}


def start(first: int, last: int, seconds: float, stepping: float) -> Start:
    return Start(0.0, first, last, seconds, stepping)


def test_lost_steps_are_no_goodput() -> None:
    """Numbers by hand."""
    once = [start(0, 50, 100, 80)]
    assert goodput(once) == 0.8
    # 10 of 50 steps are repeated: 64 of the first start's seconds counted, and all of the second's.
    twice = [*once, start(40, 60, 50, 30)]
    assert kept_steps(twice) == [40, 20]
    assert repeated_steps(twice) == 10
    assert goodput(twice) == pytest.approx((64 + 30) / 150)
    # The third finds a damaged checkpoint, and goes back behind the second's beginning.
    assert kept_steps([*twice, start(20, 100, 100, 90)]) == [20, 0, 80]
    # One that ends before its first step has cost time.
    assert goodput([*once, start(50, 50, 100, 0)]) == pytest.approx(80 / 200)
    assert goodput([]) == goodput([start(0, 0, 0, 0)]) == 0


def health(workdir: Path, first: int = 0, background: Background | None = None) -> Health:
    return Health(workdir, RUN, first, Startup(time.time() - 5), background or Background(60))


def test_a_record_tells_each_start_and_its_end(tmp_path) -> None:
    with contextlib.suppress(KeyError), Background(60) as background, health(tmp_path, 0, background) as one:
        assert read_record(tmp_path).starts[0].state == "running"
        one.begin_steps()
        one.step_done(1)
        raise KeyError
    with Background(60) as background, health(tmp_path, 1, background) as two:
        two.begin_steps()
        two.step_done(2)
        with two.outside("saving"):
            time.sleep(0.5)
        two.step_done(3)
    record = read_record(tmp_path)
    assert record.run == RUN
    assert [(each.first, each.last, each.state) for each in record.starts] == [(0, 1, "failed"), (1, 3, "stopped")]
    assert record.starts[0].seconds >= 5
    assert record.starts[1].elsewhere["saving"] >= 0.5 > record.starts[1].stepping > 0


def test_a_start_that_was_killed_is_called_so(tmp_path) -> None:
    Record(RUN, [start(0, 30, 100, 80)]).write(tmp_path)
    health(tmp_path, 20).__enter__()  # and killed as well
    assert [each.state for each in read_record(tmp_path).starts] == ["killed", "running"]
    values = health(tmp_path, 20)
    values.step_done(21)
    assert values.values()["restarts"] == 2


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"run": {}, "starts": [{"began": NaN}]}', b'{"run": {}, "starts": 3}']
)
def test_a_damaged_record_is_set_aside(tmp_path, content: bytes, caplog) -> None:
    (tmp_path / "health.json").write_bytes(content)
    with Background(60) as background, health(tmp_path, 4, background):
        pass
    assert (tmp_path / "damaged-health.json").read_bytes() == content
    assert "health.json: is damaged, so the time of earlier starts is not known" in caplog.messages[0]
    assert [each.first for each in read_record(tmp_path).starts] == [4]


def test_a_record_that_cannot_be_written_is_one_sentence(tmp_path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match=r"health\.json: is below .*run, which is a file; name a file"):
        health(tmp_path / "run").__enter__()


def test_steps_between_two_logs(tmp_path, monkeypatch) -> None:
    """Their percentiles, and once the way to the first."""
    clock = iter([0.0, 1.0, 2.0, 3.0, 7.0, 8.0])
    measured = health(tmp_path)
    startup = measured._startup
    with startup.phase("compile"):
        pass
    startup.finish()
    monkeypatch.setattr("flair_jax.train.health.time.monotonic", clock.__next__)
    measured.begin_steps()
    for step in range(1, 5):
        measured.step_done(step)
    monkeypatch.undo()
    values = measured.values()
    assert (values["step_seconds/p50"], values["step_seconds/max"]) == (1.0, 4.0)
    assert values["step_seconds/p95"] == pytest.approx(np.percentile([1, 1, 1, 4], 95))
    assert 0 < values["goodput"] <= 1.4  # of at least 5 seconds that have passed, by a clock that was moved
    phases = {name: seconds for name, seconds in values.items() if name.startswith("startup/")}
    assert phases["startup/imports"] >= 5
    total = phases.pop("startup/total")
    assert sum(phases.values()) == pytest.approx(total)
    measured.step_done(5)
    assert not any(name.startswith("startup/") for name in measured.values())


def test_memory_of_devices_that_tell(tmp_path) -> None:
    measured = health(tmp_path)
    measured.step_done(1)
    assert not any(name.startswith("memory/") for name in measured.values())
    measured._devices = [
        SimpleNamespace(memory_stats=lambda peak=peak: {"bytes_in_use": 2, "peak_bytes_in_use": peak})
        for peak in (3, 5)
    ]
    measured.step_done(2)
    values = measured.values()
    assert (values["memory/bytes_in_use"], values["memory/peak_bytes_in_use"]) == (2, 5)


def test_phases_after_the_first_step_cost_nothing() -> None:
    shown = []
    startup = Startup()
    startup.show = shown.append
    for name in ("data", "compile"):
        with startup.phase(name):
            pass
    startup.finish()
    with startup.phase("data"):
        pass
    assert shown == ["waiting for data", "compiling", ""]
    assert startup.phase("data") is startup.phase("compile")


def test_work_in_the_background_is_tried_again_and_done_at_the_end(caplog) -> None:
    done = []

    def work() -> None:
        done.append(1)
        if len(done) in (1, 2, 4):
            raise OSError("the bucket is away")

    with Background(0.001) as background:
        background.add("x cannot be written", work)
        while len(done) < 5:
            time.sleep(0.001)
    assert caplog.messages == ["x cannot be written, and is tried again: the bucket is away"] * 2
    before = len(done)
    with Background(60) as background:
        background.add("x", work)
    assert len(done) == before + 1


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]), ("data",))


def test_a_plan_counts_for_the_step_that_was_planned(tmp_path, mesh, monkeypatch) -> None:
    monkeypatch.setattr("flair_jax.train.planned.find_chip", lambda kind: find_chip("TPU v5 lite"))
    said = []
    logger = SimpleNamespace(say=said.append)
    run = {"batch_size": 8, "seed": 1, "model.vision.width": 24}
    assert planned_utilisation(tmp_path, run, mesh, logger) is None
    assert not said
    write_plan(tmp_path, run, "v5e", {"data": 1}, 0.4)
    assert planned_utilisation(tmp_path, run | {"seed": 2}, mesh, logger) == 0.4
    assert not said
    assert planned_utilisation(tmp_path, run | {"batch_size": 16}, mesh, logger) is None
    assert said.pop().endswith("they differ in batch_size")
    write_plan(tmp_path, run, "v5p", {"data": 4}, 0.4)
    assert planned_utilisation(tmp_path, run, mesh, logger) is None
    assert said.pop().endswith("they differ in chip, mesh")
    (tmp_path / "plan.json").write_text(json.dumps({"run": 3}))
    assert planned_utilisation(tmp_path, run, mesh, logger) is None
    assert "is damaged" in said.pop()


@pytest.mark.parametrize("window", ["(3,)", "(0, 4)", "(5, 4)", "(1, 2, 3)"])
def test_windows_that_are_none(config, window: str) -> None:
    with pytest.raises(ConfigError, match=r"config.profile_steps=\(.*\) must be \(first, last\) with 1 <= first"):
        TrainSettings.from_config(parse_config([f"--config={config}", f"--config.profile_steps={window}"]))


def test_what_tells_that_there_was_a_checkpoint() -> None:
    """Every 5 steps; starts as (steps before, steps in the end, how it ended)."""

    def tells(*starts: tuple[int, int, str]) -> bool:
        return has_saved([Start(0.0, first, last, state=state) for first, last, state in starts], 5)

    assert not tells()
    assert not tells((0, 0, "stopped"))
    assert not tells((0, 9, "killed")), "the only save may have been cut off"
    assert not tells((0, 9, "killed"), (0, 3, "failed"))
    assert not tells((700, 704, "killed"), (700, 703, "killed")), "from a release's checkpoint"
    assert tells((0, 10, "killed"))
    assert tells((0, 3, "stopped"))
    assert tells((0, 12, "finished"))
    assert tells((0, 6, "killed"), (5, 6, "killed"))
    assert tells((0, 3, "stopped"), (0, 1, "running"))
