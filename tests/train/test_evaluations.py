"""Several evaluations in one run: of any task, by names of their own, each at its own interval."""

import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from labelled import write_folders
from made_choices import make_sugarcrepe
from made_grounding import make_entities
from made_segmentation import make_voc

from flair_jax.cli import main
from flair_jax.configs.default import get_config, get_evaluation
from flair_jax.data.sets import scenes_builder
from flair_jax.demo.run import write_pictures
from flair_jax.errors import ConfigError, FlairError
from flair_jax.settings import EvaluationSettings, TrainSettings
from flair_jax.train.evaluation import RunEvaluation, find_evaluations
from flair_jax.train.flags import parse_config
from flair_jax.train.identity import changes, describe_run
from flair_jax.train.loop import Run
from flair_jax.train.preemption import Preemption


@pytest.fixture(scope="module")
def pictures(scenes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations") / "pictures"
    write_pictures(folder, scenes_builder.read(scenes, "validation", "small"))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    write_folders(root, ("red", "green", "blue"), each=3)
    return root


def test_names_and_fields() -> None:
    config = get_config()
    config.evaluations.imagenet = get_evaluation(task="classify", dataset="imagenet", dir="~/imagenet", every_steps=50)
    config.evaluations.flickr = get_evaluation(dataset="flickr30k-val", every_steps=20)
    settings = TrainSettings.from_config(config)
    assert settings.evaluation.every_steps == 0
    assert {name: (each.task, each.every_steps) for name, each in settings.evaluations.items()} == {
        "imagenet": ("classify", 50),
        "flickr": ("retrieval", 20),
    }
    assert settings.evaluations["imagenet"].batch_size == 256
    with pytest.raises(KeyError, match="datset"):
        get_evaluation(datset="coco")


def test_configurations_from_before_read_as_they_did() -> None:
    """They have one evaluation, of retrieval, without a task."""
    config = get_config().to_dict()
    del config["evaluations"], config["evaluation"]["task"], config["evaluation"]["templates"]
    settings = TrainSettings.from_config(config)
    assert (settings.evaluation.task, settings.evaluations) == ("retrieval", {})
    was = describe_run(settings, 8)
    now = TrainSettings.from_config(get_config())
    assert not changes(
        {name: value for name, value in was.items() if name != "evaluation.task"}, describe_run(now, 8), 1
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"task": "sort"},
            "config.evaluations.a.task='sort' is unknown; choose one of retrieval, classify, segment, p",
        ),
        (
            {"mode": "best"},
            "config.evaluations.a.mode='best' is unknown; choose one of text-conditioned, top-k, global",
        ),
        (
            {"task": "classify", "mode": "top-k"},
            "config.evaluations.a.mode='top-k' is unknown; choose one of text-cond",
        ),
        ({"task": "classify", "dataset": "imagnet"}, "imagnet.*did you mean imagenet"),
        ({"dataset": "coco", "dir": "/nowhere"}, "/nowhere"),
        ({"task": "classify", "dataset": "folder", "templates": "gone.txt"}, "templates gone.txt: no such file"),
    ],
)
def test_mistakes_are_said_before_the_first_step(small_model, change: dict, message: str) -> None:
    config = get_config()
    config.evaluations.a = get_evaluation(every_steps=1, **change)
    with pytest.raises(FlairError, match=message):
        find_evaluations(TrainSettings.from_config(config), small_model[0])
    config.evaluations.a.every_steps = 0
    assert find_evaluations(TrainSettings.from_config(config), small_model[0]) == ()


def test_numbers_out_of_range() -> None:
    config = get_config()
    config.evaluations.a = get_evaluation(every_steps=-1)
    with pytest.raises(ConfigError, match="config.evaluations.a: every_steps=-1 must not be negative"):
        TrainSettings.from_config(config)
    config = get_config().to_dict()
    config["evaluations"] = {"a": {"every_steps": "often"}}
    with pytest.raises(ConfigError, match="config.evaluations.a: 5 missing fields: batch_size, "):
        TrainSettings.from_config(config)
    config["evaluations"] = {"a.b": {}}
    with pytest.raises(ConfigError, match="config.evaluations: a field is named 'a.b'"):
        TrainSettings.from_config(config)


def settings_of(task: str, dataset: str, folder: Path, **changes) -> EvaluationSettings:
    return EvaluationSettings(
        **{**get_evaluation(task=task, dataset=dataset, dir=str(folder), batch_size=8), **changes}
    )


@pytest.fixture(scope="module")
def sets(pictures, folders, tmp_path_factory) -> dict[str, tuple[str, Path]]:
    """Task -> a set's name and folder."""
    root = tmp_path_factory.mktemp("sets")
    make_voc(root / "voc" / "VOC2012", [0, 1, 15, 255])
    make_sugarcrepe(root / "sugarcrepe")
    make_entities(root / "entities")
    return {
        "retrieval": ("folder", pictures),
        "classify": ("folder", folders),
        "segment": ("voc20", root / "voc"),
        "choose": ("sugarcrepe", root / "sugarcrepe"),
        "point": ("flickr30k-entities-test", root / "entities"),
    }


