"""Configurations: all their fields are read, and what cannot be is one sentence."""

import ast
import dataclasses
import functools
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import run

from flair_jax.cli import main
from flair_jax.configs.default import get_config
from flair_jax.data.workers import Worker, send_result
from flair_jax.errors import ConfigError
from flair_jax.setting_checks import problems
from flair_jax.settings import Factories, PackingSettings, TrainSettings, UnlockedGroups
from flair_jax.train.flags import parse, parse_config

REPOSITORY = Path(__file__).parent.parent.parent
RECIPES = {
    # name: global batch, K, epsilon, weight decay, images in a loss group (the original's batch on one GPU)
    "cc3m_recap": (8 * 128, 8, 1e-8, 0.5, 128),
    "cc12m_recap": (32 * 192, 8, 1e-8, 0.5, 192),
    "yfcc15m_recap": (8 * 192, 10, 1e-8, 0.5, 192),
    "merged30m": (8 * 128, 10, 1e-6, 0.2, 128),
    "pixelprose": (32 * 192, 8, 1e-8, 0.5, 192),
}


TOGETHER = ("--config={}", "--workdir=w", "--distributed")


def configuration(name: str):
    return importlib.import_module(f"flair_jax.configs.{name}").get_config()


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipes(name: str) -> None:
    settings = TrainSettings.from_config(configuration(name))
    optimizer = settings.optimizer
    assert (
        settings.batch_size,
        settings.captions_per_image,
        optimizer.eps,
        optimizer.weight_decay,
        settings.group_size,
    ) == RECIPES[name]
    assert (optimizer.learning_rate, optimizer.b1, optimizer.b2, optimizer.warmup_steps) == (5e-4, 0.9, 0.98, 2000)
    assert (settings.epochs, optimizer.schedule, settings.loss.terms) == (32, "cosine", ("tcs", "mps"))


def test_the_demo_is_a_configuration_like_the_others() -> None:
    assert TrainSettings.from_config(configuration("demo")).model_config().vision.image_size == 72


def test_every_field_is_read() -> None:
    """Each name of a field occurs as an attribute somewhere in the package, outside `settings.py`'s definitions."""
    read = set()
    for path in (REPOSITORY / "flair_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)

    def fields(kind):
        for field in dataclasses.fields(kind):
            yield field.name

    kinds = [value for value in vars(importlib.import_module("flair_jax.settings")).values() if isinstance(value, type)]
    axes = {"data", "fsdp", "tensor"}  # of the mesh, read by name
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and kind.__name__ != "FlairConfig":
            assert set(fields(kind)) - axes <= read, kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "config.batch_size=0 must be greater than 0"),
        ({"batch_size": 0, "accumulation_steps": 0}, "config.batch_size=0 must be greater than 0"),
        ({"batch_size": 2**29}, "gives .* texts in a step; the most are 2,147,483,647"),
        (
            {"optimizer.cooldown_steps": 9},
            "cooldown_steps=9: config.optimizer.schedule=cosine has none; set it to cons",
        ),
        ({"captions_per_image": 1000}, "more than 64 captions would repeat them"),
        ({"loss.group_size": 100}, "config.batch_size=1024 is not a multiple of config.loss.group_size=100"),
        ({"accumulation_steps": 3}, "not a multiple of config.accumulation_steps=3"),
        ({"loss.terms": ("tcs", "tcs")}, "only once"),
        ({"loss.terms": ()}, "config.loss.terms is empty"),
        ({"lock": ("vision",)}, r"lock=\('vision',\): each must be one of image, text"),
        ({"optimizer.schedule": "linear"}, "schedule='linear' must be one of cosine, constant, constant-cooldown$"),
        ({"optimizer.b1": 1.0}, "config.optimizer.b1=1.0 must be from 0 to below 1"),
        ({"data.crop_scale": (0.0, 1.0)}, "must be 0 < from <= to <= 1"),
        ({"model": "ViT-Q"}, "neither a JSON file nor a preset"),
        ({"dtype": "float16"}, "dtype='float16' is unknown"),
        ({"optimizer.clip_norm": -1.0}, "must not be negative"),
    ],
)
def test_impossible_settings(changes, message: str) -> None:
    config = get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        TrainSettings.from_config(config)


def test_a_negative_number_of_steps_is_one_problem() -> None:
    config = get_config()
    config.steps = 5
    settings = TrainSettings.from_config(config)
    assert list(problems(dataclasses.replace(settings, steps=-5))) == ["steps=-5 must not be negative"]


