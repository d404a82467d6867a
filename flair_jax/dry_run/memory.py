"""The memory of a run's step: of its state by its shapes, of all by a plan where that is compiled soon."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from flair_jax.compiling import compiling
from flair_jax.dry_run.findings import Findings
from flair_jax.dry_run.workdir import in_bytes
from flair_jax.errors import ConfigError
from flair_jax.plan.compile import device_bytes
from flair_jax.plan.steps import plan_training
from flair_jax.plan.topology import Topology
from flair_jax.settings import TrainSettings
from flair_jax.train.objects import Objects
from flair_jax.train.packing import abstract_batch
from flair_jax.train.step import abstract_state
from flair_jax.train.surroundings import compilation_cache

# Parameters of a model whose step a CPU's compiler still takes seconds for; larger ones take minutes.
_SMALL = 20_000_000


def check_memory(found: Findings, settings: TrainSettings, objects: Objects, mesh: Mesh) -> int:
    """Says what a step takes on each device.

    Args:
      found: gets what is found.
      settings: of the run, with `steps` set.
      objects: of the run.
      mesh: of the run.

    Returns:
      Bytes of a checkpoint before it is compressed; on disk it has fewer where values repeat, such as the optimiser's
      zeros for words that no caption has had yet.

    Raises:
      ConfigError: if the state or the step does not fit.
    """
    with jax.set_mesh(mesh):
        state = abstract_state(objects.model, objects.optimizer, mesh, ema=settings.optimizer.ema_decay > 0)
        batch = abstract_batch(objects.model, settings, mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    found.say("model", f"{settings.model}: {parameters:,} parameters, computed in {settings.dtype}")
    parts = {"parameters": state.params, "optimiser": state.opt_state, "average": state.ema, "batch": batch}
    sizes = {name: device_bytes(tree) for name, tree in parts.items() if jax.tree.leaves(tree)}
    listed = ", ".join(f"{name} {in_bytes(size)}" for name, size in sizes.items())
    found.say("memory", f"on each device, by their shapes: {listed}")
    limit = _limit()
    if limit and sum(sizes.values()) > limit:
        raise ConfigError(
            f"config: {listed} on each device are more than its {in_bytes(limit)}; shard the state (config.mesh.fsdp)"
        )
    if parameters <= _SMALL and jax.default_backend() == "cpu":
        _plan(found, settings)
    else:
        found.remark("activations are not counted: `flair-jax plan` compiles the step for a topology, and counts them")
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _plan(found: Findings, settings: TrainSettings) -> None:
    devices = jax.devices()
    topology = Topology(f"cpu:{len(devices)}", devices, None, [])
    with compilation_cache(settings.compilation_cache), compiling("the training step, to see its memory"):
        planned = plan_training(settings, topology)
    if planned.memory:
        found.say(
            "",
            f"as planned for {planned.topology}: {in_bytes(planned.memory.total)} at the peak, of these activations, "
            f"gradients and buffers {in_bytes(planned.memory.temporaries)}",
        )


def _limit() -> int:
    """Bytes of a device's memory; 0 if it does not tell."""
    try:
        return int((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0))
    except jax.errors.JaxRuntimeError:
        return 0
