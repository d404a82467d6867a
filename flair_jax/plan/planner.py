"""A configuration and its variations, planned one after the other, with a line on stderr for each."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ml_collections

from flair_jax.errors import ConfigError
from flair_jax.files import writing
from flair_jax.parallel.sharding import AXES
from flair_jax.plan.changes import Changes, in_words
from flair_jax.plan.figures import Plan
from flair_jax.plan.steps import plan_scoring, plan_training
from flair_jax.plan.topology import find_topology
from flair_jax.settings import TrainSettings
from flair_jax.train.flops import Chip
from flair_jax.train.identity import describe_run
from flair_jax.train.objects import make_objects
from flair_jax.train.planned import write_plan


class Planner:
    """A configuration on a topology, and variations of it."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        topology: str,
        slices: int = 1,
        mesh: str = "",
        cache: Path | None = None,
        label: str = "",
    ) -> None:
        """Finds the topology.

        Args:
          config: of a training run.
          topology: see `find_topology`.
          slices: likewise.
          mesh: such as "data=64,fsdp=4", which overrides the configuration's; "" for none.
          cache: see `compile_program`.
          label: what the lines on stderr begin with; "": the topology's name.

        Raises:
          ConfigError: if the topology or the mesh is unknown.
        """
        self._config = config
        self._cache, self._label = cache, label or topology
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
        settings = self.settings(changes)
        step = f"a training step, {in_words(changes) or 'as configured'}"
        return self._planned(step, lambda: plan_training(settings, self.topology, cache=self._cache))

    def scoring(self) -> Plan:
        """Plans the evaluation's scoring step."""
        settings = self.settings({})
        return self._planned("a scoring step", lambda: plan_scoring(settings, self.topology, cache=self._cache))

    def check_keeps(self, workdir: Path) -> Chip:
        """The chip whose utilisation `keep` keeps.

        Raises:
          ConfigError: if the topology is of CPUs.
        """
        if self.topology.chip is None:
            raise ConfigError(f"--workdir={workdir}: a plan for CPUs has no utilisation to keep there")
        return self.topology.chip

    def keep(self, plan: Plan, workdir: Path) -> None:
        """Keeps the model FLOPs utilisation of a plan as configured in a run's folder, for `Meter` to log.

        A plan that does not fit has none, which is said.

        Raises:
          ConfigError: if the topology is of CPUs.
          StorageError: if it cannot be written.
        """
        chip = self.check_keeps(workdir)
        if not plan.fits:
            print(
                f"{self._label}: nothing is kept in {workdir}, for the step does not fit", file=sys.stderr, flush=True
            )
            return
        settings = self.settings({})
        objects = make_objects(dataclasses.replace(settings, steps=max(plan.steps, 1)))
        run = describe_run(settings, 0, objects.model.config, objects.names)
        with writing(str(workdir)):
            write_plan(workdir, run, chip.name, plan.mesh, plan.estimates["compiler"].mfu)

    def _planned(self, step: str, plan: Callable[[], Plan]) -> Plan:
        start = time.monotonic()
        print(f"{self._label}: compiling {step} ...", file=sys.stderr, flush=True)
        planned = plan()
        took = f"{time.monotonic() - start:,.0f} s"
        print(f"{self._label}: compiled {step} in {took}: {outcome(planned)}", file=sys.stderr, flush=True)
        return planned


def outcome(plan: Plan) -> str:
    """Whether a plan fits, and how much memory it takes."""
    return f"fits, {plan.memory.total / 2**30:.1f} GiB" if plan.memory else f"does not fit: {plan.too_large}"
