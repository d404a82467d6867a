"""A step's cost by part of the model, from the names that JAX gives its operations."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from flair_jax.plan.costs import OperationCost

# The first that is found in an operation's name decides; what is found in none is the optimiser's or of no part.
_WHERE = (
    ("pooling", re.compile(r"\bpooling\b")),
    ("vision", re.compile(r"\bvision\b")),
    ("text", re.compile(r"\btext\b")),
    ("loss", re.compile(r"\bjvp\(|\bshard_map\b")),
)
_WHAT = (
    ("attention, projections", re.compile(r"/attention/((query|key|value|out)\b|dot_general$)")),
    ("attention", re.compile(r"/attention/")),
    ("MLP", re.compile(r"/mlp/")),
    ("LayerNorm and residual", re.compile(r"/ln_\w+/|/add(_any)?$")),
)
_RECOMPUTED = "rematted_computation"


@dataclasses.dataclass(frozen=True)
class Part:
    """What a part of the model costs in one step, on one chip.

    Attributes:
      where: "vision", "text", "pooling", "loss" or "optimiser and rest".
      what: "attention", "attention, projections", "attention, copies", "MLP", "LayerNorm and residual", "copies" or
        "rest".
      seconds: by the compiler's estimate, kernels counted.
      recomputed: of these, what rematerialisation computes again.
      roofline: seconds at the chip's peak rates, operation by operation.
      flops: of matrix products.
      moved: bytes to and from the chip's memory.
    """

    where: str
    what: str
    seconds: float = 0.0
    recomputed: float = 0.0
    roofline: float = 0.0
    flops: float = 0.0
    moved: float = 0.0


def parts_of(costs: Iterable[OperationCost]) -> tuple[Part, ...]:
    """The parts, the slowest by the compiler's estimate first; they add up to the whole program."""
    parts: dict[tuple[str, str], Part] = {}
    for cost in costs:
        key = _part(cost)
        part = parts.get(key, Part(*key))
        parts[key] = dataclasses.replace(
            part,
            seconds=part.seconds + cost.seconds,
            recomputed=part.recomputed + cost.seconds * (_RECOMPUTED in cost.op_name),
            roofline=part.roofline + cost.roofline,
            flops=part.flops + cost.flops,
            moved=part.moved + cost.moved,
        )
    return tuple(sorted(parts.values(), key=lambda part: (-part.seconds, -part.roofline)))


def _part(cost: OperationCost) -> tuple[str, str]:
    where = next((name for name, pattern in _WHERE if pattern.search(cost.op_name)), "optimiser and rest")
    if cost.kind.startswith("copy"):
        return where, "attention, copies" if "/attention/" in cost.op_name else "copies"
    if where not in ("vision", "text"):
        return where, "rest"
    return where, next((name for name, pattern in _WHAT if pattern.search(cost.op_name)), "rest")
