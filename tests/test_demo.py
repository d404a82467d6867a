import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from parsed import parse
from readme_sample import SAMPLE, check_shapes

import flair_jax.configs.demo as recipe
from flair_jax.checkpoint import read_model_config
from flair_jax.cli import main
from flair_jax.data.sets import scenes_builder
from flair_jax.demo import evaluation, report, run
from flair_jax.demo.chart import chart
from flair_jax.demo.recorded import MODEL, read_recorded
from flair_jax.errors import AnotherRunError, CheckpointError
from flair_jax.models.presets import PRESETS
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
    monkeypatch.setattr(run, "FIRST_STEPS", 2)
    monkeypatch.setattr(evaluation, "_ROWS", 16)  # of which there are few, so that less is padding
    monkeypatch.setitem(sys.modules, "torch", None)


def figures(printed: str, name: str) -> list[str]:
    """The cells of the first row of that name."""
    return next(line for line in printed.splitlines() if line.strip().startswith(f"{name}  ")).split(name)[1].split()


def test_the_demo_shows_the_shipped_model_and_trains_on_to_the_end(short, tmp_path, capsys) -> None:
    output = tmp_path / "demo"
    assert main(["demo", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "on 16 held-out scenes" in printed
    assert "4 steps of 8 images" in printed
    assert "; this call stops after step 2;" in printed.replace("\n", ";")
    assert [line["step"] for line in read_metrics(output / "run")] == [1, 2]
    shipped = json.loads((output / "metrics.json").read_text())
    pointing = f"{shipped['text_conditioned']['pointing game']:.1f}"
    assert float(pointing) > 60, "it has learned something"
    assert figures(printed, "pointing game")[-1] == pointing
    page = (output / "report.html").read_text()
    assert f'<td class="best">{pointing}</td>' in page
    pictures = [attributes for tag, attributes in parse(page).tags if tag == "img"]
    assert len(pictures) == 6 * 4
    assert all(each["src"].startswith("data:image/png;base64,") for each in pictures)
    assert [each["alt"].startswith("attention, most of it in the ") for each in pictures] == [
        False,
        True,
        True,
        True,
    ] * 6

    outcome = subprocess.run([sys.executable, "-c", SAMPLE], cwd=tmp_path, capture_output=True, text=True, check=True)
    check_shapes(outcome.stdout)

    # To the end: the run goes on where it was, and its own model is reported.
    assert main(["demo", "--output", str(output), "--full", "--control"]) == 0
    printed = capsys.readouterr().out
    assert "resuming after step 2" in printed
    metrics = read_metrics(output / "run")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    assert all("tcs" in line for line in metrics)
    assert not any("tcs" in line for line in read_metrics(output / "control"))
    own, control = (json.loads((output / name).read_text()) for name in ("metrics.json", "control.json"))
    assert own["text_conditioned"] != shipped["text_conditioned"] != control["text_conditioned"]
    name = "long caption to image, R@1"
    assert figures(printed, name)[-2:] == [f"{own[way][name]:.1f}" for way in ("by_global", "text_conditioned")]

    # Again: nothing is trained anew, and the figures are the same.
    assert main(["demo", "--output", str(output), "--full", "--control"]) == 0
    again = capsys.readouterr().out
    assert again[again.index("Finding the") :] == printed[printed.index("Finding the") :]
    assert len(read_metrics(output / "run")) == STEPS


def test_the_control_is_trained_with_the_whole_demonstration_only(tmp_path, capsys) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--control"]) == 2
    assert "add --full" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_chance_is_what_a_random_answer_gives(tmp_path) -> None:
    scenes_builder.prepare(tmp_path, "small")
    asked = evaluation.ScenesEvaluation(scenes_builder.read(tmp_path, "validation", "small"))
    assert len(asked.sentences) == len(asked.objects) == asked.relevant.shape[1]
    for column, (number, _) in enumerate(asked.objects):
        assert asked.relevant[number, column], "a sentence is true of its own scene"
    chance = asked._chance(9)
    assert chance[evaluation.SENTENCE] == pytest.approx(100 * asked.relevant.mean())
    assert chance["long caption to image, R@1"] == pytest.approx(100 / 16)
    assert all(true != false for swaps in asked.swaps.values() for true, false in swaps)


def test_what_is_not_learned_is_said_and_where_the_control_is_better() -> None:
    result = read_recorded().models[0]
    values = dict.fromkeys(result.text_conditioned, 95.0)

    def say(attribute: str, value: float, *controls: float) -> str:
        changed = dataclasses.replace(result, text_conditioned=values | {evaluation.words(attribute): value})
        by_global = [dataclasses.replace(result, by_global={evaluation.words(attribute): each}) for each in controls]
        return report.not_learned(changed, by_global)

    assert say("place", 81.04, 60.0, 80.0) == (
        "Learned least: place, 81.0 % where 50 % is chance; the control has 70.0 % (60.0 to 80.0)."
    )
    assert "; the control is better there, with 82.0 % (80.0 to 84.0)." in say("place", 81.04, 80.0, 84.0)
    assert say("shape", 53.0, 50.0).startswith("Not learned: shape (53 %), where 50 % is chance.")


def test_the_best_of_each_row_is_marked_as_it_is_written() -> None:
    recorded = read_recorded()
    rows = {title: dict(rows) for title, rows in report.tables(recorded.models[0], recorded)}
    words = rows["Telling a true sentence from one with a word changed"]
    marked = {name: [cell.best for cell in cells] for name, cells in words.items()}
    assert marked[evaluation.words("relation")] == [False, True, False, False]
    assert marked[evaluation.words("background")] == [False, True, True, True], "all are written 100.0"
    assert marked[evaluation.words("size")] == [False, False, False, True]
    assert [cell.best for cell in rows["Looking at the object that a sentence names"]["mean IoU at 0.5"]][-1]


def test_looking_counts_what_a_map_shows_that_is_not_named(tmp_path, monkeypatch) -> None:
    scenes_builder.prepare(tmp_path, "small")
    scenes = scenes_builder.read(tmp_path, "test", "small")
    asked = evaluation.ScenesEvaluation(scenes)

    class Everywhere:
        def __init__(self, *_: object) -> None:
            pass

        def attention(self, pairs: list[tuple[int, str]]) -> np.ndarray:
            return np.ones((len(pairs), 9, 9))

    monkeypatch.setattr(evaluation, "_Scorer", Everywhere)
    found = asked.look(None, None)
    assert found.on_background == pytest.approx(found.background)
    areas = [np.mean(each.mask == n + 1) for each in scenes for n in range(len(each.scene.objects))]
    assert 0 < found.named < 100 * max(areas)
    landmarks = [
        [np.mean(each.mask == n + 1) for n, item in enumerate(each.scene.objects) if item.colour == "white"]
        for each in scenes
    ]
    weights = [len(each.scene.objects) - 1 for each in scenes]
    assert found.landmark == pytest.approx(100 * np.average([area for (area,) in landmarks], weights=weights))
    said = report.looked(dataclasses.replace(found, on_background=found.background - 1))
    assert "their spots do not say where it is" in said
    assert "their spots" not in report.looked(dataclasses.replace(found, on_background=found.background + 1))


def test_a_chart_has_round_numbers_and_room() -> None:
    drawn = chart({"recorded": [(20, 7.9), (200, 2.0), (1500, 1.7)], "here": [(20, 7.9)]})
    assert [tick.label for tick in drawn["across"]] == ["20", "50", "100", "200", "500", "1,000"]
    assert [tick.label for tick in drawn["up"]] == ["0", "2", "4", "6", "8"]
    assert 0 == drawn["across"][0].at < drawn["across"][-1].at < 100
    assert drawn["up"][-1].at < 100
    points = re.findall(r"[\d.]+,[\d.]+", drawn["curves"]["recorded"])
    assert points[0].startswith("0.00,")
    assert float(points[0].split(",")[1]) > 4
    assert points[-1].startswith("100.00,")
    assert drawn["curves"]["here"].startswith(f"M{points[0]} "), "one point is a dot"
    chart({"recorded": [(1, 0.5)]})


PLACES = {(0, 0): "upper left", (2, 3): "upper center", (3, 6): "middle right", (8, 8): "lower right"}


@pytest.mark.parametrize(("cell", "place"), PLACES.items())
def test_where_a_map_is_highest(cell, place) -> None:
    attention = np.zeros((9, 9), np.float32)
    attention[cell] = 1
    assert report._where_most(attention) == place


def test_a_run_of_another_recipe_is_one_sentence_with_the_demos_own_options(tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AnotherRunError("add --accept-changes", changes="config.seed was 1, is 0")

    monkeypatch.setattr(run, "train", refuse)
    with pytest.raises(CheckpointError) as caught:
        run._train(recipe.get_config(), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: holds a run of another recipe (config.seed was 1, is 0); remove it, or choose another --output"
    )


def test_what_is_recorded_is_of_the_demos_recipe_and_of_the_shipped_model() -> None:
    recorded = read_recorded()
    config = recipe.get_config()
    config.seed = recorded.settings["seed"]
    config.data.dir = recorded.settings["data"]["dir"]
    assert TrainSettings.from_config(recorded.settings) == TrainSettings.from_config(config)
    assert recorded.losses[-1][0] == config.steps
    assert len(recorded.models) == len(recorded.controls) == 3
    assert read_model_config(MODEL) == dataclasses.replace(PRESETS[config.model])
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 8_000_000
