"""Settings with which a training step that does not fit may fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
    """Changes of settings and their plans, the last of which fits if any does; [] if nothing is left to change.

    In the order of their cost: rematerialisation, sharding the state, smaller loss blocks, gradient accumulation. Of
    the policies of rematerialisation that fit, the last is the fastest by the compiler's estimate: what is kept costs
    time, too.

    Args:
      plan: plans with fields of the configuration changed, by dotted names.
      settings: those that do not fit.
      chips: in the topology.
    """
    policies = REMAT_POLICIES[REMAT_POLICIES.index(settings.remat) + 1 :]
    tried = _fastest_last(plan, [{"remat": name} for name in policies])
    changes = tried[-1][0] if tried else {}
    for step in _further(settings, chips):
        if tried and tried[-1][1].fits:
            break
        changes = {**changes, **step}
        tried.append((changes, plan(changes)))
    return tried


def _fastest_last(plan: Callable[[Changes], Plan], choices: Sequence[Changes]) -> list[tuple[Changes, Plan]]:
    """Of choices that take less and less memory, those that fit and the first that does not, the fastest last."""
    tried: list[tuple[Changes, Plan]] = []
    for choice in reversed(choices):
        if tried and not tried[-1][1].fits:
            break
        tried.append((choice, plan(choice)))
    return sorted(tried, key=lambda each: (each[1].fits, -each[1].seconds if each[1].fits else 0.0))


def _further(settings: TrainSettings, chips: int) -> Iterator[Changes]:
    """What else takes less memory, each beside those before it."""
    if settings.mesh.fsdp == 1 and settings.mesh.tensor == 1 and chips > 1:
        yield {"mesh.data": 1, "mesh.fsdp": chips}
    if settings.loss.pairs_per_block > 1024:
        yield {"loss.pairs_per_block": 1024}
    part = settings.batch_size // settings.accumulation_steps
    for factor in (2, 4, 8, 16):
        if part % factor == 0 and (part // factor) % chips == 0:
            yield {"accumulation_steps": settings.accumulation_steps * factor}
