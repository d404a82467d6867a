"""`flair-jax status`, on runs that have ended, are at work, were killed, are damaged, or of earlier versions."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from small_run import SmallRun, settings

from flair_jax.cli import main
from flair_jax.errors import CheckpointError
from flair_jax.train.goodput import Record, Start
from flair_jax.train.identity import describe_run
from flair_jax.train.logger import MetricLogger
from flair_jax.train.status import read_status


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of 12 steps that has ended, with two checkpoints; its speed is 16 images/s."""
    folder = tmp_path_factory.mktemp("status")
    run = SmallRun(folder / "run", settings(folder))
    run.save(9, 12)
    with MetricLogger(run.workdir, first_step=0, steps=12) as logger:
        for step in range(1, 13):
            speed = {"images_per_second": 16.0, "waiting_for_data": 0.25, "step_seconds/p50": 0.5}
            logger.write(step, {"loss": 1 / step, **speed, "step_seconds/p95": 0.6, "step_seconds/max": 0.7})
    start = Start(
        time.time() - 60,
        0,
        12,
        20,
        6,
        {"saving": 5.0},
        {"compile": 3.0, "first_step": 1.0, "total": 4.5},
        on="1 cpu device",
    )
    start.state = "finished"
    Record(describe_run(run.settings, run.samples), [start]).write(run.workdir)
    return run.workdir


@pytest.fixture
def finished(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_finished_run(finished, capsys) -> None:
    before = state_of(finished)
    assert main(["status", str(finished), "--verify"]) == 0
    assert state_of(finished) == before
    out = capsys.readouterr().out
    assert re.match(rf"{re.escape(str(finished))}: finished \d+ (s|min) ago\b", out), out
    rows = {line[2:14].strip(): line[15:] for line in out.splitlines()[1:] if line[2] != " "}
    assert "on scenes/small, 8 images a step, adamw at 0.0005, seed 0" in rows["run"]
    assert rows["step"] == "12 of 12 (100.0 %)"
    assert rows["speed"] == "16.0 images/s, 25.0 % waiting for data; a step 0.5 s (p95 0.6, at most 0.7)"
    assert rows["loss"].endswith("0.091 at 11, 0.083 at 12")
    assert rows["starts"] == "restarted 0 times; goodput 30.0 %"
    assert rows["time"] == "20 s: start 3.5 s, steps 6.0 s, saving 5.0 s"
    assert rows["first step"] == "after 4.5 s: compile 3.0, first_step 1.0"
    assert "damaged" not in rows
    assert main(["status", str(finished), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["step"], told["steps"], told["eta"], told["restarts"]) == ("finished", 12, 12, None, 0)
    files = [path for path in (finished / "checkpoints" / "12").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert told["saved"][-1] == {"step": 12, "bytes": size, "files": len(files)}
    assert told["goodput"] == 0.3
    assert told["metrics"]["step_seconds/max"] == 0.7


def test_jax_is_not_loaded(finished) -> None:
    """So that it answers at once, and takes no device."""
    code = "import sys; from flair_jax.cli import main; main(['status', sys.argv[1]]); assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, finished], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_damaged(finished, capsys) -> None:
    folder = finished / "checkpoints"
    largest = max((folder / "12" / "params").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    (folder / "9" / "progress" / "metadata").unlink()
    (finished / "damaged" / "6-0").mkdir(parents=True)
    with (finished / "metrics.jsonl").open("a") as metrics:
        metrics.write("\0\0\n")
    quick = read_status(finished).damaged
    assert [words.removeprefix(f"{finished}/") for words in quick] == [
        "metrics.jsonl: 1 line is damaged and left out; the first is line 13",
        "checkpoints/9: progress/metadata is missing",
        "damaged/6-0: set aside",
    ]
    verified = read_status(finished, verify=True).damaged
    assert f"{folder}/12: {largest.relative_to(folder / '12')} is not as it was written" in verified
    (folder / "9" / "SHA256SUMS").unlink()
    (finished / "health.json").write_text("{")
    damaged = read_status(finished).damaged
    assert f"{folder}/9: SHA256SUMS is missing" in damaged
    assert damaged[0].startswith(f"{finished}/health.json: is damaged")
    assert read_status(finished).run["batch_size"] == 8  # as the checkpoint tells
    assert main(["status", str(finished)]) == 0
    assert "whether it is running is not known" in capsys.readouterr().out


def test_a_run_that_is_at_work_and_one_that_was_killed(finished, capsys) -> None:
    run = read_status(finished).run | {"total_steps": 1012}
    now = time.time()
    earlier = Start(now - 900, 0, 12, 100, 80, state="killed")
    for last, ago, words in (
        (12, 10, "running, last sign of life 1"),
        (12, 7200, "no sign of life for 2 h 0 min, and no"),
    ):
        newest = Start(now - 60 - ago, 9, last, 60, 50, {"saving": 5.0}, {"total": 5.0, "compile": 4.0})
        Record(run, [earlier, newest]).write(finished)
        assert main(["status", str(finished)]) == 0
        out = capsys.readouterr().out
        assert f"{finished}: {words}" in out
        assert "12 of 1,012 (1.2 %), 8 min 20 s to go" in out  # 1000 steps of 8 images
        assert ("once it is resumed" in out) == (ago > 100)
        assert "restarted 1 time, 3 steps lost and repeated; goodput 68.8 %" in out  # (60 + 50) / 160
        assert "steps 0 to 12 in 1 min 40 s, then killed" in out
    Record(run, [Start(now - 20, 12, 12, 19, startup={"imports": 2.0}, at="compiling")]).write(finished)
    assert main(["status", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "running (compiling), last" in out
    assert "not yet: imports 2.0" in out


@pytest.mark.parametrize(("version", "name"), [("without_digests", "."), ("before_rooms", "plain")])
def test_runs_of_earlier_versions(tmp_path, capsys, version: str, name: str) -> None:
    with tarfile.open(Path(__file__).parent / f"{version}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    assert main(["status", str(tmp_path / name)]) == 0
    out = capsys.readouterr().out
    assert "whether it is running is not known" in out
    assert "step 3: " in out
    assert "damaged" not in out
    verified = read_status(tmp_path / name, verify=True).damaged
    assert ["cannot be verified" in words for words in verified] == [True] * (version == "without_digests")


def test_values_of_other_kinds_are_no_traceback(finished, capsys) -> None:
    """As a later version may write them, or a hand."""
    record = json.loads((finished / "health.json").read_text())
    record["run"] = {"batch_size": "8", "total_steps": None}
    record["starts"][0]["more"] = 1
    (finished / "health.json").write_text(json.dumps(record))
    with (finished / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 13, "loss": "7", "images_per_second": null}\n')
    (finished / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir()
    assert main(["status", str(finished)]) == 0
    out = capsys.readouterr().out
    assert ": finished " in out
    assert "being saved, or cut off: 15.orbax-checkpoint-tmp" in out


def test_folders_without_a_run(tmp_path, capsys) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(CheckpointError, match="there is no run; name the --workdir of one"):
            read_status(folder)
    assert main(["status", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"flair-jax: error: {tmp_path}: there is no run; name the --workdir of one\n"


def test_a_folder_that_may_not_be_written(finished) -> None:
    """As another user's run."""
    os.chmod(finished, 0o555)
    try:
        assert read_status(finished).step == 12
    finally:
        os.chmod(finished, 0o755)
