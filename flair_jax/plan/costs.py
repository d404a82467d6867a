"""What each operation of a compiled program costs on a chip: by the compiler's estimate, and at peak rates."""

from __future__ import annotations

import re
from typing import NamedTuple

from flair_jax.plan.hlo import estimated_cycles
from flair_jax.plan.kernels import Kernel, is_kernel, kernel_costs, kernel_name
from flair_jax.plan.operations import Computations, Operation, Run, read_operations
from flair_jax.plan.products import product_flops
from flair_jax.plan.traffic import moved_bytes
from flair_jax.train.flops import Chip

_OP_NAME = re.compile(r'op_name="([^"]*)"')


class OperationCost(NamedTuple):
    """All runs of an operation in one run of the program, on one chip.

    Attributes:
      kind: of HLO, such as "fusion" or "copy".
      op_name: path of the JAX operation that it comes from, such as "jit(step)/.../mlp/dot_general"; "" if not stated.
      seconds: by the compiler's estimate, or by a kernel's schedule; 0 if neither is there.
      roofline: seconds at the chip's peak rates: of its FLOPs, or of its bytes where those take longer.
      flops: of its matrix products.
      moved: bytes to and from the chip's memory.
    """

    kind: str
    op_name: str
    seconds: float
    roofline: float
    flops: float
    moved: float


def program_costs(text: str, chip: Chip) -> tuple[list[OperationCost], list[Kernel]]:
    """The costs of each operation, and the custom kernels among them.

    Args:
      text: optimised HLO of one device's program, as `compiled.as_text()` gives it.
      chip: that it is compiled for.

    Raises:
      ValueError: see `read_program`.
    """
    parsed, found = read_operations(text)
    runs = list(found)
    kernels = [run for run in runs if is_kernel(run.operation)]
    costs = [_cost(run, parsed, chip) for run in runs if not is_kernel(run.operation)]
    counted: list[Kernel] = []
    stated = kernel_costs([(run.operation, run.computation) for run in kernels], chip.name)
    for run, kernel in zip(kernels, stated, strict=True):
        moved = kernel.moved or moved_bytes(run.operation, run.computation, parsed)
        roofline = run.times * max(kernel.flops / chip.flops, moved / chip.memory_bandwidth)
        by = "schedule" if kernel.cycles is not None else "cost estimate" if kernel.flops or kernel.moved else ""
        seconds = max(run.times * (kernel.cycles or 0) / chip.clock, roofline) if by else 0.0
        name = kernel_name(run.name, run.operation)
        counted.append(Kernel(name, run.times, seconds, run.times * kernel.flops, by))
        source = _op_name(run.operation, parsed)
        costs.append(
            OperationCost("kernel", source, seconds, roofline, run.times * kernel.flops, float(run.times * moved))
        )
    return costs, counted


def _cost(run: Run, parsed: Computations, chip: Chip) -> OperationCost:
    operation = run.operation
    flops = run.times * product_flops(operation, run.computation, parsed)
    moved = float(run.times * moved_bytes(operation, run.computation, parsed))
    seconds = run.times * estimated_cycles(operation.line) / chip.clock
    roofline = max(flops / chip.flops, moved / chip.memory_bandwidth)
    return OperationCost(operation.kind, _op_name(operation, parsed), seconds, roofline, flops, moved)


def _op_name(operation: Operation, parsed: Computations) -> str:
    """Its own, or the last within a fusion."""
    own = _OP_NAME.search(operation.line)
    if own or operation.kind != "fusion":
        return own[1] if own else ""
    inner = [_op_name(each, parsed) for each in parsed[operation.called].values()]
    return next(filter(None, reversed(inner)), "")
