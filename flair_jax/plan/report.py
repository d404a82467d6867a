"""Plans as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from flair_jax.errors import plural
from flair_jax.plan.changes import Changes, in_words
from flair_jax.plan.figures import Plan
from flair_jax.plan.parts import Part

_GIB = 2**30
_ESTIMATES = {
    "compiler": "the compiler's estimate",
    "roofline": "roofline, by operation",
    "floor": "floor: useful FLOPs",
}


def as_json(plans: Sequence[tuple[Changes, Plan]]) -> str:
    """Plans as JSON, each with the changes that it has against the configuration and the figures that follow."""
    return json.dumps([_values(plan) | {"changes": changes} for changes, plan in plans], indent=2)


def _values(plan: Plan) -> dict[str, Any]:
    derived: dict[str, Any] = {"fits": plan.fits}
    estimates = plan.estimates
    if estimates:
        derived |= {
            "binds": plan.binds,
            "seconds": plan.seconds,
            f"{plan.unit}s_per_second": estimates["compiler"].units_per_second,
            "hours": estimates["compiler"].hours,
            "estimates": {name: estimate._asdict() for name, estimate in estimates.items()},
        }
    return dataclasses.asdict(plan) | derived


def show_all(plans: Sequence[tuple[Changes, Plan]], *, parts: bool) -> None:
    """Prints each plan with the changes that it has, and `parts` of those that fit."""
    for changes, plan in plans:
        if changes:
            print(f"with {in_words(changes)}")
        show(plan)
        if parts and plan.parts and plan.fits:
            show_parts(plan)
    if not any(plan.fits for _, plan in plans if plan.unit == "image"):
        print("none of these fits: take more chips or a smaller batch")


def show(plan: Plan) -> None:
    """Prints one plan."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    chips, units = plural(plan.chips, "chip"), plural(plan.units, plan.unit)
    print(f"{plan.topology}: {chips}, mesh {mesh}; {units} a step. Each chip:")
    if plan.memory is None:
        print(f"  does not fit: {plan.too_large}")
        return
    if plan.settings:
        print("  with " + ", ".join(f"{name}={value}" for name, value in plan.settings.items()))
    for name, size in dataclasses.asdict(plan.memory).items():
        print(f"  {name:<16}{size / _GIB:>10.3f} GiB")
    print(f"  {'FLOPs':<16}{plan.flops / 1e12:>10.3f} T executed, {plan.useful_flops / 1e12:.3f} T useful")
    for kind, size in plan.wire.items():
        print(f"  {kind:<24}{size / 1e6:>10.1f} MB sent")
    if plan.bounds:
        _show_times(plan)
    else:
        print("  fits no chip in particular: the topology is CPUs")
    for words in plan.not_counted:
        print(f"  not counted: {words}")


def _show_times(plan: Plan) -> None:
    for name, seconds in plan.bounds.items():
        print(f"  {'at full rate, ' + name:<28}{1000 * seconds:>10.2f} ms")
    for kernel in plan.kernels:
        counted = f"by its {kernel.counted_by}" if kernel.counted_by else "not counted"
        print(f"  kernel {kernel.name} x {kernel.times}: {1000 * kernel.seconds:.2f} ms, {counted}")
    print(f"  {'a step':<28}{'ms':>10}{'MFU':>8}{'HFU':>8}{plan.unit + 's/s':>16}" + ("   hours" if plan.steps else ""))
    for name, estimate in plan.estimates.items():
        row = f"  {_ESTIMATES[name]:<28}{1000 * estimate.seconds:>10.2f}{estimate.mfu:>8.1%}{estimate.hfu:>8.1%}"
        print(f"{row}{estimate.units_per_second:>16,.0f}" + (f"{estimate.hours:>8,.1f}" if estimate.hours else ""))
    print(f"fits; {plan.binds} binds; estimated: {plan.units / plan.seconds:,.0f} {plan.unit}s/s", end="")
    print(f", {plan.steps * plan.seconds / 3600:,.1f} hours for {plan.steps:,} steps" if plan.steps else "")


def show_parts(plan: Plan) -> None:
    """Prints what each part of the model costs; those below 0.1 % of the time are added up."""
    print(f"  {'part':<42}{'ms':>9}{'again':>9}{'roofline':>10}{'TFLOP':>8}{'GB':>8}")
    shown = [part for part in plan.parts if part.seconds >= plan.compiler_seconds / 1000]
    rest = [part for part in plan.parts if part not in shown]
    for name, parts in [*((f"{part.where}: {part.what}", [part]) for part in shown), ("all else", rest)]:
        total = [sum(values) for values in zip(*(_figures(part) for part in parts), strict=True)] or [0.0] * 5
        print(f"  {name:<42}{total[0]:>9.1f}{total[1]:>9.1f}{total[2]:>10.1f}{total[3]:>8.2f}{total[4]:>8.1f}")


def _figures(part: Part) -> tuple[float, ...]:
    return (
        *(1000 * each for each in (part.seconds, part.recomputed, part.roofline)),
        part.flops / 1e12,
        part.moved / 1e9,
    )
