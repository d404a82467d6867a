"""Compiles a step ahead of time, and reads from the program what it costs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from flair_jax.plan.figures import Memory, Plan
from flair_jax.plan.hlo import read_program
from flair_jax.plan.topology import Topology
from flair_jax.plan.traffic import memory_bytes
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


class _Costs(NamedTuple):
    """Of one device: bytes sent by kind of collective, seconds by the compiler, bytes to and from memory."""

    wire: dict[str, float]
    seconds: float
    moved: float


def compile_step(step: Step, topology: Topology, mesh: Mesh) -> Plan:
    """Compiles a step for the devices of a mesh and reads the plan from the program; nothing runs.

    Args:
      step: the step.
      topology: the one that the mesh's devices belong to.
      mesh: of the step's arguments.
    """
    traced = step.function.trace(*step.arguments)
    program, too_large = _compile(traced)
    memory, costs = None, _Costs({}, 0.0, 0.0)
    if program is not None:
        memory, costs = _memory(program, step), _costs(program, topology, mesh)
        if topology.chip and memory.total > topology.chip.memory:
            too_large = f"{memory.total / 2**30:.1f} GiB are needed"
    flops = count_flops(traced.jaxpr) / mesh.size
    # The loss is the only part of a training step that states its own sharding.
    loss_flops = count_flops(traced.jaxpr, within="shard_map") / mesh.size if step.unit == "image" else 0.0
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
        useful_flops=flops if step.useful_flops is None else step.useful_flops / mesh.size,
        wire=costs.wire,
        bounds=_bounds(topology.chip, flops, costs) if topology.chip else {},
        compiler_seconds=costs.seconds,
        steps=step.steps,
    )


def _compile(traced: jax.stages.Traced) -> tuple[jax.stages.Compiled | None, str]:
    """The program, or the compiler's message if it is too large for the chip."""
    try:
        return traced.lower().compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, str(error).partition("RESOURCE_EXHAUSTED: ")[2].splitlines()[0].rstrip(". ")


def _memory(program: jax.stages.Compiled, step: Step) -> Memory:
    sizes: Any = program.memory_analysis()
    temporaries, code = sizes.temp_size_in_bytes, sizes.generated_code_size_in_bytes
    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return Memory(
        parameters=device_bytes(step.parameters),
        optimizer=device_bytes(step.optimizer),
        batch=device_bytes(step.batch),
        temporaries=temporaries,
        program=code,
        total=sizes.argument_size_in_bytes + temporaries + code + new,
    )


def _costs(program: jax.stages.Compiled, topology: Topology, mesh: Mesh) -> _Costs:
    text = program.as_text() or ""
    slice_of = dict(zip(topology.devices, topology.slices, strict=False))
    found = read_program(text, [slice_of.get(device, 0) for device in mesh.devices.flat])
    wire: defaultdict[str, float] = defaultdict(float)
    for each in found.collectives:
        wire[f"network:{each.kind}" if each.across_slices else each.kind] += each.wire_bytes
    if topology.chip is None:
        return _Costs(dict(wire), 0.0, 0.0)
    return _Costs(dict(wire), found.cycles / topology.chip.clock, memory_bytes(text))


def _bounds(chip: Chip, flops: float, costs: _Costs) -> dict[str, float]:
    far = sum(size for kind, size in costs.wire.items() if kind.startswith("network:"))
    return {
        "compute": flops / chip.flops,
        "memory": costs.moved / chip.memory_bandwidth,
        "interconnect": (sum(costs.wire.values()) - far) / chip.interconnect,
        "network": far / chip.network,
    }


def device_bytes(tree: Any) -> int:
    """Bytes on one device of a tree of `jax.ShapeDtypeStruct` with shardings."""

    def leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
        size = leaf.dtype.itemsize
        for length in leaf.sharding.shard_shape(leaf.shape):
            size *= length
        return int(size)

    return sum(map(leaf_bytes, jax.tree.leaves(tree)))
