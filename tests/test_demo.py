import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flair_jax.configs.demo as recipe
from flair_jax.cli import main
from flair_jax.demo import evaluation, run
from flair_jax.errors import AnotherRunError, CheckpointError
from flair_jax.settings import TrainSettings
from flair_jax.train.logger import read_metrics

STEPS = 4


@pytest.fixture
def short(monkeypatch) -> None:
    """The demonstration on few scenes for few steps, where torch cannot be imported."""

    def get_config():
        config = recipe.get_config()
        config.data.name = "scenes/small"
        config.steps, config.optimizer.warmup_steps = STEPS, 1
        config.batch_size, config.unroll, config.compilation_cache = 8, 1, ""
        config.checkpoint.every_steps, config.log_every_steps = 2, 1
        return config

    monkeypatch.setattr(run, "get_config", get_config)
    monkeypatch.setattr(evaluation, "_ROWS", 16)  # of which there are few, so that less is padding
    monkeypatch.setitem(sys.modules, "torch", None)


def test_the_demo_trains_and_reports_and_the_readme_works_on_it(short, tmp_path, capsys) -> None:
    output = tmp_path / "demo"
    assert main(["demo", "--output", str(output), "--control"]) == 0
    printed = capsys.readouterr().out
    assert "on 16 held-out scenes" in printed
    metrics = read_metrics(output / "run")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    assert all("tcs" in line for line in metrics)
    assert not any("tcs" in line for line in read_metrics(output / "control"))

    result = json.loads((output / "metrics.json").read_text())
    pointing = f"{result['localization']['pointing game']:.1f}"
    control = json.loads((output / "control.json").read_text())["result"]
    row = next(line for line in printed.splitlines() if line.strip().startswith("pointing game"))
    assert row.split()[-2:] == [pointing, f"{control['localization']['pointing game']:.1f}"]
    page = (output / "report.html").read_text()
    assert f"<td>{pointing}</td>" in page
    assert page.count("data:image/png;base64,") == 2

    # Again: nothing is trained anew, and the figures are the same.
    assert main(["demo", "--output", str(output), "--control"]) == 0
    again = capsys.readouterr().out
    assert again[again.index("Retrieval by") :] == printed[printed.index("Retrieval by") :]
    assert len(read_metrics(output / "run")) == STEPS

    readme = (Path(__file__).parent.parent / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    number = f"checkpoints/{recipe.get_config().steps}"
    assert number in snippet
    outcome = subprocess.run(
        [sys.executable, "-c", snippet.replace(number, f"checkpoints/{STEPS}")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    promised = re.search(r"this prints two logits and `([^`]*)`", readme)[1]
    assert outcome.stdout.split("]] ")[1].strip() == promised


def test_a_run_of_another_recipe_is_one_sentence_with_the_demos_own_options(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AnotherRunError("add --accept-changes", changes="config.seed was 1, is 0")

    monkeypatch.setattr(run, "train", refuse)
    with pytest.raises(CheckpointError) as caught:
        run._train(recipe.get_config(), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: holds a run of another recipe (config.seed was 1, is 0); remove it, or choose another --output"
    )


def test_the_recorded_control_is_of_the_demos_recipe() -> None:
    recorded = json.loads(run.RECORDED_CONTROL.read_text())["settings"]
    config = run.get_config()
    config.loss.terms, config.data.dir = ("mps",), recorded["data"]["dir"]
    assert TrainSettings.from_config(recorded) == TrainSettings.from_config(config)
