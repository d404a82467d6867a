"""launch/slurm.sh with SLURM's programs replaced: submission, and what becomes of the job when its step ends."""

import signal
import time

import pytest
from launchers import REPOSITORY, Programs, launch, started, write_settings

JOB = {"SLURM_JOB_ID": "123"}


@pytest.fixture
def settings(tmp_path):
    return write_settings(
        tmp_path,
        NAME="run-1",
        CONFIG="configs/demo.py",
        WORKDIR=tmp_path / "a run",
        VENV="-",
        NODES=2,
        GPUS_PER_NODE=4,
        PROCESSES_PER_NODE=4,
        CPUS_PER_PROCESS=8,
        MAX_RESTARTS=3,
    )


def test_submission(programs, settings, tmp_path) -> None:
    """The job's script is this launcher with the same settings, whatever their folder is called."""
    assert launch("slurm.sh", settings, programs=programs)[0] == 0
    [words] = programs.calls("sbatch")
    assert words[-2:] == ["--wrap", f"exec bash {REPOSITORY}/launch/slurm.sh {settings} train"]
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--requeue", "--signal=TERM@120"} <= set(words)
    assert f"--output={tmp_path / 'a run'}/logs/job.log" in words
    assert (tmp_path / "a run" / "logs").is_dir(), "SLURM does not make it"


def test_a_finished_run(programs, settings, tmp_path) -> None:
    assert launch("slurm.sh", settings, programs=programs, **JOB) == (0, "", "")
    [words] = programs.calls("srun")
    assert words[:2] == ["--ntasks=8", "--ntasks-per-node=4"]
    assert words[words.index("flair-jax") :] == [
        "flair-jax",
        "train",
        "--config=configs/demo.py",
        f"--workdir={tmp_path / 'a run'}",
        "--stopped-status=143",
        "--distributed",
    ]
    assert programs.calls("scontrol") == programs.calls("sbatch") == []


@pytest.mark.parametrize("status", [143, 1, 134])
def test_a_run_that_was_stopped_or_died_is_requeued(programs, settings, status: int) -> None:
    """By the time limit, a preemption, a crash; this script was not sent SIGTERM."""
    programs.add("srun", f"sys.exit({status})")
    result = launch("slurm.sh", settings, programs=programs, SLURM_RESTART_COUNT="2", **JOB)
    assert result == (0, "", f"slurm.sh: ended with status {status}; requeued\n")
    assert programs.calls("scontrol") == [["requeue", "123"]]


def test_bad_input_is_not_requeued(programs, settings) -> None:
    programs.add("srun", "sys.exit(2)")
    assert launch("slurm.sh", settings, programs=programs, **JOB) == (2, "", "")
    assert programs.calls("scontrol") == []


def test_not_requeued_for_ever(programs, settings) -> None:
    programs.add("srun", "sys.exit(1)")
    assert launch("slurm.sh", settings, programs=programs, SLURM_RESTART_COUNT="3", **JOB) == (
        1,
        "",
        "slurm.sh: ended with status 1; not requeued: restarts 3, at most 3 (MAX_RESTARTS)\n",
    )
    assert programs.calls("scontrol") == []


def test_a_job_that_may_not_be_requeued_ends(programs, settings) -> None:
    """SLURM_RESTART_COUNT is not set before the first restart."""
    programs.add("srun", "sys.exit(1)")
    settings.write_text(settings.read_text().replace("MAX_RESTARTS=3", "MAX_RESTARTS=0"))
    status, _, err = launch("slurm.sh", settings, programs=programs, **JOB)
    assert (status, err) == (1, "slurm.sh: ended with status 1; not requeued: restarts 0, at most 0 (MAX_RESTARTS)\n")
    assert programs.calls("scontrol") == []


def test_a_cancelled_job_is_not_requeued(programs: Programs, settings, tmp_path) -> None:
    """scancel sends SIGTERM to the script too, which passes it on and waits for the save."""
    ready = tmp_path / "ready"
    programs.add(
        "srun",
        f"ready = Path({str(ready)!r})\n"
        "def save(*_):\n    time.sleep(1)\n    ready.with_name('saved').touch()\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\nready.touch()\ntime.sleep(300)",
    )
    with started("slurm.sh", settings, programs=programs, **JOB) as process:
        while not ready.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.communicate() == ("", "")
    assert process.returncode == 143
    assert (tmp_path / "saved").exists()
    assert programs.calls("scontrol") == []
