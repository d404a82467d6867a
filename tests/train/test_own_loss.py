"""A loss of one's own in the training step: with a teacher, in parts, and in the log."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_close

from flair_jax.configs.default import get_config
from flair_jax.errors import ConfigError
from flair_jax.models.normalize import normalize
from flair_jax.parallel.sharding import global_batch, make_mesh
from flair_jax.settings import TrainSettings
from flair_jax.train.flops import count_flops, step_flops
from flair_jax.train.losses import METRICS, LossValues, make_loss
from flair_jax.train.meter import Meter
from flair_jax.train.optim import make_optimizer
from flair_jax.train.step import Batch, StepMetrics, init_state, make_train_step


def distance_to_teacher(model, params, features, key, teacher) -> LossValues:
    """Mean squared distances to what the teacher sees."""
    image, text = (jnp.mean((getattr(features, name) - getattr(teacher, name)) ** 2) for name in ("image", "text"))
    return LossValues(image + 3 * text, {"image": image, "text": text})


def distance_to_nothing(model, params, features, key, teacher) -> LossValues:
    return distance_to_teacher(model, params, features, key, jax.tree.map(jnp.zeros_like, features))


def settings_for(**changes) -> TrainSettings:
    config = get_config()
    config.update(dtype="float32", batch_size=8, captions_per_image=2)
    config.loss.group_size = 4
    config.optimizer.warmup_steps = 1
    config.update_from_flattened_dict(changes)
    return TrainSettings.from_config(config)


class Step:
    """A step of the small model with a teacher whose parameters are others, or with none."""

    def __init__(self, small_model, loss=None, teacher: bool = True, devices: int = 1, **changes) -> None:
        self.model, self.params = small_model
        settings = settings_for(**changes)
        mesh = make_mesh(settings.mesh, jax.devices()[:devices])
        optimizer = make_optimizer(settings.optimizer, lambda step: 1e-3, ())
        self.teacher = jax.tree.map(lambda leaf: 0.9 * leaf, self.params)
        rng, size = np.random.default_rng(2), self.model.config.vision.image_size
        tokens = rng.integers(1, 400, (16, 8), dtype=np.int32)
        tokens[:, -1] = self.model.config.text.vocab_size - 1
        self.batch = Batch(rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8), tokens)
        self.mesh = mesh
        with jax.set_mesh(mesh):
            state = init_state(self.model, optimizer, mesh, 0, jax.tree.map(jnp.copy, self.params))
            self.arguments = (
                state._replace(ema=jax.tree.map(jnp.copy, self.teacher) if teacher else None),
                global_batch(self.batch, mesh),
            )
            self.step = jax.jit(make_train_step(self.model, optimizer, settings, loss=loss))

    def run(self) -> StepMetrics:
        with jax.set_mesh(self.mesh):
            return jax.device_get(self.step(*self.arguments)[1])

    def flops(self) -> float:
        with jax.set_mesh(self.mesh):
            return count_flops(self.step.trace(*self.arguments).jaxpr)

    def products(self) -> int:
        """Matrix products in the compiled program."""
        with jax.set_mesh(self.mesh):
            text = self.step.lower(*self.arguments).compile().as_text()
        return text.count(" dot(") + text.count(" convolution(")


@pytest.fixture(scope="module")
def expected(small_model) -> tuple[float, float]:
    at_once = Step(small_model, distance_to_teacher)
    measured = at_once.run()
    model, batch = at_once.model, at_once.batch
    pixels = normalize(batch.pixels)
    for name, encode, rows in (("image", model.encode_image, pixels), ("text", model.encode_text, batch.tokens)):
        ours, theirs = (encode(params, rows) for params in (at_once.params, at_once.teacher))
        ours, theirs = (ours[0], theirs[0]) if name == "image" else (ours, theirs)
        # Means of some hundred squares of differences, each of which loses a digit: measured 1e-6.
        assert_close(measured.terms[name], np.mean((np.asarray(ours) - theirs) ** 2), rtol=1e-5)
    assert_close(measured.loss, measured.terms["image"] + 3 * measured.terms["text"], rtol=1e-6)
    return measured.loss, measured.grad_norm


@pytest.mark.parametrize("devices", [1, 4])
def test_a_teacher_in_parts_is_the_teacher_at_once(small_model, expected, devices: int) -> None:
    """Within 1e-5, gradients 1e-4: sums run in another order."""
    measured = Step(small_model, distance_to_teacher, devices=devices, accumulation_steps=2).run()
    assert_close(measured.loss, expected[0], rtol=1e-5)
    assert_close(measured.grad_norm, expected[1], rtol=1e-4)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_teacher_that_nobody_asks_costs_nothing(small_model, parts: int) -> None:
    without, unused = (Step(small_model, teacher=teacher, accumulation_steps=parts) for teacher in (False, True))
    assert unused.flops() == without.flops()
    if parts > 1:  # the compiler has to find that a whole loop is of no use
        assert unused.products() == without.products() > 0
    used = Step(small_model, distance_to_teacher, accumulation_steps=parts)
    unasked = Step(small_model, distance_to_nothing, accumulation_steps=parts)
    assert used.flops() > unasked.flops()


class Log:
    def __init__(self) -> None:
        self.said, self.written = [], []

    def say(self, text: str) -> None:
        self.said.append(text)

    def write(self, step: int, values: dict) -> None:
        self.written.append(values)

    def advance(self, images: int) -> None:
        pass


def logged(model, loss, *metrics: StepMetrics) -> Log:
    log = Log()
    health = SimpleNamespace(step_done=lambda step: None, values=lambda: {"goodput": 0.5})
    meter = Meter(settings_for(), model, loss, lambda step: 1e-3, log, health)
    for number, each in enumerate(metrics):
        meter.add(number, each, type("Batch", (), {"samples": np.arange(8), "skipped": 0, "cut": 0}))
    meter.log(len(metrics))
    return log


def measured(loss: float, **terms: float) -> StepMetrics:
    return StepMetrics(np.float32(loss), {name: np.float32(term) for name, term in terms.items()}, 1.0, 10.0)


def test_terms_are_logged_under_their_names(small_model) -> None:
    log = logged(small_model[0], distance_to_teacher, measured(7, image=1, text=2), measured(11, image=2, text=3))
    (values,) = log.written
    assert (values["loss"], values["image"], values["text"]) == (9, 1.5, 2.5)
    (values,) = logged(small_model[0], distance_to_teacher, measured(4, part=2)).written
    assert (values["loss"], values["part"]) == (4, 2)
    (values,) = logged(small_model[0], distance_to_teacher, measured(4, mps=4)).written
    assert "mps" not in values


def test_every_metric_that_is_logged_is_known(small_model) -> None:
    (values,) = logged(small_model[0], distance_to_teacher, measured(4, part=2)).written
    assert values.keys() - {"part"} <= set(METRICS)


def returning(total, terms):
    return lambda model, params, features, key, teacher: LossValues(total(features), terms(features))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda model, params, features, key, teacher: features.image.mean(), "must return LossValues, not"),
        (returning(lambda f: f.image.mean(1), lambda f: {}), r"total must be a scalar .*, not float32 \[8\]"),
        (returning(lambda f: jnp.int32(3), lambda f: {}), r"total must be a scalar of floating point, not int32"),
        (
            returning(lambda f: f.image.mean(), lambda f: {"x": f.image.mean(1)}),
            r"term x must be a scalar, not float32",
        ),
        (returning(lambda f: f.image.mean(), lambda f: {"x": {"y": 1.0}}), "term x must be a scalar, not dict"),
        (returning(lambda f: f.image.mean(), lambda f: [f.image.mean()]), "a dict with texts as names"),
        (returning(lambda f: f.image.mean(), lambda f: {3: f.image.mean()}), "a dict with texts as names"),
        (returning(lambda f: f.image.mean(), lambda f: {"grad_norm": 1.0}), "a term named grad_norm, as another"),
    ],
)
def test_a_loss_that_returns_something_else_is_refused_when_it_is_traced(small_model, loss, words: str) -> None:
    step = Step(small_model, loss)
    with jax.set_mesh(step.mesh), pytest.raises(ConfigError, match=words):
        jax.eval_shape(step.step, *step.arguments)


def test_a_loss_without_flops_is_said_where_utilisation_is_measured(small_model, monkeypatch) -> None:
    model = small_model[0]
    standard = make_loss(settings_for().loss, 4)
    assert step_flops(model, 8, 2, distance_to_teacher) < step_flops(model, 8, 2, standard)
    assert not logged(model, distance_to_teacher, measured(1)).said
    monkeypatch.setattr("flair_jax.train.meter.peak_flops", lambda device: 1e12)
    log = logged(model, distance_to_teacher, measured(1))
    assert log.said == ["model_flops_utilisation counts the towers alone: the loss has no method `flops`"]
    assert log.written[0]["model_flops_utilisation"] > 0
    assert not logged(model, standard, measured(1)).said
