"""What a step would take on chips that need not be there: compiled ahead of time, and read from the program."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flair_jax.console import environment, quiet_without_tpu
from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair
from flair_jax.packages import how_to_install
from flair_jax.parallel.sharding import batch_sharding, check_batch, make_mesh
from flair_jax.plan.hlo import read_program
from flair_jax.plan.traffic import memory_bytes
from flair_jax.scoring.scorer import score_all_step
from flair_jax.settings import TrainSettings
from flair_jax.train.flops import CHIPS, Chip, count_flops, step_flops
from flair_jax.train.losses import make_loss
from flair_jax.train.optim import make_optimizer, make_schedule
from flair_jax.train.step import Batch, abstract_state, make_train_step

_MOST_CHIPS = 2**16  # more than any pod has, and describing them takes memory
_TEXTS = 25_014  # captions of COCO's 2017 validation set, which the scoring step is planned for


class Topology(NamedTuple):
    """Chips to compile for; `chip` is None for hosts' CPUs."""

    name: str
    devices: list[Any]
    chip: Chip | None
    slices: list[int]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each chip; `temporaries` are activations, gradients and buffers, and `total` is the peak."""

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    program: int
    total: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """One compiled step; bytes, FLOPs and seconds are of each chip.

    Attributes:
      topology: as asked for.
      chips: how many.
      mesh: sizes of its axes.
      unit: what the step is counted in, "image" or "pair".
      units: how many of them it does, over all chips.
      memory: None if it does not fit.
      too_large: the compiler's words if it does not fit, else "".
      flops: of matrix products, with what is computed again.
      loss_flops: of these, the loss's; 0 for other steps.
      useful_flops: without; see `step_flops`.
      wire: bytes that a chip sends, by kind of collective; `network:` before those between slices.
      bounds: least seconds for the FLOPs ("compute"), for what the program moves to and from memory ("memory"), and for
        the wire ("interconnect", "network"), each at the chip's peak; empty for a CPU.
      compiler_seconds: the compiler's estimate for computing, without waiting for others; 0 where it gives none. It is
        no bound: see docs/plan.md for what it is calibrated by.
      steps: of the whole run; 0 if that depends on the data.
    """

    topology: str
    chips: int
    mesh: dict[str, int]
    unit: str
    units: int
    memory: Memory | None
    too_large: str
    flops: float
    loss_flops: float
    useful_flops: float
    wire: dict[str, float]
    bounds: dict[str, float]
    compiler_seconds: float
    steps: int

    @property
    def binds(self) -> str:
        """The name of the highest bound."""
        return max(self.bounds, key=self.bounds.__getitem__)

    @property
    def seconds(self) -> float:
        """An estimate of a step: the compiler's, or the highest bound where that is more."""
        return max(self.compiler_seconds, *self.bounds.values())

    @property
    def fits(self) -> bool:
        """Whether the program fits in the chip's memory."""
        return self.memory is not None


