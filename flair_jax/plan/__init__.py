"""Steps compiled ahead of time for devices that need not be attached: memory, time and communication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.plan.changes import changes_that_fit as changes_that_fit
    from flair_jax.plan.figures import Estimate as Estimate
    from flair_jax.plan.figures import Memory as Memory
    from flair_jax.plan.figures import Plan as Plan
    from flair_jax.plan.hlo import Collective as Collective
    from flair_jax.plan.hlo import Program as Program
    from flair_jax.plan.hlo import read_program as read_program
    from flair_jax.plan.kernels import Kernel as Kernel
    from flair_jax.plan.parts import Part as Part
    from flair_jax.plan.planner import Planner as Planner
    from flair_jax.plan.steps import plan_scoring as plan_scoring
    from flair_jax.plan.steps import plan_training as plan_training
    from flair_jax.plan.topology import Topology as Topology
    from flair_jax.plan.topology import find_topology as find_topology
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "changes": ["changes_that_fit"],
            "figures": ["Estimate", "Memory", "Plan"],
            "hlo": ["Collective", "Program", "read_program"],
            "kernels": ["Kernel"],
            "parts": ["Part"],
            "planner": ["Planner"],
            "steps": ["plan_scoring", "plan_training"],
            "topology": ["Topology", "find_topology"],
        },
    )
