"""What `flair-jax demo --full` gave where it was run to the end: a model that is shipped, and figures of several seeds.

`benchmarks/demonstration.py` makes all of it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from flair_jax.demo.evaluation import ScenesResult

# The model of the first seed, as a checkpoint. Rows of its word table that no sentence needs are 0.
MODEL = Path(__file__).parent / "model"
FIGURES = Path(__file__).parent / "recorded.json"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Runs to the end, one for each seed.

    Attributes:
      command: what was run, with SEED for the seed.
      machine: where.
      minutes: that training the first seed's model took, and its control.
      settings: of the first seed's run, but for where its data lay.
      losses: (step, loss) of the first seed, as they were logged.
      models: what the models can do, by seed.
      controls: the same of models trained with the multi-positive loss alone.
    """

    command: str
    machine: str
    minutes: tuple[float, float]
    settings: dict[str, Any]
    losses: list[tuple[int, float]]
    models: list[ScenesResult]
    controls: list[ScenesResult]


def read_recorded() -> Recorded:
    """Reads `FIGURES`."""
    fields = json.loads(FIGURES.read_text(encoding="utf-8"))
    for kind in ("models", "controls"):
        fields[kind] = [ScenesResult(**each) for each in fields[kind]]
    fields["losses"] = [(int(step), float(loss)) for step, loss in fields["losses"]]
    return Recorded(**{**fields, "minutes": tuple(fields["minutes"])})
