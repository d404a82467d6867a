"""Plans of the scoring step of models with modules of their own."""

import dataclasses

import pytest
from own_modules import GatedMean

from flair_jax.models.flair import Flair
from flair_jax.plan import find_topology
from flair_jax.plan.steps import plan_scoring
from flair_jax.settings import TrainSettings
from flair_jax.train import parse_config


@pytest.mark.parametrize("own", [False, True])
def test_useful_flops_of_a_pooling_of_ones_own_are_what_is_traced(small_config, monkeypatch, own: bool) -> None:
    monkeypatch.setattr("flair_jax.plan.steps._TEXTS", 640)
    monkeypatch.setattr("flair_jax.plan.steps.compile_step", lambda step, *_: step)
    settings = TrainSettings.from_config(parse_config(["--config=cc3m_recap"]))
    compute = {name: getattr(settings, name) for name in ("dtype", "remat", "unroll", "attention")}
    config = dataclasses.replace(small_config, **compute)
    settings = dataclasses.replace(settings, evaluation=dataclasses.replace(settings.evaluation, batch_size=4))
    model = Flair(config, pooling=GatedMean()) if own else Flair(config)
    step = plan_scoring(settings, find_topology("cpu:2"), model=model)
    assert (step.unit, step.units) == ("pair", 4 * 640)
    assert (step.useful_flops is None) == own
    assert step.function.lower(*step.arguments).out_info.shape == (4, 640)
