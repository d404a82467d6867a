"""docs/evaluation.md lists what there is to evaluate, and nothing else."""

import re
from pathlib import Path

from flair_jax.commands.evaluate_tasks import ROWS
from flair_jax.train.evaluation import _TASKS as IN_TRAINING

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_every_set_of_every_task_has_its_command() -> None:
    command = r"^- `flair-jax evaluate --checkpoint DIR --task (\S+) --dataset (\S+) --data-dir DATA`$"
    listed = re.findall(command, PAGE.read_text(), re.M)
    there = [(row.name, name) for row in ROWS.values() for name, _, _ in row.sets()]
    assert len(there) > 50
    assert listed == there


def test_every_task_can_be_measured_in_training() -> None:
    assert set(IN_TRAINING) == set(ROWS)
