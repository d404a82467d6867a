"""`flair-jax plan`: plans of a configuration and its variations as tables and JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import ml_collections
from tqdm import tqdm

from flair_jax.errors import ConfigError
from flair_jax.parallel.sharding import AXES
from flair_jax.plan.changes import Changes, changes_that_fit
from flair_jax.plan.figures import Plan
from flair_jax.plan.steps import plan_scoring, plan_training
from flair_jax.plan.topology import find_topology
from flair_jax.settings import TrainSettings

_GIB = 2**30


class Planner:
    """A configuration on a topology, and variations of it."""

    def __init__(self, config: ml_collections.ConfigDict, topology: str, slices: int = 1, mesh: str = "") -> None:
        """Finds the topology.

        Args:
          config: of a training run.
          topology: see `find_topology`.
          slices: likewise.
          mesh: such as "data=64,fsdp=4", which overrides the configuration's; "" for none.

        Raises:
          ConfigError: if the topology or the mesh is unknown.
        """
        self._config = config
        self.topology = find_topology(topology, slices)
        for part in filter(None, mesh.split(",")):
            axis, _, size = part.partition("=")
            if axis not in AXES or not re.fullmatch(r"-?[0-9]{1,9}", size):
                raise ConfigError(f"--mesh {mesh}: expected sizes of {', '.join(AXES)}, as in data=64,fsdp=4")
            config.mesh[axis] = int(size)

    def settings(self, changes: Changes) -> TrainSettings:
        """The configuration with fields changed, by their dotted names."""
        config = ml_collections.ConfigDict(self._config)
        config.update_from_flattened_dict(changes)
        return TrainSettings.from_config(config)

    def training(self, changes: Changes) -> Plan:
        """Plans the training step."""
        return plan_training(self.settings(changes), self.topology)

    def scoring(self) -> Plan:
        """Plans the evaluation's scoring step."""
        return plan_scoring(self.settings({}), self.topology)


def as_json(plans: Sequence[Plan]) -> str:
    """Plans as JSON, with the figures that follow from them."""
    return json.dumps([_values(plan) for plan in plans], indent=2)


def _values(plan: Plan) -> dict[str, Any]:
    derived: dict[str, Any] = {"fits": plan.fits}
    if plan.bounds and plan.fits:
        derived |= {
            "binds": plan.binds,
            "seconds": plan.seconds,
            f"{plan.unit}s_per_second": plan.units / plan.seconds,
            "hours": plan.steps * plan.seconds / 3600 or None,
        }
    return dataclasses.asdict(plan) | derived


def show(plan: Plan) -> None:
    """Prints one plan."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    print(f"{plan.topology}: {plan.chips} chip(s), mesh {mesh}; {plan.units:,} {plan.unit}s a step. Each chip:")
    if plan.memory is None:
        print(f"  does not fit: {plan.too_large}")
        return
    for name, size in dataclasses.asdict(plan.memory).items():
        print(f"  {name:<16}{size / _GIB:>10.3f} GiB")
    print(f"  {'FLOPs':<16}{plan.flops / 1e12:>10.3f} T, {plan.useful_flops / 1e12:.3f} T without recomputing")
    for kind, size in plan.wire.items():
        print(f"  {kind:<24}{size / 1e6:>10.1f} MB sent")
    if not plan.bounds:
        print("  fits no chip in particular: the topology is CPUs")
        return
    for name, seconds in plan.bounds.items():
        print(f"  {'at full rate, ' + name:<28}{1000 * seconds:>10.2f} ms")
    print(f"  {'the compiler estimates':<28}{1000 * plan.compiler_seconds:>10.2f} ms, without waiting for others")
    print(f"fits; {plan.binds} binds; estimated: {plan.units / plan.seconds:,.0f} {plan.unit}s/s", end="")
    print(f", {plan.steps * plan.seconds / 3600:,.1f} hours for {plan.steps:,} steps" if plan.steps else "")


def show_changes(planner: Planner) -> None:
    """Prints which settings would fit."""
    tried = changes_that_fit(planner.training, planner.settings({}), len(planner.topology.devices))
    for changes, plan in tried:
        flags = " ".join(f"--config.{name}={value}" for name, value in changes.items())
        print(f"  {flags}: {'fits, ' + _total(plan) if plan.fits else 'does not fit: ' + plan.too_large}")
    if not tried or not tried[-1][1].fits:
        print("none of these fits: take more chips or a smaller batch")


def _total(plan: Plan) -> str:
    return f"{plan.memory.total / _GIB:.1f} GiB" if plan.memory else "-"


def sweep(planner: Planner, words: Sequence[str], *, json: bool) -> None:
    """Prints a line for each combination of values.

    Args:
      planner: the configuration.
      words: FIELD=VALUE,VALUE...; () for batch sizes, parameter sharding and rematerialisation.
      json: print JSON instead.

    Raises:
      ConfigError: if a word is not of that form, or a field does not exist.
    """
    fields = dict(_values_of(planner, word) for word in words) or _usual(planner)
    combinations = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
    plans: list[tuple[Changes, Plan]] = []
    for changes in tqdm(combinations, desc="plan", unit="step"):
        if "mesh.fsdp" in changes:
            changes["mesh.data"] = -1
        plans.append((changes, planner.training(changes)))
    if json:
        print(as_json([plan for _, plan in plans]))
        return
    names = list(fields)
    print("".join(f"{name:<16}" for name in names) + f"{'memory':>10}{'est. ms':>10}{'images/s':>10}  binds")
    for changes, plan in plans:
        row = "".join(f"{changes[name]!s:<16}" for name in names) + f"{_total(plan):>10}"
        if plan.fits and plan.bounds:
            row += f"{1000 * plan.seconds:>10.1f}{plan.units / plan.seconds:>10,.0f}  {plan.binds}"
        print(row if plan.fits else f"{row}  does not fit: {plan.too_large}")


def _usual(planner: Planner) -> dict[str, list[int | str]]:
    settings, chips = planner.settings({}), len(planner.topology.devices)
    batch = settings.batch_size
    sizes: list[int | str] = [
        size for size in (batch // 2, batch, 2 * batch) if size % chips == 0 and size % settings.group_size == 0
    ]
    return {
        "batch_size": sizes or [batch],
        "mesh.fsdp": [*sorted({1, chips // settings.mesh.tensor})],
        "remat": ["none", "dots", "full"],
    }


def _values_of(planner: Planner, word: str) -> tuple[str, list[int | str]]:
    """A field's name and the values to plan with, of the type that the field has."""
    name, _, values = word.partition("=")
    current: Any = planner.settings({})
    for part in name.split("."):
        current = getattr(current, part, None)
    if not isinstance(current, (int, str)) or not values:
        raise ConfigError(f"--sweep {word}: expected a field of the configuration and values, as in remat=dots,full")
    try:
        return name, [type(current)(value) for value in values.split(",")]
    except ValueError:
        raise ConfigError(f"--sweep {word}: config.{name} is a {type(current).__name__}") from None