def flat(values: dict, prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize("task", ["retrieval", "classify", "segment", "choose", "point"])
def test_the_numbers_are_those_of_the_command(small_model, small_checkpoint, sets, tmp_path, task: str) -> None:
    dataset, folder = sets[task]
    evaluation = RunEvaluation.from_settings("mine", settings_of(task, dataset, folder), small_model[0])
    found = evaluation.run(small_model[1])
    common = ["--checkpoint", str(small_checkpoint), "--dataset", dataset, "--data-dir", str(folder)]
    mode = ["--mode", "text-conditioned"] if task == "choose" else []
    output = tmp_path / "out.json"
    assert not main(["evaluate", "--task", task, *common, *mode, "--batch-size", "8", "--output", str(output)])
    (result,) = json.loads(output.read_text())["results"]
    numbers = flat({name: value for name, value in result["metrics"].items() if name != "iou"})
    assert len(numbers) > 1
    assert {name: found.pop(f"evaluation/mine/{name}") for name in numbers} == pytest.approx(numbers)
    ties = {f"evaluation/mine/{kind}_ties" for kind in result.get("ties", {}).get("share", {})}
    assert set(found) == ties | {"evaluation/mine/texts_cut_off", "evaluation/mine/tokens_cut_off"}


def test_each_at_its_own_interval(small_model, folders, pictures, tmp_path) -> None:
    """The one without a name as before; one that fails does not keep the others from being made."""
    model, params = small_model
    broken = Path(shutil.copytree(folders, tmp_path / "broken"))
    evaluations = (
        RunEvaluation.from_settings(
            "", settings_of("retrieval", "folder", pictures, every_steps=2, mode="global"), model
        ),
        RunEvaluation.from_settings("colours", settings_of("classify", "folder", folders, every_steps=3), model),
        RunEvaluation.from_settings("broken", settings_of("classify", "folder", broken, every_steps=3), model),
    )
    (broken / "red" / "0-1.png").write_bytes(b"")
    said, logged = [], {}
    training = Run(
        settings=None,
        steps=7,
        mesh=None,
        train_step=None,
        meter=SimpleNamespace(outside=lambda what: contextlib.nullcontext()),
        checkpoints=None,
        evaluations=evaluations,
        logger=SimpleNamespace(say=said.append, write=logged.__setitem__),
        preemption=Preemption(0),
        startup=None,
        profiler=None,
        background=None,
    )
    for step in range(1, 8):
        training._evaluate(SimpleNamespace(evaluated=params), step)
    groups = {step: sorted({name.rpartition("/")[0] for name in values}) for step, values in logged.items()}
    retrieval, classification = ["evaluation"], ["evaluation/broken", "evaluation/colours"]
    assert groups == {
        2: retrieval,
        3: classification,
        4: retrieval,
        6: retrieval + classification,
        7: retrieval + classification,
    }
    assert logged[3]["evaluation/broken/failed"] == 1
    assert 0 <= logged[3]["evaluation/colours/top1"] <= 1
    assert said[0].startswith("evaluated after step 2: text_to_image_R@1 ")
    assert said[1].startswith(f"evaluated after step 3: colours/top1 {logged[3]['evaluation/colours/top1']:.3f}")
    assert said[2].startswith("the evaluation broken after step 3 has failed, and training continues: 1 of 9 pictures")
    assert "mend them, or train with --config.evaluations.broken.every_steps=0" in said[2]


def test_as_a_configuration_file_asks_for_them(config, small_model, pictures, folders, tmp_path) -> None:
    """With one changed on the command line."""
    file = tmp_path / "config.py"
    file.write_text(
        config.read_text()
        .replace("import get_config as get_default", "import get_config as get_default, get_evaluation")
        .replace(
            "    return c\n",
            f"    c.evaluations.pairs = get_evaluation(dataset='folder', dir={str(pictures)!r})\n"
            f"    c.evaluations.colours = get_evaluation(task='classify', dataset='folder', dir={str(folders)!r}, "
            "every_steps=2, mode='global', templates='a {} thing')\n    return c\n",
        )
    )
    asked = TrainSettings.from_config(parse_config([f"--config={file}", "--config.evaluations.pairs.every_steps=3"]))
    found = {each.name: each for each in find_evaluations(asked, small_model[0])}
    pairs, colours = found["pairs"], found["colours"]
    assert (pairs.name, pairs.every_steps, pairs.task.name, len(pairs.data.images)) == ("pairs", 3, "retrieval", 16)
    assert (colours.name, colours.every_steps, colours.task.name) == ("colours", 2, "classify")
    assert (colours.settings.mode, colours.settings.templates) == ("global", ("a {} thing",))
    with pytest.raises(ConfigError, match="evaluations.others"):
        parse_config([f"--config={file}", "--config.evaluations.others.every_steps=3"])
