"""Whether a run may resume from a checkpoint: what the checkpoint says of its run, and which settings changed.

Imports no JAX, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flair_jax.errors import AnotherRunError, CheckpointError, FlairError
from flair_jax.models.description import read_json_object
from flair_jax.train.identity import Change, changes, from_earlier

PROGRESS = "progress"  # the item of a checkpoint that says how far which run is

# What `recorded_run` may raise for a description that is damaged or of another form.
UNREADABLE = (OSError, FlairError, ValueError, KeyError, TypeError, AttributeError)


def recorded_run(checkpoint: Path) -> tuple[dict[str, Any], int]:
    """The description of a checkpoint's run, as far as it has one, and its step.

    The form is that of `identity.describe_run`.

    Args:
      checkpoint: its folder.

    Raises:
      Exception: one of `UNREADABLE` if it cannot be read.
    """
    progress = read_json_object(checkpoint / PROGRESS / "metadata")
    recorded = dict(progress["run"]) if "run" in progress else from_earlier(progress["identity"])
    return recorded, progress["next_batch"]


def check_step(checkpoint: Path, saved_as: int) -> None:
    """Raises CheckpointError unless a checkpoint's folder is named after the step that it says."""
    if saved_as != int(checkpoint.name):
        raise CheckpointError(
            f"{checkpoint}: holds the state after step {saved_as:,}, under another name; rename it to "
            f"{saved_as}, or move it elsewhere if {checkpoint.parent / str(saved_as)} is there"
        )


def changes_to_resume(
    checkpoint: Path, was: Mapping[str, Any], now: Mapping[str, Any], accept_changes: bool
) -> tuple[list[Change], AnotherRunError | None]:
    """The settings that changed and do not keep a run from resuming, and the error about those that do.

    Args:
      checkpoint: its folder.
      was: from `recorded_run`.
      now: from `identity.describe_run`, of the run that would resume.
      accept_changes: whether to accept those that make the run another one.

    Raises:
      CheckpointError: if it has more steps behind it than are asked for.
    """
    step, steps = int(checkpoint.name), now["total_steps"]
    found = changes(was, now, step)
    if step > steps:
        raise CheckpointError(
            f"{checkpoint}: the run has {step:,} steps behind it, and {steps:,} are asked for "
            "(config.steps or config.epochs); take this checkpoint as it is, or ask for more steps"
        )
    refused = [change for change in found if change.of_model_size or (change.of_identity and not accept_changes)]
    accepted = [change for change in found if change not in refused]
    if not refused:
        return accepted, None
    advice = f", or add --accept-changes to resume after step {step:,} with the new ones"
    if any(change.of_model_size for change in refused):
        advice = ", because one model cannot resume from the state of another"
    words = "; ".join(map(str, refused))
    return accepted, AnotherRunError(
        f"{checkpoint.parent}: holds another run ({words}); use the same settings or another --workdir{advice}",
        changes=words,
    )
