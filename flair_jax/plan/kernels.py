"""Custom kernels (Pallas) in a compiled program, for which the TPU compiler estimates no time."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flair_jax
from flair_jax.plan.operations import Computation, Operation

_BACKEND = re.compile(r"\bbackend_config=(?=\{)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# The smallest topology of each kind for which a kernel alone is compiled.
_ALONE = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A custom kernel of the program.

    Attributes:
      name: of the function that calls it, and after a slash the operation's in the program.
      times: how often it runs.
      seconds: of all these runs; 0 if not counted.
      flops: that its author states (`pallas_call(cost_estimate=)`), of all these runs; 0 if none are stated.
      counted_by: "schedule", where the bundles of the compiler's schedule were counted; "cost estimate", where only the
        author's is there; "" if it is not counted.
    """

    name: str
    times: int
    seconds: float
    flops: float
    counted_by: str


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """One run of a kernel: cycles of its schedule (None if not known), and FLOPs and bytes that its author states."""

    cycles: int | None
    flops: float
    moved: float


def is_kernel(operation: Operation) -> bool:
    """Whether an operation is a kernel of Pallas for TPU."""
    return operation.kind == "custom-call" and 'custom_call_target="tpu_custom_call"' in operation.line


def kernel_name(name: str, operation: Operation) -> str:
    """See `Kernel`."""
    found = _OP_NAME.search(operation.line)
    function = next((part for part in reversed((found[1] if found else "").split("/")) if part != "pallas_call"), "")
    return f"{function}/{name}" if function else name


def kernel_costs(calls: Sequence[tuple[Operation, Computation]], chip: str) -> list[KernelCost]:
    """What each of these kernels costs; equal ones are compiled once.

    Args:
      calls: kernels, each with the computation that it belongs to.
      chip: such as "v5e".
    """
    asked = [_asked(operation, others) for operation, others in calls]
    distinct = tuple(dict.fromkeys(asked))
    cycles = dict(zip(distinct, _scheduled(distinct, _ALONE.get(chip, "")), strict=True))
    stated = [json.loads(each)["config"]["custom_call_config"].get("cost_estimate", {}) for each in asked]
    return [
        KernelCost(cycles[each], float(cost.get("flops", 0)), float(cost.get("bytes_accessed", 0)))
        for each, cost in zip(asked, stated, strict=True)
    ]


def _asked(operation: Operation, others: Computation) -> str:
    """What `flair_jax.plan.schedule` is asked for a kernel, as JSON."""
    found = _BACKEND.search(operation.line)
    backend: dict[str, Any] = json.JSONDecoder().raw_decode(operation.line, found.end())[0] if found else {}
    config = {name: backend[name] for name in ("custom_call_config", "scoped_memory_configs") if backend.get(name)}
    arrays = [array for name in operation.operands for array in others[name].results]
    return json.dumps(
        {
            "config": {"custom_call_config": {}, **config},
            "operands": [(array.dtype, array.shape) for array in arrays],
            "results": [(array.dtype, array.shape) for array in operation.results],
        },
        sort_keys=True,
    )


@functools.cache
def _scheduled(kernels: tuple[str, ...], topology: str) -> list[int | None]:
    """Cycles of kernels, in a process that loads the compiler with the flags by which it writes its schedules."""
    if not kernels or not topology:
        return [None] * len(kernels)
    package = str(Path(flair_jax.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "flair_jax.plan.schedule"],
        input=json.dumps({"topology": topology, "kernels": [json.loads(kernel) for kernel in kernels]}),
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is read from there has no schedule
            "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else [None] * len(kernels)
