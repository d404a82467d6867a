"""Runs with a model, an optimiser, a loss and samples of one's own: given in Python, or made by a configuration."""

import dataclasses
import functools
import json
import logging
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from numeric import assert_close
from runs import losses, run, write_config

import flair_jax
from flair_jax.cli import main
from flair_jax.configs.default import get_config
from flair_jax.data import Record, TfdsSource
from flair_jax.errors import AnotherRunError, CheckpointError, ConfigError
from flair_jax.models.flair import Flair
from flair_jax.plan import find_topology, plan_training
from flair_jax.settings import TrainSettings
from flair_jax.train import LossValues, make_loss, make_objects, parse_config, train
from flair_jax.train.identity import changes, describe_run

# Appended to a configuration file; the loss is a sigmoid loss of global features, so small that it is one line.
FACTORIES = """
import flax.linen as nn, jax, jax.numpy as jnp, optax
from flair_jax.models.flair import Flair
from flair_jax.models.pooling import Pooling
from flair_jax.train import LossValues

def my_loss(settings):
    def loss(model, params, features, key, teacher):
        def unit(x):
            return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

        count, captions = len(features.image), settings.captions_per_image
        logits = unit(features.image) @ unit(features.text).T / settings.extra["temperature"]
        own = jnp.arange(count * captions)[None] // captions == jnp.arange(count)[:, None]
        value = -jax.nn.log_sigmoid(jnp.where(own, logits, -logits)).sum() / count
        return LossValues(value, {"mine": value, "steps": jnp.float32(settings.steps)})

    return loss

def my_optimizer(settings):
    return optax.sgd(settings.extra["rates"]["all"], momentum=0.9)

class MyPooling(Pooling):  # a module of a file that Python cannot import
    width: int

    def setup(self):
        self.key = nn.Dense(self.width)

    def project_texts(self, text):
        return text

    def prepare_images(self, local):
        return self.key(local.mean(1))

    def pool_queries(self, query, images):
        return query * images[:, None]

def my_model(settings):
    config = settings.model_config()
    return Flair(config, pooling=MyPooling(config.embed_dim))

def my_sources(settings):
    from flair_jax.data import TfdsSource

    class Lower(TfdsSource):  # what a worker process cannot import comes by value
        def where(self, index):
            return f"mine {index}"

    return [Lower(settings.data.name, settings.data.dir, "train")]

_plain = get_config

def get_config():
    c = _plain()
    c.extra.temperature = 0.5
    c.extra.rates = {"all": 1e-3}
    c.factories.loss = my_loss
    return c
"""
ALL = """
_with_loss = get_config

def get_config():
    c = _with_loss()
    c.factories.model = my_model
    c.factories.optimizer = my_optimizer
    c.factories.sources = my_sources
    return c
"""


SHORT = """
_longer = get_config

def get_config():
    c = _longer()
    c.steps = 4
    c.optimizer.schedule = "constant"
    c.checkpoint.every_steps = 2
    return c
"""


def written(folder: Path, scenes: Path, *parts: str) -> Path:
    path = write_config(folder, scenes)
    path.write_text("".join([path.read_text(), *parts, SHORT]))
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory, scenes) -> Path:
    """A configuration file of 4 steps with a loss of its own."""
    return written(tmp_path_factory.mktemp("own"), scenes, FACTORIES)


def read(config: Path, *words: str) -> TrainSettings:
    return TrainSettings.from_config(parse_config([f"--config={config}", *words]))


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed_own(own, tmp_path_factory) -> Path:
    """Four steps with the file's loss, by the command."""
    workdir = tmp_path_factory.mktemp("own-run") / "run"
    status, out, err = run(own, workdir)
    assert status == 0, err
    assert "not our own: loss configuration_file.my_loss" in out + err
    return workdir


def test_a_configuration_files_loss_trains_and_its_terms_are_logged(undisturbed_own) -> None:
    lines = metrics(undisturbed_own)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["mine"] == line["loss"] for line in lines)
    assert lines[3]["loss"] < lines[0]["loss"]
    assert {line["steps"] for line in lines} == {4.0}, "the number of steps is known to the factory"
    assert not {"tcs", "mps"} & set(lines[0])