def test_missing_and_unknown_fields() -> None:
    config = get_config().to_dict()
    with pytest.raises(ConfigError, match=r"config: 1 unknown field: nonsense"):
        TrainSettings.from_config({**config, "nonsense": 1})
    del config["mesh"]["fsdp"]
    with pytest.raises(ConfigError, match=r"config.mesh: 1 missing field: fsdp"):
        TrainSettings.from_config(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config and --workdir are needed"),
        (["--config=nowhere.py", "--workdir=w"], "--config=nowhere.py: no such configuration file"),
        (["--config={}", "--workdir=w", "--config.batch_sise=3"], 'Did you mean "batch_size"?'),
        (
            ["--config={}", "--workdir=w", "--config.batch_size=many"],
            "--config.batch_size=many: must be a whole number",
        ),
        (["--config={}"], "--workdir is needed"),
        (["--workdir=w"], "--config is needed"),
        (["--config={}", "--workdir=w", "--nonsense"], "--nonsense: no such option; usage: flair-jax train"),
        (["--config={}", "--workdir=w", "--batch_size=3"], "Did you mean --config.batch_size?"),
        (["--config={}", "--workdir=w", "--accept_changes"], 'Did you mean "accept-changes"?'),
        (["--config={}", "--workdir=w", "--config.lr=3"], "Did you mean --config.optimizer.learning_rate?"),
        (["--config={}", "--workdir=w", "--config.optimizer.lr=3"], 'Did you mean "learning_rate"?'),
        (["--config={}", "--workdir=w", "--config.steps=1.5"], "--config.steps=1.5: must be a whole number"),
        (["--config={}", "--workdir=w", "extra"], "unknown argument 'extra'"),
        (["--config={}", "--workdir=w", "--stopped-status=900"], "--stopped-status=900: 900 is not an integer in the"),
        (
            ["--config={}", "--workdir=w", "--config.nope=3"],
            "no such field; `flair-jax configs default` lists all",
        ),
        (["--config={}", "--workdir=w", "--config.=3"], "--config.: no such field"),
        (["--config={}", "--workdir=w", "--config.seed.x=3"], "--config.seed.x: no such field"),
        (["--config={}", "--workdir=w", "--config.data.crop_scale=0.5"], "config.data.crop_scale=(0.5,) must have 2"),
        (["--config={}", "--workdir=w", "--config.epochs=inf"], "config.epochs=inf must be a finite number"),
        (["--config={}", "--workdir=w", "--config.optimizer.learning_rate=nan"], "learning_rate=nan must be a finite"),
        (["--config={}", "--workdir=w", "--config.optimizer=3"], "Failed to parse '3' as a ConfigDict"),
        (["--config={}", "--workdir=w", "--config.seed=99999999999999999999"], "is out of range"),
        (["--config={}", "--workdir=w", "--config.seed"], "Missing value for flag --config.seed"),
        (["--config={}", "--workdir"], "Missing value for flag --workdir"),
        (["--config={}", "--workdir="], "--workdir is empty"),
        (["--config=", "--workdir=w"], "--config=: no such configuration file; shipped are"),
        (["--config=dmeo", "--workdir=w"], 'Did you mean "demo"?'),
        (["--config", "/", "--workdir=w"], "--config=/: a folder, not a configuration file"),
        (["--flagfile=gone"], "gone"),
        ([*TOGETHER, "--coordinator=here", "--process=0", "--processes=1"], "--coordinator=here: expected HOST:PORT"),
        ([*TOGETHER, "--coordinator=a:70000", "--process=0", "--processes=1"], "--coordinator=a:70000: expected HOST"),
        ([*TOGETHER, "--coordinator=a:7000", "--process=2", "--processes=2"], "have the numbers from 0 to 1"),
        ([*TOGETHER, "--coordinator=a:7000", "--process=0", "--processes=0"], "--processes=0: at least one is needed"),
        (["--config={}", "--workdir=w", "--process=1"], "--coordinator, --process and --processes go together"),
    ],
)
def test_wrong_command_lines(words, message: str, capsys) -> None:
    words = [word.format(REPOSITORY / "configs" / "default.py") for word in words]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, "one sentence"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(): return 1 / 0", "cannot be run (ZeroDivisionError: division by zero) in line 1"),
        (
            "from flair_jax.configs.default import get_config as base\n\ndef get_config():\n    c = base()\n"
            "    c.batch_sise = 8\n    return c\n",
            'since the config is locked. Did you mean "batch_size" instead of "batch_sise"?) in line 5',
        ),
        ("def get_config(:", "cannot be run (SyntaxError: invalid syntax, line 1)"),
        ("import sys; sys.exit(3)", "cannot be run (SystemExit: 3)"),
        ("CONFIG = {}", "has no attribute 'get_config'"),
        ("get_config = dict", "get_config() must return an ml_collections.ConfigDict, not dict"),
        ("def get_config(): pass", "get_config() must return an ml_collections.ConfigDict, not NoneType"),
        ("from ml_collections import ConfigDict as get_config", " missing fields: "),
        ("\0", "cannot be run"),
    ],
)
def test_a_broken_configuration_file(tmp_path, capsys, text: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    assert main(["train", f"--config={tmp_path / 'broken.py'}", "--workdir=w"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, "one sentence"


def test_a_configuration_file_may_define_dataclasses_and_modules(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "import flax.linen as nn\n"
        "from flair_jax.configs.default import get_config as get_default\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Scale:\n"
        "    by: float\n"
        "    def __call__(self, x): return self.by * x\n"
        "class Layer(nn.Module):\n"
        "    width: int\n"
        "def get_config():\n"
        "    c = get_default()\n"
        "    c.factories.model = lambda settings: (Scale(2.0), Layer(3))\n"
        "    return c\n"
    )
    scale, layer = TrainSettings.from_config(parse_config([f"--config={path}"])).factories.model(None)
    assert layer.width == 3
    # Worker processes cannot import the file, so what it defines comes to them by value.
    with Worker() as worker:
        worker.send(functools.partial(_send_twice, scale))
        assert worker.receive() == 42


def _send_twice(function, channel) -> None:
    send_result(channel, function(21))


def test_a_configuration_file_may_import_a_module_named_config(tmp_path, monkeypatch) -> None:
    """Of the user's own, in a folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "config.py").write_text("SEED = 3\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "from config import SEED\nfrom flair_jax.configs import default\n\n"
        "def get_config():\n    c = default.get_config()\n    c.seed = SEED\n    return c\n"
    )
    try:
        assert parse_config([f"--config={path}"]).seed == 3
    finally:
        sys.modules.pop("config", None)


ODD = [
    *(None, True, False, "", "8", "\0", "\ud800", "x" * 5000, b"8", (), [], {}, {"a": 1}, object(), int, 1 + 2j),
    *(0, -1, -2, 1, 1.5, -0.0, 2**31, 2**32, 2**63, 10**400, -(10**400), 1e-320, 1e300, float("inf"), float("nan")),
    *(np.float32(3), np.float64("nan"), np.int64(7), np.bool_(True), np.ones(2), np.ones(())),
    *((0.5,), (1.0, 0.5), ("a", 1), ["tcs", "mps"], [None], (1.0, float("nan")), ((1.0, 1.0),), (2**40, 2**40)),
]


def groups_of(config, where: str = "config"):
    yield where, config
    for name, value in config.items():
        if isinstance(value, dict):
            yield from groups_of(value, f"{where}.{name}")


# Groups whose fields all have defaults, so that {} is one of them.
WITH_DEFAULTS = {"factories": Factories, "packing": PackingSettings, "unlocked_groups": UnlockedGroups}


def read_or_error(config):
    try:
        return TrainSettings.from_config(config)
    except ConfigError as error:
        return error


def test_any_value_of_any_field_is_taken_or_named() -> None:
    """Whatever a field is set to, it is read as its type, or one kind of error names it."""
    config = get_config().to_dict()
    refused = 0
    for where, group in list(groups_of(config)):
        for name, before in list(group.items()):
            for value in ODD:
                group[name] = value
                read = read_or_error(config)
                if isinstance(read, ConfigError):
                    assert f"{where}.{name}" in str(read), value
                    refused += 1
                    continue
                for part in f"{where}.{name}".split(".")[1:]:
                    read = getattr(read, part)
                wanted = WITH_DEFAULTS.get(name, type(before))
                assert type(read) is wanted, (where, name, value)
                if isinstance(read, tuple):
                    assert {type(each) for each in read} <= {str, float}
            group[name] = before
    assert refused > 1000


def test_fields_on_the_command_line(tmp_path) -> None:
    options = parse([f"--config={REPOSITORY / 'configs' / 'demo.py'}", "--workdir=w", "--config.loss.terms=('mps',)"])
    settings = TrainSettings.from_config(options.config)
    assert settings.loss.terms == ("mps",)
    assert options.workdir == Path("w")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config.mesh.data=3"],
            "config.mesh: data=3, fsdp=1, tensor=1 make 3 devices, and there are 8 cpu devices; set",
        ),
        (["--config.data.name=nothing"], "no prepared data set nothing there"),
        (["--config.data.split=nothing"], "split nothing: cannot be opened"),
        (["--config.loss.terms=('tsc',)", "--config.data.name=nothing"], "('tsc',) are not among tcs, mps"),
        (["--config.init=/nowhere"], "/nowhere: no checkpoint here"),
        (["--config.optimizer.warmup_steps=100"], "config.optimizer.warmup_steps=100 does not fit in a run of 12"),
        (["--config.evaluation.every_steps=1", "--config.evaluation.dataset=koko"], "did you mean coco"),
        (
            ["--config.evaluation.every_steps=1", "--config.evaluation.mode=best"],
            "config.evaluation.mode='best' is unknown",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_compiles(config, tmp_path, flags, message: str, capsys) -> None:
    assert main(["train", f"--config={config}", f"--workdir={tmp_path / 'run'}", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path) -> None:
    """The step and the samples are named, and the last good checkpoint stays."""
    status, _, err = run(
        config, tmp_path / "run", "--config.optimizer.learning_rate=1e30", "--config.checkpoint.every_steps=1"
    )
    assert status == 2
    assert "gradient norm" in err
    assert "Samples of this process's batch: " in err
    assert "Traceback" not in err
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()}
    named = int(err.split("step ")[-1].split(":")[0]) if "error: step" in err else 99
    assert kept
    assert max(kept) < named
