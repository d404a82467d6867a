"""launch/local.sh with real training: several processes on one machine give the losses of one, also when some die.

The runs are shared, for most of what they cost is their start.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from launchers import launch, started, write_settings
from numeric import assert_close
from runs import losses, xla_flags

from flair_jax.errors import plural

# Long enough for signals to arrive while it runs.
OVERRIDES = [
    "--config.optimizer.schedule=constant",
    "--config.checkpoint.every_steps=5",
    "--config.checkpoint.keep=10",
]


def settings(config: Path, folder: Path, processes: int, devices: int = 1, steps: int = 30) -> Path:
    folder.mkdir(exist_ok=True)
    return write_settings(
        folder,
        CONFIG=config,
        WORKDIR=folder / "a run",
        OVERRIDES=[*OVERRIDES, f"--config.steps={steps}", f"--config.mesh.fsdp={min(processes, 2)}"],
        VENV=sys.prefix,
        PROCESSES_PER_NODE=processes,
        XLA_FLAGS=xla_flags(devices),
    )


def run(config: Path, folder: Path, processes: int, devices: int = 1, steps: int = 30) -> dict[int, float]:
    """Losses of a run that nothing disturbs."""
    status, out, err = launch("local.sh", settings(config, folder, processes, devices, steps))
    assert status == 0, err
    assert out.splitlines()[-1] == str(folder / "a run" / "checkpoints" / str(steps))
    assert f"on {plural(processes * devices, 'cpu device')}" in out
    logs = {path.name for path in (folder / "a run" / "logs").iterdir()}
    assert logs == {f"process-{index}.log" for index in range(processes)}
    found = losses(folder / "a run")
    assert set(found) == set(range(1, steps + 1))
    return found


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> dict[int, float]:
    """One process with one device."""
    return run(config, tmp_path_factory.mktemp("alone"), processes=1)


@pytest.fixture(scope="module")
def pair(config, tmp_path_factory) -> dict[int, float]:
    """Two processes with two devices each."""
    return run(config, tmp_path_factory.mktemp("pair"), processes=2, devices=2)


def assert_close_at_first(ours: dict[int, float], alone: dict[int, float]) -> None:
    """Within 1e-5 relative in ten steps: sums run in another order, and training enlarges what differs."""
    for step in range(1, 11):
        assert_close(ours[step], alone[step], rtol=1e-5)


def test_two_processes_of_two_devices_give_the_same_losses(alone, pair) -> None:
    assert_close_at_first(pair, alone)


def test_four_processes_give_the_same_losses(config, alone, tmp_path) -> None:
    assert_close_at_first(run(config, tmp_path, processes=4, steps=10), alone)


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


def test_preempted_and_killed_processes(config, pair, tmp_path) -> None:
    """SIGTERM to one: both save and start again. SIGKILL to one: both end and go on from the last checkpoint.

    Bit for bit.
    """
    workdir = tmp_path / "a run"
    with started("local.sh", settings(config, tmp_path, processes=2, devices=2)) as launcher:
        wait_for_step(launcher, workdir, 2)  # earlier there is nothing to save
        os.kill(process_of(workdir, 1), signal.SIGTERM)
        wait_for_step(launcher, workdir, 12)
        os.kill(process_of(workdir, 1), signal.SIGKILL)
        out, err = launcher.communicate()
    assert launcher.returncode == 0, err
    assert "local.sh: ended with status 143; restart 1 of at most 10" in err
    assert re.search(r"local.sh: ended with status \d+; restart 2 of at most 10", err)
    assert len(re.findall("resuming after step", out)) == 2
    assert losses(workdir) == pair


def test_the_user_stops_it_and_goes_on(config, alone, tmp_path) -> None:
    workdir = tmp_path / "a run"
    file = settings(config, tmp_path, processes=1)
    with started("local.sh", file) as launcher:
        wait_for_step(launcher, workdir, 5)
        launcher.send_signal(signal.SIGTERM)
        _, err = launcher.communicate()
    assert launcher.returncode == 143, err
    assert "local.sh: stopped; the same command resumes" in err
    status, out, err = launch("local.sh", file)
    assert status == 0, err
    assert "resuming after step" in out
    assert losses(workdir) == alone
