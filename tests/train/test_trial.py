"""Objects of one's own that are wrong: one sentence says whose they are and where, before anything is compiled."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from small_run import settings

from flair_jax import Flair, Pooling
from flair_jax.errors import ConfigError
from flair_jax.parallel import make_mesh
from flair_jax.train import TERMS, LossValues, Term, make_loss, make_objects
from flair_jax.train.trial import try_out


def try_one(folder, **given) -> None:
    run = settings(folder)
    with jax.set_mesh(make_mesh(run.mesh, jax.devices()[:1])):
        try_out(make_objects(run, **given), run)


class Fits(Pooling):
    """Compact methods with parameters of several shapes."""

    @nn.compact
    def project_texts(self, text):
        return nn.Dense(7, name="query")(text)

    @nn.compact
    def prepare_images(self, local):
        return {"mean": local.mean(axis=1) + self.param("odd", nn.initializers.zeros, (3, 5)).sum()}

    def pool_queries(self, query, images):
        return images["mean"][:, None] + query.sum(-1, keepdims=True)


class Narrow(Fits):
    def pool_queries(self, query, images):
        return query


class Random(Fits):
    @nn.compact
    def prepare_images(self, local):
        return {"mean": nn.Dropout(0.5, deterministic=False)(local).mean(axis=1)}


class Running(Fits):
    @nn.compact
    def prepare_images(self, local):
        return {"mean": nn.BatchNorm(use_running_average=False)(local).mean(axis=1)}


class Tower(nn.Module):
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images):
        local = nn.Conv(self.width, (8, 8), strides=8)(images).reshape(len(images), -1, self.width)
        return local.mean(axis=1).astype(self.dtype), local


class Letters(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Embed(64, 8)(tokens)


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ({"pooling": Narrow()}, r"the pooling .*pool_queries returns must be float32 [8, 2, 8], not float32 [8, 2, 7]"),
        ({"pooling": Random()}, r"Random has failed in .*InvalidRngError"),
        ({"pooling": Running()}, r"the pooling has failed (it has batch_stats; a module may have parameters, and no"),
        ({"vision": Tower(9)}, r"the vision tower .*its global token must be float32 [8, 8], not float32 [8, 9]"),
        ({"vision": Tower(8, "bfloat16")}, r"must be float32 [8, 8], not bfloat16 [8, 8]"),
        ({"text": Letters()}, r"the text tower .*must be float32 [16, 8], not float32 [16, 16, 8]"),
    ],
)
def test_modules(tmp_path, modules, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words).replace(r"\.\*", ".*")):
        try_one(tmp_path, model=Flair(settings(tmp_path).model_config(), **modules))


def test_modules_that_fit(tmp_path) -> None:
    """The tower has 16 local tokens, where the description's patches would be 4."""
    try_one(tmp_path, model=Flair(settings(tmp_path).model_config(), vision=Tower(8), pooling=Fits()))


@pytest.mark.parametrize(
    ("share", "flops", "words"),
    [
        (
            lambda context: context.own.image.mean(axis=1),
            0.0,
            r"share of the term mine must be a .*, not float32 \[8\]",
        ),
        (lambda context: None, 0.0, "share of the term mine must be a float32 scalar, not NoneType"),
        (lambda context: lambda group: group.target, 0.0, "share of the term mine must be a float32 scalar"),
        (lambda context: context.nothing, 0.0, r"test_trial.py, line \d+ \(AttributeError"),
        (lambda context: context.own.image.sum(), -1e30, r"flops has failed \(a number that is not negative"),
    ],
)
def test_terms(tmp_path, share, flops: float, words: str) -> None:
    run = settings(tmp_path, **{"loss.terms": ("tcs", "mine")})
    table = {**TERMS, "mine": Term(share, lambda sizes, group_size: flops)}
    with pytest.raises(ConfigError, match=words):
        try_one(tmp_path, loss=make_loss(run.loss, run.group_size, table=table))


def test_a_sampler_that_draws_too_few(tmp_path) -> None:
    """JAX takes the last of what there is for an index beyond it, so this would train on other captions."""
    run = settings(tmp_path)
    with pytest.raises(ConfigError, match=r"must draw \[5\] captions .*, not \[3\]"):
        try_one(tmp_path, loss=make_loss(run.loss, run.group_size, sampler=lambda key, group, row: jnp.arange(3)))


def test_losses(tmp_path) -> None:
    def no_teacher(model, params, features, key, teacher):
        return LossValues(teacher.image.mean(), {})

    with pytest.raises(
        ConfigError, match=r"no_teacher has failed in .*test_trial.py, line \d+ \(AttributeError"
    ) as found:
        try_one(tmp_path, loss=no_teacher)
    assert isinstance(found.value.__cause__, AttributeError)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.polyak_sgd(),
        optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau()),
        optax.MultiSteps(optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau()), 2),
        optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(1e-3, 0, 9)),
        optax.contrib.prodigy(),
    ],
)
def test_optimizers_that_fit(tmp_path, optimizer) -> None:
    """Some ask for the loss, and one is no transformation but makes one."""
    try_one(tmp_path, optimizer=optimizer)


def test_optimizers(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"the optimizer .* has failed \(TypeError: .*value_fn"):
        try_one(tmp_path, optimizer=optax.lbfgs())
    grows = optax.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, (*state, 0)))
    with pytest.raises(ConfigError, match="after an update, its state must have the shapes and dtypes of before"):
        try_one(tmp_path, optimizer=grows)