def test_it_is_resumed_bit_for_bit(own, undisturbed_own, tmp_path) -> None:
    workdir = Path(shutil.copytree(undisturbed_own, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "4")
    status, out, err = run(own, workdir)
    assert status == 0, err
    assert "resuming after step 2" in out + err
    assert losses(workdir) == losses(undisturbed_own)


def test_in_python_and_on_eight_devices_the_same_loss_gives_the_same_numbers(own, undisturbed_own, tmp_path) -> None:
    settings = read(own)
    outcome = train(settings, str(tmp_path / "run"), loss=settings.factories.loss(settings))
    assert outcome.finished
    for step, value in losses(undisturbed_own).items():  # sums in another order
        assert_close(losses(tmp_path / "run")[step], value, rtol=1e-5)


def test_all_four_by_the_command_with_workers(scenes, tmp_path) -> None:
    """Classes of the configuration file reach the worker processes; the optimiser's learning rate is not known."""
    everything = written(tmp_path, scenes, FACTORIES, ALL)
    flags = ("--config.steps=2", "--config.data.workers=2", "--config.extra.rates.all=0.002")
    status, out, err = run(everything, tmp_path / "run", *flags)
    assert status == 0, err
    for name in (
        "model configuration_file.my_model",
        "optimizer configuration_file.my_optimizer",
        "sources configuration_file.my_sources",
    ):
        assert name in out + err
    assert "learning_rate" not in metrics(tmp_path / "run")[0]
    with pytest.raises(
        CheckpointError, match=r"holds a model with pooling configuration_file.MyPooling, .* give load the model"
    ):
        flair_jax.load(tmp_path / "run")
    settings = read(everything)
    model, params = flair_jax.load(tmp_path / "run", model=settings.factories.model(settings))
    assert set(params["pooling"]) == {"key"}
    assert model.own_modules == {"pooling": "configuration_file.MyPooling"}


def test_a_locked_tower_keeps_its_weights_under_any_optimizer(own, tmp_path) -> None:
    settings = read(
        own,
        "--config.steps=2",
        "--config.optimizer.warmup_steps=0",
        "--config.lock=('text',)",
        "--config.checkpoint.every_steps=1",
    )
    decay = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
    path = train(settings, tmp_path / "run", optimizer=decay).checkpoint
    (_, first), (_, last) = flair_jax.load(path.parent / "1"), flair_jax.load(path)
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), first, last)
    assert all(jax.tree.leaves(same["text"]))
    assert not any(jax.tree.leaves(same["vision"]["blocks"]))


@pytest.fixture(scope="module")
def short(own, tmp_path_factory) -> tuple[TrainSettings, Path]:
    """Two steps with the file's loss."""
    settings = read(own, "--config.steps=2")
    workdir = tmp_path_factory.mktemp("short") / "run"
    train(settings, workdir)
    return settings, workdir


def other_loss(settings: TrainSettings):
    return make_loss(settings.loss, settings.group_size)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"extra": {"temperature": 0.7, "rates": {"all": 1e-3}}}, "config.extra.temperature was 0.5, is 0.7"),
        ({"extra": {"temperature": 0.5}}, "config.extra.rates.all was 0.001, is not set"),
        (
            {"extra": {"temperature": 0.5, "rates": {"all": 1e-3}, "more": ("a", 1)}},
            "config.extra.more was not set, is ['a', 1]",
        ),
        ({"loss": other_loss}, "the loss was configuration_file.my_loss, is test_objects.other_loss"),
        ({"loss": None}, "the loss was configuration_file.my_loss, is the standard one"),
        (
            {"optimizer": lambda settings: optax.sgd(0.1)},
            "the optimizer was the standard one, is test_objects.<lambda>",
        ),
    ],
)
def test_changes_are_named(short, changes, named: str) -> None:
    settings, workdir = short
    of_factories = {kind: value for kind, value in changes.items() if kind != "extra"}
    factories = dataclasses.replace(settings.factories, **of_factories)
    changed = dataclasses.replace(settings, extra=changes.get("extra", settings.extra), factories=factories)
    with pytest.raises(AnotherRunError) as caught:
        train(changed, workdir)
    assert caught.value.changes == named
    assert "--accept-changes" in str(caught.value)


