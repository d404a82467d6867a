"""Runs that are killed, stopped or damaged go on as if nothing had happened."""

import json
import resource
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from killed import run_killed
from numeric import assert_close
from process_ends import wait_for_end
from runs import finish, losses, run, start, xla_flags

import flair_jax
from flair_jax.cli import main
from flair_jax.errors import CheckpointError
from flair_jax.settings import TrainSettings
from flair_jax.train.checkpoints import RunCheckpoints
from flair_jax.train.flags import parse_config
from flair_jax.train.logger import MetricLogger, read_metrics
from flair_jax.train.run import train
from flair_jax.train.status import read_status


def wait_until(condition, process) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


# A run with this saves after each step, and so leaves a second for a signal to arrive in.
SLOWLY = "--config.checkpoint.every_steps=1"
ONE_DEVICE = f"os.environ['XLA_FLAGS'] = {xla_flags(1)!r}"


def train_on_one(config: Path, workdir: Path) -> tuple[str, ...]:
    """Words for `run_killed` with the setup `ONE_DEVICE`."""
    return ("train", f"--config={config}", f"--workdir={workdir}")


def logged(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize("step", [2, 10])
def test_sigkill_and_again_gives_the_same_losses(config, undisturbed, tmp_path, step: int) -> None:
    """Bit for bit; before the first checkpoint, and after the third."""
    run_killed(MetricLogger, "write", step + 1, *train_on_one(config, tmp_path / "run"), setup=ONE_DEVICE)
    assert logged(tmp_path / "run") == step
    status, _, err = run(config, tmp_path / "run")
    assert status == 0, err
    assert losses(tmp_path / "run") == undisturbed[1]
    told = read_status(tmp_path / "run")
    assert (told.state, told.restarts, told.damaged) == ("finished", 1, [])
    assert [each.state for each in told.starts] == ["killed", "finished"]


def test_a_run_tells_how_it_is_doing(undisturbed) -> None:
    told = read_status(undisturbed[0], verify=True)
    assert (told.state, told.step, told.steps, told.eta, told.restarts) == ("finished", 12, 12, None, 0)
    assert [each.step for each in told.saved] == [9, 12]
    assert told.damaged == told.unfinished == []
    (start,) = told.starts
    assert (start.first, start.last) == (0, 12)
    before = start.startup["total"] - start.startup["first_step"]
    assert before + start.stepping + sum(start.elsewhere.values()) <= start.seconds
    assert told.goodput == pytest.approx(start.stepping / start.seconds)
    phases = {name: value for name, value in told.metrics.items() if name.startswith("startup/")}
    assert min(phases[f"startup/{name}"] for name in ("imports", "data", "restore", "compile", "first_step")) > 0
    total = phases.pop("startup/total")
    assert sum(phases.values()) == pytest.approx(total)
    lines = [json.loads(line) for line in (undisturbed[0] / "metrics.jsonl").read_text().splitlines()]
    assert ["startup/total" in line for line in lines] == [True] + [False] * 11
    assert all(line["step_seconds/p50"] == line["step_seconds/max"] for line in lines)  # one step a line
    assert sum(line["step_seconds/max"] for line in lines) == pytest.approx(start.stepping)


def workers_of(pid: int) -> list[int]:
    processes = ((int(path.parent.name), path.read_text()) for path in Path("/proc").glob("[0-9]*/stat"))
    return [each for each, status in processes if int(status.rsplit(")", 1)[1].split()[1]) == pid]


def test_a_run_at_work_has_its_folder_and_its_workers_until_it_is_killed(config, undisturbed, tmp_path) -> None:
    """Another run is refused and disturbs nothing; after SIGKILL the workers end, and the same command goes on."""
    workdir = tmp_path / "run"
    process = start(config, workdir, "--config.data.workers=2", SLOWLY)
    wait_until(lambda: logged(workdir) >= 5, process)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(CheckpointError, match=rf"run: another run is at work in this folder; .*process {process.pid}"):
        train(TrainSettings.from_config(parse_config([f"--config={config}"])), workdir)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: logged(workdir) >= 6, process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    wait_for_end(*workers)
    status, _, err = run(config, workdir)
    assert status == 0, err
    assert losses(workdir) == undisturbed[1]


@pytest.mark.usefixtures("heeded_ctrl_c")
@pytest.mark.parametrize(
    ("number", "status", "state", "sentence"),
    [
        (signal.SIGINT, 130, "interrupted", "interrupted; the same command resumes from the last checkpoint"),
        (
            *(signal.SIGTERM, 143, "stopped"),
            "stopped by SIGTERM before the first step; nothing was lost. The same command resumes.",
        ),
    ],
)
def test_signals_while_the_first_step_is_compiled(
    config, tmp_path, monkeypatch, number: int, status: int, state: str, sentence: str
) -> None:
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")  # or it is over before the signal comes
    process = start(config, tmp_path / "run", "--config.compilation_cache=", "--stopped-status=143")
    wait_until((tmp_path / "run" / "health.json").exists, process)
    time.sleep(0.5)
    process.send_signal(number)
    ended, _, err = finish(process, timeout=20)
    assert ended == status, err
    assert err.splitlines()[-1] == f"flair-jax: {sentence}"
    assert "Traceback" not in err
    assert logged(tmp_path / "run") == 0
    assert read_status(tmp_path / "run").state == state


def test_sigkill_during_a_save(config, undisturbed, tmp_path) -> None:
    """The save that was under way leaves nothing that is taken for a checkpoint."""
    folder = tmp_path / "run" / "checkpoints"
    words = train_on_one(config, tmp_path / "run")
    run_killed(RunCheckpoints, "_write_digests", 2, *words, setup=ONE_DEVICE)  # called at the end of each save
    assert not (folder / "6").exists()
    assert any(folder.glob("6.*"))
    status, _, err = run(config, tmp_path / "run")
    assert status == 0, err
    assert losses(tmp_path / "run") == undisturbed[1]
    assert not any(folder.glob("6.*"))


def test_sigterm_saves_and_says_so(config, undisturbed, tmp_path) -> None:
    process = start(config, tmp_path / "run", SLOWLY)
    wait_until(lambda: logged(tmp_path / "run") >= 4, process)
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 0
    assert "stopped by SIGTERM after step" in out + err
    stopped = max(losses(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / str(stopped)).is_dir()
    status, _, err = run(config, tmp_path / "run")
    assert status == 0
    assert f"resuming after step {stopped}" in _ + err
    assert losses(tmp_path / "run") == undisturbed[1]


@pytest.fixture
def stopped_run(undisturbed, tmp_path) -> Path:
    """A copy of the finished run, set back to step 9 by removing the newest checkpoint."""
    shutil.copytree(undisturbed[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    return tmp_path / "run"


def test_a_disk_that_takes_no_more_is_one_sentence(config, stopped_run, monkeypatch) -> None:
    """No file may be larger than 100 kB, so that the next save fails in the background, as on a full disk."""
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")  # or its files would be cut off, too
    process = start(config, stopped_run)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    status, _, err = finish(process)
    assert status == 2
    message = err.splitlines()[-1]
    assert message.startswith(f"flair-jax: error: {stopped_run}/checkpoints: the checkpoint of step 12")
    assert "the file may not grow so large; see `ulimit -f`. What was saved before is whole" in message
    assert "Traceback" not in err
    assert {path.name for path in (stopped_run / "checkpoints").iterdir() if path.name.isdecimal()} == {"9"}


def test_a_damaged_newest_checkpoint_is_named_and_skipped(config, undisturbed, tmp_path) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "12"
    largest = max((newest / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    status, out, err = run(config, tmp_path / "run")
    assert status == 0, err
    assert f"checkpoint {newest} is damaged and skipped (params/" in err
    assert "resuming after step 9" in out + err
    assert losses(tmp_path / "run") == undisturbed[1]
    assert (tmp_path / "run" / "damaged").is_dir()


def test_goes_on_with_another_number_of_devices(config, undisturbed, stopped_run) -> None:
    status, _, err = run(config, stopped_run, "--config.mesh.data=2", "--config.mesh.fsdp=2", devices=4)
    assert status == 0, err
    for step, loss in losses(stopped_run).items():
        assert_close(loss, undisturbed[1][step], rtol=1e-5)  # sums in another order


def in_process(config: Path, workdir: Path, *flags: str) -> int:
    """The command's exit status, where nothing is compiled."""
    return main(["train", f"--config={config}", f"--workdir={workdir}", "--config.compilation_cache=", *flags])


def test_another_run_is_not_mixed_in(config, stopped_run, capsys) -> None:
    """However often it is started; then the flag that the sentence names takes the changes."""
    before = (stopped_run / "metrics.jsonl").read_bytes()
    for _ in range(2):
        assert in_process(config, stopped_run, "--config.optimizer.clip_norm=1.0", "--config.steps=9") == 2
        (line,) = [each for each in capsys.readouterr().err.splitlines() if "holds another run" in each]
        assert "config.optimizer.clip_norm was 0.0, is 1.0" in line
        assert "config.steps was 12, is 9" in line
        assert "--accept-changes to resume after step 9" in line
    assert in_process(config, stopped_run, "--config.steps=9", "--accept-changes") == 0
    assert (stopped_run / "metrics.jsonl").read_bytes() == before
    assert not (stopped_run / "damaged").exists()


def test_a_finished_run_says_so(config, undisturbed, capsys) -> None:
    folder = undisturbed[0]
    newest = folder / "checkpoints" / "12"
    before = (undisturbed[0] / "metrics.jsonl").read_bytes()
    assert in_process(config, undisturbed[0]) == 0
    finished, done, following, last = capsys.readouterr().out.splitlines()[-4:]
    assert (finished, last) == ("finished: all 12 steps are done", str(newest)), "programs read the last line"
    loss = read_metrics(folder)[-1]["loss"]
    assert done == f"step 12 is done and saved, loss {loss:.3f}; the metrics are in {folder}/metrics.jsonl"
    assert following.startswith(f"next: flair-jax status {folder}, or flair-jax evaluate --checkpoint ")
    assert in_process(config, undisturbed[0], "--config.steps=5") == 2
    assert f"{newest}: the run has 12 steps behind it, and 5 are asked for" in capsys.readouterr().err
    assert (undisturbed[0] / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_without_its_metrics_stays_finished(config, undisturbed, tmp_path, capsys) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed[0], folder)
    (folder / "metrics.jsonl").unlink()
    assert in_process(config, folder) == 0
    *_, done, _, last = capsys.readouterr().out.splitlines()
    assert done.startswith("step 12 is done and saved; the metrics cannot be read (")
    assert last == str(folder / "checkpoints" / "12")


def test_a_run_whose_checkpoints_are_gone_does_not_start_over(config, undisturbed, tmp_path, capsys) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed[0], folder)
    (folder / "checkpoints").rename(tmp_path / "elsewhere")
    before = (folder / "metrics.jsonl").read_bytes()
    for _ in range(2):
        assert in_process(config, folder) == 2
        assert f"{folder}: has no checkpoint, but its health.json tells of 12 steps" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(folder / "checkpoints")
    (tmp_path / "elsewhere").rename(folder / "checkpoints")
    assert in_process(config, folder) == 0


def test_a_checkpoint_of_a_run_loads(undisturbed) -> None:
    model, params = flair_jax.load(undisturbed[0] / "checkpoints" / "12")
    image, local = jax.jit(model.encode_image)(params, np.zeros((1, 32, 32, 3), np.float32))
    assert image.shape == (1, 16)
    assert local.shape == (1, 4, 16)


def test_what_is_kept(config, tmp_path) -> None:
    status, _, err = run(
        config, tmp_path / "run", "--config.checkpoint.keep=1", "--config.checkpoint.keep_every_steps=6"
    )
    assert status == 0, err
    assert err.index("compiling:") < err.index("first step:") < err.index("saving:")  # before the progress bar
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"6", "12"}
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["images_per_second"] > 0
