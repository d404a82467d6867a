"""Compiles a step ahead of time, and reads from the program what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from flair_jax.plan.costs import OperationCost, program_costs
from flair_jax.plan.figures import Memory, Plan
from flair_jax.plan.hlo import read_program
from flair_jax.plan.kernels import Kernel
from flair_jax.plan.parts import parts_of
from flair_jax.plan.programs import CompiledProgram, compile_program
from flair_jax.plan.topology import Topology
from flair_jax.train.flops import Chip, count_flops


class Step(NamedTuple):
    """A step to compile.

    Attributes:
      function: the step, jitted.
      arguments: trees of `jax.ShapeDtypeStruct` with shardings.
      parameters: the arguments that count as parameters in `Memory`.
      optimizer: likewise.
      batch: likewise.
      unit: what the step is counted in, "image" or "pair".
      units: how many of them one step processes, over all devices.
      useful_flops: see `Plan`; over all devices. None: all that are traced.
      steps: of the whole run; 0 if that depends on the data.
      settings: see `Plan`.
      not_counted: likewise.
    """

    function: jax.stages.Wrapped
    arguments: tuple[Any, ...]
    parameters: Any
    optimizer: Any
    batch: Any
    unit: str
    units: int
    useful_flops: float | None
    steps: int = 0
    settings: Mapping[str, int | float | str] = MappingProxyType({})
    not_counted: tuple[str, ...] = ()


class _Costs(NamedTuple):
    """Of one device: bytes sent by kind of collective, and what the operations cost, none of them on a CPU."""

    wire: dict[str, float]
    operations: list[OperationCost]
    kernels: list[Kernel]


def compile_step(step: Step, topology: Topology, mesh: Mesh, cache: Path | None = None) -> Plan:
    """Compiles a step for the devices of a mesh and reads the plan from the program; nothing runs.

    Args:
      step: the step.
      topology: the one that the mesh's devices belong to.
      mesh: of the step's arguments.
      cache: see `compile_program`.
    """
    traced = step.function.trace(*step.arguments)
    program = compile_program(traced, topology, cache)
    memory, too_large, costs = None, program.too_large, _Costs({}, [], [])
    if not too_large:
        memory, costs = _memory(program, step), _costs(program.text, topology, mesh)
        if topology.chip and memory.total > topology.chip.memory:
            too_large = f"{memory.total / 2**30:.1f} GiB are needed"
    flops = count_flops(traced.jaxpr) / mesh.size
    # The loss is the only part of a training step that states its own sharding, but for kernels.
    loss_flops = count_flops(traced.jaxpr, within="shard_map") / mesh.size if step.unit == "image" else 0.0
    useful = flops if step.useful_flops is None else step.useful_flops / mesh.size
    lost = [each.name for each in costs.kernels if not each.counted_by]
    return Plan(
        topology=topology.name,
        chips=mesh.size,
        mesh=dict(mesh.shape),
        unit=step.unit,
        units=step.units,
        memory=None if too_large else memory,
        too_large=too_large,
        flops=flops,
        loss_flops=loss_flops,
        useful_flops=useful,
        wire=costs.wire,
        bounds=_bounds(topology.chip, flops, useful, costs) if topology.chip else {},
        compiler_seconds=sum(each.seconds for each in costs.operations),
        roofline_seconds=sum(each.roofline for each in costs.operations),
        parts=parts_of(costs.operations),
        kernels=tuple(costs.kernels),
        steps=step.steps,
        settings=dict(step.settings),
        not_counted=(*step.not_counted, *(f"the time of the kernel {name}, which has no estimate" for name in lost)),
    )


def _memory(program: CompiledProgram, step: Step) -> Memory:
    return Memory(
        parameters=device_bytes(step.parameters),
        optimizer=device_bytes(step.optimizer),
        batch=device_bytes(step.batch),
        temporaries=program.temporaries,
        program=program.code,
        total=program.arguments + program.temporaries + program.code + program.new,
    )


def _costs(text: str, topology: Topology, mesh: Mesh) -> _Costs:
    slice_of = dict(zip(topology.devices, topology.slices, strict=False))
    wire: defaultdict[str, float] = defaultdict(float)
    for each in read_program(text, [slice_of.get(device, 0) for device in mesh.devices.flat]).collectives:
        wire[f"network:{each.kind}" if each.across_slices else each.kind] += each.wire_bytes
    return _Costs(dict(wire), *(program_costs(text, topology.chip) if topology.chip else ([], [])))


def _bounds(chip: Chip, flops: float, useful: float, costs: _Costs) -> dict[str, float]:
    far = sum(size for kind, size in costs.wire.items() if kind.startswith("network:"))
    return {
        "compute": flops / chip.flops,
        "memory": sum(each.moved for each in costs.operations) / chip.memory_bandwidth,
        "interconnect": (sum(costs.wire.values()) - far) / chip.interconnect,
        "network": far / chip.network,
        "useful": useful / chip.flops,
    }


def device_bytes(tree: Any) -> int:
    """Bytes on one device of a tree of `jax.ShapeDtypeStruct` with shardings."""

    def leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
        size = leaf.dtype.itemsize
        for length in leaf.sharding.shard_shape(leaf.shape):
            size *= length
        return int(size)

    return sum(map(leaf_bytes, jax.tree.leaves(tree)))