def test_another_model_or_samples_are_named(short, scenes) -> None:
    settings, workdir = short
    with pytest.raises(
        AnotherRunError, match=r"the sources was the standard one, is flair_jax.data.sources.TfdsSource"
    ):
        train(settings, workdir, sources=[TfdsSource("scenes/small", scenes, "train")])
    larger = dataclasses.replace(settings.model_config(), embed_dim=32)
    with pytest.raises(AnotherRunError, match=r"config.model.embed_dim was 16, is 32"):
        train(settings, workdir, model=Flair(larger))


def test_a_change_of_objects_can_be_accepted(short, tmp_path, caplog) -> None:
    settings, workdir = short[0], Path(shutil.copytree(short[1], tmp_path / "run"))
    longer = dataclasses.replace(settings, steps=3)
    with caplog.at_level(logging.INFO, "flair_jax"):
        assert train(longer, workdir, loss=other_loss(settings), accept_changes=True).finished
    assert "the loss was configuration_file.my_loss, is flair_jax.train.losses.TermsLoss" in caplog.messages


def fail(settings):
    raise KeyError(settings.steps)


def returns(value):
    return lambda settings: value


@pytest.mark.parametrize(
    ("kind", "factory", "message"),
    [
        (
            "loss",
            fail,
            r"test_objects.py: config.factories.loss: test_objects.fail has failed in line \d+ .KeyError: 12",
        ),
        ("loss", functools.partial(fail), "test_objects.fail has failed"),
        ("loss", returns(3), "what test_objects.returns.<locals>.<lambda> returns must be a function.*, not int"),
        ("loss", returns(dict), "must be a function.*, not the class dict"),
        ("model", returns(None), "must be a flair_jax.Flair, not NoneType"),
        ("optimizer", returns(optax.sgd), "must be an optax.GradientTransformation, not function"),
        ("optimizer", returns(optax.constant_schedule(1.0)), "must be an optax.GradientTransformation, not function"),
    ],
)
def test_a_wrong_factory_is_one_sentence(config, kind: str, factory, message: str) -> None:
    settings = dataclasses.replace(read(config), steps=12)
    settings = dataclasses.replace(settings, factories=dataclasses.replace(settings.factories, **{kind: factory}))
    with pytest.raises(ConfigError, match=message) as caught:
        make_objects(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("made", [[], [3], Record(b"", []), {}])
def test_wrong_sources(config, tmp_path, made) -> None:
    settings = read(config)
    settings = dataclasses.replace(settings, factories=dataclasses.replace(settings.factories, sources=returns(made)))
    with pytest.raises(ConfigError, match=r"config.factories.sources: .* must be a list of flair_jax.data.Source, not"):
        train(settings, tmp_path / "run")


def test_wrong_objects(config, tmp_path) -> None:
    settings = read(config)
    with pytest.raises(ConfigError, match=r"^train\(model=...\) must be a flair_jax.Flair, not int"):
        train(settings, tmp_path / "run", model=3)
    with pytest.raises(ConfigError, match="config.dtype='float32', but the model that is given has dtype='bfloat16'"):
        train(settings, tmp_path / "run", model=Flair(dataclasses.replace(settings.model_config(), dtype="bfloat16")))


def test_a_batch_larger_than_the_data_is_warned_of(config, tmp_path, caplog) -> None:
    """At the start, in the words of the dry run; see test_train_dry_run.py."""
    for size in (8, 4096):
        with pytest.raises(ConfigError, match="must be a flair_jax.Flair"):
            train(read(config, f"--config.batch_size={size}"), tmp_path / "run", model=3)
    (message,) = caplog.messages
    assert re.fullmatch(
        r"a step takes 4,096 images, more than the \d+ samples: the same picture is in it several times, among its own "
        r"negatives; set config.batch_size to at most \d+",
        message,
    )


def test_at_the_command_line_it_is_one_line_and_the_traceback_on_demand(own, tmp_path, capsys, monkeypatch) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(own.read_text() + "\ndef my_loss(settings):\n    return 1 / 0\n")
    assert main(["train", f"--config={broken}", f"--workdir={tmp_path / 'run'}"]) == 2
    line = broken.read_text().splitlines().index("    return 1 / 0") + 1
    error = capsys.readouterr().err
    assert (
        f"{broken}: config.factories.loss: configuration_file.my_loss has failed in line {line} (ZeroDivisionError"
        in error
    )
    assert error.count("\n") == 1
    monkeypatch.setenv("FLAIR_JAX_TRACEBACK", "1")
    assert main(["plan", f"--config={broken}", "--topology=cpu:1"]) == 2
    assert "Traceback" in capsys.readouterr().err
    for flag in ("--config.factories.loss=3", "--config.factories=3"):
        assert main(["train", f"--config={own}", f"--workdir={tmp_path / 'run'}", flag]) == 2
        assert "is a function, which only a configuration file can set" in capsys.readouterr().err


def test_plans_take_the_same_objects(own, config, capfd) -> None:
    """By the command with a factory's loss, which has no pooling; in Python the standard one and another optimiser."""
    assert main(["plan", f"--config={own}", "--topology=cpu:2", "--json"]) == 0
    (mine,) = json.loads(capfd.readouterr().out)
    standard = plan_training(read(config), find_topology("cpu:2"), optimizer=optax.sgd(0.1))
    assert standard.memory.optimizer == 0
    assert mine["memory"]["optimizer"] > mine["memory"]["parameters"] == standard.memory.parameters
    assert mine["flops"] < standard.flops
    assert mine["useful_flops"] < standard.useful_flops


def test_the_object_given_goes_before_the_factory(own) -> None:
    settings = read(own)

    def mine(*_):
        return LossValues(jnp.zeros(()), {})

    objects = make_objects(settings, loss=mine)
    assert objects.loss is mine
    assert objects.names == {"loss": f"{__name__}.{mine.__qualname__}"}
    assert objects.schedule is not None


def test_a_run_from_before_there_were_such_settings_goes_on_without_a_word(config) -> None:
    """Except for what it could not have: fields and objects of one's own."""
    settings = read(config)
    now = describe_run(settings, 40)
    was = {name: value for name, value in now.items() if not name.startswith(("factories.", "loss.weights", "extra."))}
    assert changes(was, now, 3) == []
    given = describe_run(settings, 40, objects={"loss": "mine.loss", "sources": "mine.Source"})
    assert [str(change) for change in changes(was, given, 3)] == ["the loss was the standard one, is mine.loss"]
    fields = describe_run(dataclasses.replace(settings, extra={"a": {"b": None}}), 40)
    assert [str(change) for change in changes(was, fields, 3)] == ["config.extra.a.b was not set, is None"]
    assert all(change.of_identity for change in changes(was, fields, 3))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "config.extra.x=nan must be a finite number"),
        (
            [1, {"deep": object}],
            r"config.extra.x\[1\].deep=.* must be a number, a text, a boolean, None, or a tuple or",
        ),
        (jnp.ones(2), "config.extra.x=.* must be a number, a text"),
        ({"a.b": 1}, "config.extra.x: a field is named 'a.b'; names are texts without dots"),
    ],
)
def test_what_extra_cannot_hold_is_named(value, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainSettings.from_config({**get_config().to_dict(), "extra": {"x": value}})


def test_extra_on_the_command_line(own) -> None:
    """Fields that the file defines, of the type that they have there; lists become tuples, groups dicts."""
    settings = read(own, "--config.extra.temperature=2", "--config.extra.rates.all=0.1")
    assert settings.extra == {"temperature": 2.0, "rates": {"all": 0.1}}
    with pytest.raises(ConfigError, match=r"extra.rates.al: no such field; .* defines those of `extra`. .* \"all\""):
        read(own, "--config.extra.rates.al=0.1")
    config = {**get_config().to_dict(), "extra": {"sizes": [1, (2, "x")], "on": True, "none": None}}
    assert TrainSettings.from_config(config).extra == {"sizes": (1, (2, "x")), "on": True, "none": None}
