"""What `flair-jax plan` expected of a run's steps, beside which the run logs what it measures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from flair_jax.files import replace_when_complete
from flair_jax.train.flops import find_chip
from flair_jax.train.logger import MetricLogger

FILE = "plan.json"

# Settings that decide the time of a step, in the names of `identity.describe_run`.
_DECIDING = (
    *("batch_size", "captions_per_image", "accumulation_steps", "dtype", "residual_dtype", "remat", "unroll"),
    *("attention", "lock", "optimizer.name", "optimizer.clip_norm", "optimizer.ema_decay"),
)
_GROUPS = ("model.", "loss.", "packing.", "factories.", "extra.")
_FREE = ("model.init_logit_scale", "model.init_logit_bias", "factories.sources")


def deciding(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide the time of a step, of all that `identity.describe_run` gives."""
    return {
        name: value
        for name, value in run.items()
        if (name in _DECIDING or name.startswith(_GROUPS)) and name not in _FREE
    }


def write_plan(workdir: Path, run: Mapping[str, Any], chip: str, mesh: Mapping[str, int], utilisation: float) -> None:
    """Keeps in a run's folder what a plan expects.

    Args:
      workdir: the run's folder.
      run: from `identity.describe_run`.
      chip: its name, as in `flops.CHIPS`.
      mesh: sizes of the mesh's axes.
      utilisation: model FLOPs utilisation by the compiler's estimate, from 0 to 1.
    """
    values = {"chip": chip, "mesh": dict(mesh), "model_flops_utilisation": utilisation, "run": deciding(run)}
    with replace_when_complete(workdir / FILE) as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n")


def planned_utilisation(workdir: Path, run: Mapping[str, Any], mesh: Mesh, logger: MetricLogger) -> float | None:
    """Model FLOPs utilisation as planned for these settings and devices; None if it was not.

    Args:
      workdir: the run's folder.
      run: from `identity.describe_run`.
      mesh: of the run.
      logger: says why a plan that is there is not that of this run.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    try:
        plan = json.loads(path.read_bytes())
        utilisation, planned = float(plan["model_flops_utilisation"]), dict(plan["run"])
        planned |= {"chip": plan["chip"], "mesh": plan["mesh"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        logger.say(f"{path}: is damaged, so no planned_model_flops_utilisation is logged; make the plan again")
        return None
    chip = find_chip(jax.devices()[0].device_kind)
    actual = deciding(run) | {"chip": chip.name if chip else "unknown", "mesh": dict(mesh.shape)}
    other = [name for name in (*actual, *planned) if actual.get(name) != planned.get(name)]
    if other:
        logger.say(
            f"{path}: is the plan of another step, so no planned_model_flops_utilisation is logged; they differ in "
            f"{', '.join(dict.fromkeys(other))}"
        )
        return None
    return utilisation
