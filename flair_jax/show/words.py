"""The words of sentences, each of which the page shows as a text of its own. Imports no JAX."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Letters and digits of any script, with apostrophes and hyphens inside.
_WORD = re.compile(r"(\w+(?:['\u2019-]\w+)*)")


def pieces(sentence: str) -> list[tuple[str, bool]]:
    """A sentence cut into words, and what stands between them; joined they are the sentence.

    Returns:
      Each piece that is not empty, and whether it is a word.
    """
    parts = _WORD.split(sentence)  # those at odd places are the words
    return [(part, number % 2 == 1) for number, part in enumerate(parts) if part]


def distinct_words(sentences: Iterable[str]) -> list[str]:
    """Every word of the sentences once, in the order of its first appearance."""
    return list(dict.fromkeys(part for sentence in sentences for part, is_word in pieces(sentence) if is_word))
