"""Runs that are killed, stopped or damaged go on as if nothing had happened."""

import json
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from numeric import assert_close
from runs import finish, losses, run, start

import flair_jax
from flair_jax.train import main


def wait_until(condition, process) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def logged(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize("step", [2, 5, 10])
def test_sigkill_and_again_gives_the_same_losses(config, undisturbed, tmp_path, step: int) -> None:
    """Bit for bit; before the first checkpoint, between two, and after the third."""
    process = start(config, tmp_path / "run")
    wait_until(lambda: logged(tmp_path / "run") >= step, process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    status, _, err = run(config, tmp_path / "run")
    assert status == 0, err
    assert losses(tmp_path / "run") == undisturbed[1]


def test_sigkill_during_a_save(config, undisturbed, tmp_path) -> None:
    """The save that was under way leaves nothing that is taken for a checkpoint."""
    folder = tmp_path / "run" / "checkpoints"
    process = start(config, tmp_path / "run")
    wait_until(lambda: any(folder.glob("6.*")) if folder.exists() else False, process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert not (folder / "6").exists()
    assert any(folder.glob("6.*"))
    status, _, err = run(config, tmp_path / "run")
    assert status == 0, err
    assert losses(tmp_path / "run") == undisturbed[1]
    assert not any(folder.glob("6.*"))


def test_sigterm_saves_and_says_so(config, undisturbed, tmp_path) -> None:
    process = start(config, tmp_path / "run")
    wait_until(lambda: logged(tmp_path / "run") >= 4, process)
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 0
    assert "stopped by SIGTERM after step" in out + err
    stopped = max(losses(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / str(stopped)).is_dir()
    status, _, err = run(config, tmp_path / "run")
    assert status == 0
    assert f"going on after step {stopped}" in _ + err
    assert losses(tmp_path / "run") == undisturbed[1]


@pytest.fixture
def stopped_run(undisturbed, tmp_path) -> Path:
    """A copy of the finished run, set back to step 9 by removing the newest checkpoint."""
    shutil.copytree(undisturbed[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    return tmp_path / "run"


def test_a_damaged_newest_checkpoint_is_named_and_skipped(config, undisturbed, tmp_path) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "12"
    largest = max((newest / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    status, out, err = run(config, tmp_path / "run")
    assert status == 0, err
    assert f"checkpoint {newest} is damaged and skipped (params/" in err
    assert "going on after step 9" in out + err
    assert losses(tmp_path / "run") == undisturbed[1]
    assert (tmp_path / "run" / "damaged").is_dir()


def test_goes_on_with_another_number_of_devices(config, undisturbed, stopped_run) -> None:
    status, _, err = run(config, stopped_run, "--config.mesh.data=2", "--config.mesh.fsdp=2", devices=4)
    assert status == 0, err
    for step, loss in losses(stopped_run).items():
        assert_close(loss, undisturbed[1][step], rtol=1e-5)  # sums in another order


def in_process(config: Path, workdir: Path, *flags: str) -> int:
    """The command's exit status, where nothing is compiled."""
    return main([f"--config={config}", f"--workdir={workdir}", "--config.compilation_cache=", *flags])


def test_another_run_is_not_mixed_in(config, stopped_run, capsys) -> None:
    """However often it is started; then the flag that the sentence names takes the changes."""
    before = (stopped_run / "metrics.jsonl").read_bytes()
    for _ in range(2):
        assert in_process(config, stopped_run, "--config.optimizer.clip_norm=1.0", "--config.steps=9") == 2
        (line,) = [each for each in capsys.readouterr().err.splitlines() if "holds another run" in each]
        assert "config.optimizer.clip_norm was 0.0, is 1.0" in line
        assert "config.steps was 12, is 9" in line
        assert "--accept-changes to go on after step 9" in line
    assert in_process(config, stopped_run, "--config.steps=9", "--accept-changes") == 0
    assert (stopped_run / "metrics.jsonl").read_bytes() == before
    assert not (stopped_run / "damaged").exists()


def test_a_finished_run_says_so(config, undisturbed, tmp_path, capsys) -> None:
    newest = undisturbed[0] / "checkpoints" / "12"
    before = (undisturbed[0] / "metrics.jsonl").read_bytes()
    assert in_process(config, undisturbed[0]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["finished: all 12 steps are done", str(newest)]
    assert in_process(config, undisturbed[0], "--config.steps=5") == 2
    assert f"{newest}: the run has 12 steps behind it, and 5 are asked for" in capsys.readouterr().err
    assert (undisturbed[0] / "metrics.jsonl").read_bytes() == before


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
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"6", "12"}
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["images_per_second"] > 0
