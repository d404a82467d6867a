"""launch/local.sh with real training: several processes on one machine give the losses of one, also when some die."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from launchers import launch, started, write_settings
from numeric import assert_close
from runs import losses

OVERRIDES = ["--config.steps=6", "--config.optimizer.schedule=constant"]


def settings(config: Path, folder: Path, processes: int):
    folder.mkdir(exist_ok=True)
    return write_settings(
        folder,
        CONFIG=config,
        WORKDIR=folder / "a run",
        OVERRIDES=[*OVERRIDES, f"--config.mesh.fsdp={min(processes, 2)}"],
        VENV=sys.prefix,
        PROCESSES_PER_NODE=processes,
        XLA_FLAGS="--xla_backend_optimization_level=0",
    )


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> dict[int, float]:
    """Losses of one process that nothing disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    status, out, err = launch("local.sh", settings(config, folder, processes=1))
    assert status == 0, err
    assert out.splitlines()[-1] == str(folder / "a run" / "checkpoints" / "6")
    return losses(folder / "a run")


def assert_same(workdir: Path, alone: dict[int, float]) -> None:
    """Within 1e-5 relative: sums run in another order."""
    ours = losses(workdir)
    assert set(ours) == set(alone) == {1, 2, 3, 4, 5, 6}
    for step, loss in alone.items():
        assert_close(ours[step], loss, rtol=1e-5)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_give_the_same_losses(config, alone, tmp_path, processes: int) -> None:
    status, _, err = launch("local.sh", settings(config, tmp_path, processes))
    assert status == 0, err
    assert_same(tmp_path / "a run", alone)
    assert {path.name for path in (tmp_path / "a run" / "logs").iterdir()} == {
        f"process-{index}.log" for index in range(processes)
    }


def logged(workdir: Path) -> int:
    """The last step in the metrics, which are written as training goes on."""
    path = workdir / "metrics.jsonl"
    return (
        max((int(step) for step in re.findall(r'"step": (\d+)', path.read_text())), default=0) if path.exists() else 0
    )


def process_of(workdir: Path, index: int) -> int:
    """The id of one of the run's processes."""
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # not a process, or one that has gone
            continue
        if {f"--workdir={workdir}", f"--process={index}"} <= set(words) and "bash" not in words[0]:
            return int(folder.name)
    raise AssertionError(f"process {index} does not run")


def wait_for_step(launcher, workdir: Path, step: int) -> None:
    while logged(workdir) < step:
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.01)


def test_preempted_and_killed_processes(config, alone, tmp_path) -> None:
    """SIGTERM to one: both save and start again. SIGKILL to one: both end and go on from the last checkpoint."""
    workdir = tmp_path / "a run"
    with started("local.sh", settings(config, tmp_path, processes=2)) as launcher:
        wait_for_step(launcher, workdir, 1)
        os.kill(process_of(workdir, 1), signal.SIGTERM)
        wait_for_step(launcher, workdir, 4)
        os.kill(process_of(workdir, 1), signal.SIGKILL)
        out, err = launcher.communicate()
    assert launcher.returncode == 0, err
    assert "local.sh: ended with status 143; restart 1 of at most 10" in err
    assert re.search(r"local.sh: ended with status \d+; restart 2 of at most 10", err)
    assert len(re.findall("going on after step", out)) == 2
    assert_same(workdir, alone)


def test_the_user_stops_it_and_goes_on(config, alone, tmp_path) -> None:
    workdir = tmp_path / "a run"
    file = settings(config, tmp_path, processes=1)
    with started("local.sh", file) as launcher:
        wait_for_step(launcher, workdir, 2)
        launcher.send_signal(signal.SIGTERM)
        _, err = launcher.communicate()
    assert launcher.returncode == 143, err
    assert "local.sh: stopped; the same command goes on" in err
    status, out, err = launch("local.sh", file)
    assert status == 0, err
    assert "going on after step" in out
    assert losses(workdir) == alone
