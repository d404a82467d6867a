"""Plans over combinations of values of a configuration's fields."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from flair_jax.errors import ConfigError
from flair_jax.models.config import REMAT_POLICIES
from flair_jax.plan.changes import Changes
from flair_jax.plan.figures import Plan
from flair_jax.plan.planner import Planner


def sweep(planner: Planner, words: Sequence[str]) -> list[tuple[Changes, Plan]]:
    """Each combination of values, and its plan.

    Args:
      planner: the configuration.
      words: FIELD=VALUE,VALUE...; () for batch sizes, parameter sharding and rematerialisation.

    Raises:
      ConfigError: if a word is not of that form, or a field does not exist.
    """
    fields = dict(_values_of(planner, word) for word in words) or _usual(planner)
    plans: list[tuple[Changes, Plan]] = []
    for values in itertools.product(*fields.values()):
        changes = dict(zip(fields, values, strict=True))
        if "mesh.fsdp" in changes:
            changes["mesh.data"] = -1
        plans.append((changes, planner.training(changes)))
    return plans


def show_sweep(plans: Sequence[tuple[Changes, Plan]]) -> None:
    """Prints a line for each combination."""
    names = [name for name in plans[0][0] if name != "mesh.data" or "mesh.fsdp" not in plans[0][0]]
    heads = f"{'memory':>10}{'est. ms':>10}{'roofline':>10}{'images/s':>10}"
    print("".join(f"{name:<16}" for name in names) + heads + "  binds")
    for changes, plan in plans:
        row = "".join(f"{changes[name]!s:<16}" for name in names)
        row += f"{plan.memory.total / 2**30:.1f} GiB".rjust(10) if plan.memory else f"{'-':>10}"
        if plan.estimates:
            compiler, roofline = plan.estimates["compiler"], plan.estimates["roofline"]
            row += f"{1000 * compiler.seconds:>10.1f}{1000 * roofline.seconds:>10.1f}"
            row += f"{compiler.units_per_second:>10,.0f}  {plan.binds}"
        print(row if plan.fits else f"{row}  does not fit: {plan.too_large}")


def _usual(planner: Planner) -> dict[str, list[int | float | str]]:
    settings, chips = planner.settings({}), len(planner.topology.devices)
    batch = settings.batch_size
    sizes: list[int | float | str] = [
        size for size in (batch // 2, batch, 2 * batch) if size % chips == 0 and size % settings.group_size == 0
    ]
    return {
        "batch_size": sizes or [batch],
        "mesh.fsdp": [*sorted({1, chips // settings.mesh.tensor})],
        "remat": list(REMAT_POLICIES),
    }


def _values_of(planner: Planner, word: str) -> tuple[str, list[int | float | str]]:
    """A field's name and the values to plan with, of the type that the field has."""
    name, _, values = word.partition("=")
    current: Any = planner.settings({})
    for part in name.split("."):
        current = getattr(current, part, None)
    if not isinstance(current, (int, float, str)) or not values:
        raise ConfigError(f"--sweep {word}: expected a field of the configuration and values, as in remat=dots,full")
    try:
        return name, [type(current)(value) for value in values.split(",")]
    except ValueError:
        raise ConfigError(f"--sweep {word}: config.{name} is a {type(current).__name__}") from None
