"""Settings with which a training step that does not fit may fit."""

from __future__ import annotations

from collections.abc import Callable

from flair_jax.models.config import REMAT_POLICIES
from flair_jax.plan.figures import Plan
from flair_jax.settings import TrainSettings

# Fields of a configuration, by their dotted names, and their values instead.
Changes = dict[str, int | float | str]


def in_words(changes: Changes) -> str:
    """Changes as flags of the command line."""
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())


def changes_that_fit(
    plan: Callable[[Changes], Plan], settings: TrainSettings, chips: int
) -> list[tuple[Changes, Plan]]:
    """Cumulative changes of settings and their plans, up to the first that fits; [] if nothing is left to change.

    In the order of their cost: rematerialisation, sharding the state, smaller loss blocks, gradient accumulation.

    Args:
      plan: plans with fields of the configuration changed, by dotted names.
      settings: those that do not fit.
      chips: in the topology.
    """
    steps: list[Changes] = []
    steps += [{"remat": name} for name in REMAT_POLICIES[REMAT_POLICIES.index(settings.remat) + 1 :]]
    if settings.mesh.fsdp == 1 and settings.mesh.tensor == 1 and chips > 1:
        steps.append({"mesh.data": 1, "mesh.fsdp": chips})
    if settings.loss.pairs_per_block > 1024:
        steps.append({"loss.pairs_per_block": 1024})
    part = settings.batch_size // settings.accumulation_steps
    steps += [
        {"accumulation_steps": settings.accumulation_steps * factor}
        for factor in (2, 4, 8, 16)
        if part % factor == 0 and (part // factor) % chips == 0
    ]
    tried: list[tuple[Changes, Plan]] = []
    changes: Changes = {}
    for step in steps:
        changes = {**changes, **step}
        tried.append((changes, plan(changes)))
        if tried[-1][1].fits:
            break
    return tried
