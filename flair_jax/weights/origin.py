"""Where a checkpoint's weights come from, as its description says. Imports no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flair_jax.errors import CheckpointError

# In `source` of a checkpoint that `flair-jax convert` made of a CLIP, or of other towers; and beside it where the text
# tower is not among them, but random.
TOWERS, TEXTS = "towers", "text tower"
# In `source` of a checkpoint that was converted from the hub: OWNER/NAME.
REPOSITORY = "repository"


def check_texts(checkpoint: str | Path, source: Mapping[str, str]) -> None:
    """Raises CheckpointError if the text tower is random; see `check_pooling`."""
    if TEXTS in source:
        raise CheckpointError(
            f"{checkpoint}: its text tower is {source[TEXTS]}, so no text means anything to it; train it first"
        )


def check_pooling(checkpoint: str | Path, source: Mapping[str, str], advice: str) -> None:
    """Raises CheckpointError if the text-conditioned pooling is random: nothing that it gives means anything.

    Args:
      checkpoint: its name, for the error.
      source: of its description.
      advice: what to do instead; the end of the sentence.
    """
    if TOWERS in source:
        raise CheckpointError(f"{checkpoint}: has the towers of a {source[TOWERS]}: {advice}")
