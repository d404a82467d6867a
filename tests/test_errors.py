"""How sentences of errors are worded."""

from __future__ import annotations

import pytest

from flair_jax.errors import plural


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (0, "step", "0 steps"),
        (1, "class folder", "1 class folder"),
        (12_000, "class folder", "12,000 class folders"),
        (1, "process", "1 process"),
        (2, "process", "2 processes"),
        (2, "batch", "2 batches"),
        (2, "copy", "2 copies"),
        (2, "array", "2 arrays"),
    ],
)
def test_counts_are_written_with_the_right_ending(count, noun, words):
    assert plural(count, noun) == words