def find_topology(name: str, slices: int = 1) -> Topology:
    """A topology by its name, with nothing attached.

    Args:
      name: such as "v5e:16x16" (v4, v5e, v5p, v6e; chips along each axis of the torus), or "cpu:8": devices of this
        host, as many as JAX was started with.
      slices: how many such slices, connected by the data-centre network.

    Raises:
      ConfigError: if it is unknown, or libtpu is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        devices = jax.devices("cpu")
        if not shape.isdecimal() or not 1 <= int(shape) <= len(devices):
            raise ConfigError(f"--topology {name}: JAX was started with {len(devices)} CPU device(s)")
        return Topology(name, devices[: int(shape)], None, [])
    chip = next((chip for chip in CHIPS if chip.name == kind and chip.clock), None)
    if chip is None or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        known = ", ".join(chip.name for chip in CHIPS if chip.clock)
        raise ConfigError(f"--topology {name}: expected one of {known} and a shape, as in v5e:16x16, or cpu:8")
    chips = slices * math.prod(map(int, shape.split("x")))
    if not 0 < chips <= _MOST_CHIPS:
        raise ConfigError(f"--topology {name}, {slices} slice(s): {chips:,} chips; from 1 to {_MOST_CHIPS:,} can be")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if set(shape.split("x")) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)  # else a host has four chips at least
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # its two cores as one device
    try:
        # No look for chips of this machine, and no lock on them: nothing will run.
        with environment({"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", **quiet_without_tpu()}):
            devices = list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
    except Exception as error:  # JAX raises several kinds
        if "libtpu" in str(error).lower():
            raise ConfigError(
                f"--topology {name}: the TPU compiler is not installed; {how_to_install('tpu')}"
            ) from None
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--topology {name}: the TPU compiler does not know it ({reason})") from None
    return Topology(name, devices, chip, [getattr(device, "slice_index", 0) or 0 for device in devices])


def plan_training(settings: TrainSettings, topology: Topology) -> Plan:
    """The very step that `flair_jax.train.run` runs.

    Args:
      settings: of the run.
      topology: from `find_topology`.

    Raises:
      ConfigError: if the mesh or the batch do not fit the topology.
    """
    mesh = make_mesh(settings.mesh, topology.devices)
    check_batch(settings.batch_size, settings.accumulation_steps, mesh)
    model = Flair(settings.model_config())
    steps = settings.total_steps(0)
    longest = settings.optimizer.warmup_steps + settings.optimizer.cooldown_steps
    optimizer = make_optimizer(
        settings.optimizer, make_schedule(settings.optimizer, max(steps, longest)), settings.lock
    )
    size, images, captions = model.config.vision.image_size, settings.batch_size, settings.captions_per_image
    with jax.set_mesh(mesh):
        state = abstract_state(model, optimizer, mesh)
        shape: Any = partial(jax.ShapeDtypeStruct, sharding=batch_sharding(mesh))
        batch = Batch(
            shape((images, size, size, 3), jnp.uint8),
            shape((images * captions, model.config.text.context_length), jnp.int32),
        )
        loss = make_loss(settings.loss, settings.group_size)
        step = jax.jit(make_train_step(model, optimizer, settings, loss), donate_argnums=0)
        return _plan(
            step,
            (state, batch),
            topology,
            mesh,
            sizes=(_bytes(state.params), _bytes(state.opt_state), _bytes(batch)),
            unit="image",
            units=images,
            useful_flops=step_flops(model.config, images, captions, loss, settings.lock),
            steps=steps,
        )


def plan_scoring(settings: TrainSettings, topology: Topology) -> Plan:
    """The step of the evaluation that scores a block of pictures with COCO's 25,014 captions.

    Args:
      settings: of the run; those of the model and `evaluation.batch_size` count.
      topology: from `find_topology`.

    Raises:
      ConfigError: if the block does not divide over the chips.
    """
    model = Flair(settings.model_config())
    images = settings.evaluation.batch_size
    if images % len(topology.devices):
        raise ConfigError(f"config.evaluation.batch_size={images} does not divide over {len(topology.devices)} devices")
    mesh = jax.make_mesh((len(topology.devices),), ("data",), devices=topology.devices)
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    on_all = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)  # noqa: E731
    params = jax.tree.map(on_all, model.abstract_params())
    width = model.config.embed_dim
    local = jax.ShapeDtypeStruct((images, model.config.vision.grid**2, width), jnp.float32, sharding=rows)
    text = jax.ShapeDtypeStruct((_TEXTS, width), jnp.float32)
    texts = jax.tree.map(on_all, jax.eval_shape(model.prepare_texts, params, text))
    score = score_all_step(model, mesh)
    pairs = images * _TEXTS
    return _plan(
        score,
        (params, local, texts),
        topology,
        mesh,
        sizes=(_bytes(params), 0, _bytes(local) + _bytes(texts)),
        unit="pair",
        units=pairs,
        useful_flops=pairs * (4.0 * model.config.vision.grid**2 * width + 2.0 * width**2),
        steps=0,
    )


def _plan(
    step: Any,
    arguments: tuple[Any, ...],
    topology: Topology,
    mesh: Mesh,
    *,
    sizes: tuple[int, int, int],
    unit: str,
    units: int,
    useful_flops: float,
    steps: int,
) -> Plan:
    traced = step.trace(*arguments)
    chips = mesh.size
    memory, too_large, wire, seconds, moved = None, "", defaultdict[str, float](float), 0.0, 0.0
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        too_large = str(error).partition("RESOURCE_EXHAUSTED: ")[2].splitlines()[0].rstrip(". ")
    else:
        sizes_of = compiled.memory_analysis()
        temporaries, program = sizes_of.temp_size_in_bytes, sizes_of.generated_code_size_in_bytes
        new = sizes_of.output_size_in_bytes - sizes_of.alias_size_in_bytes
        memory = Memory(*sizes, temporaries, program, sizes_of.argument_size_in_bytes + temporaries + program + new)
        slices = dict(zip(topology.devices, topology.slices, strict=False))
        text = compiled.as_text()
        found = read_program(text, [slices.get(device, 0) for device in mesh.devices.flat])
        for each in found.collectives:
            wire[f"network:{each.kind}" if each.across_slices else each.kind] += each.wire_bytes
        if topology.chip:
            seconds, moved = found.cycles / topology.chip.clock, memory_bytes(text)
        if topology.chip and memory.total > topology.chip.memory:
            too_large = f"{memory.total / 2**30:.1f} GiB are needed"
    flops = count_flops(traced.jaxpr) / chips
    return Plan(
        topology.name,
        chips,
        dict(mesh.shape),
        unit,
        units,
        None if too_large else memory,
        too_large,
        flops,
        # The loss is the one part of a training step that says itself how it is split over the mesh.
        count_flops(traced.jaxpr, within="shard_map") / chips if unit == "image" else 0.0,
        useful_flops / chips,
        dict(wire),
        _bounds(topology.chip, flops, moved, wire) if topology.chip else {},
        seconds,
        steps,
    )


def _bounds(chip: Chip, flops: float, moved: float, wire: dict[str, float]) -> dict[str, float]:
    far = sum(size for kind, size in wire.items() if kind.startswith("network:"))
    return {
        "compute": flops / chip.flops,
        "memory": moved / chip.memory_bandwidth,
        "interconnect": (sum(wire.values()) - far) / chip.interconnect,
        "network": far / chip.network,
    }


def _bytes(tree: Any) -> int:
    """Of one device, of a tree of `jax.ShapeDtypeStruct` with shardings."""

    def leaf_bytes(leaf: Any) -> int:
        size = leaf.dtype.itemsize
        for length in leaf.sharding.shard_shape(leaf.shape):
            size *= length
        return size

    return sum(map(leaf_bytes, jax.tree.leaves(tree)))


def changes_that_fit(
    plan: Callable[[dict[str, Any]], Plan], settings: TrainSettings, chips: int
) -> list[tuple[dict[str, Any], Plan]]:
    """Changes of settings, each with those before it, and their plans, up to the first that fits; [] if none is left.

    In the order of what they cost: recomputing, splitting the state, smaller loss blocks, then parts of a batch.

    Args:
      plan: plans with fields of the configuration changed, by dotted names.
      settings: those that do not fit.
      chips: in the topology.
    """
    steps: list[dict[str, Any]] = []
    policies = ("none", "dots", "full")
    steps += [{"remat": name} for name in policies[policies.index(settings.remat) + 1 :]]
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
    tried: list[tuple[dict[str, Any], Plan]] = []
    changes: dict[str, Any] = {}
    for step in steps:
        changes = {**changes, **step}
        tried.append((changes, plan(changes)))
        if tried[-1][1].fits:
            break
    return tried
