"""Long captions as sentences. Imports no JAX."""

from __future__ import annotations

import re

_SENTENCE_END = re.compile(r"\n|</s>|\.")


def split_sentences(text: str) -> list[str]:
    """Sentences of a caption: cut at newline, `</s>` and every full stop, stripped, empty ones dropped."""
    return [sentence for part in _SENTENCE_END.split(text) if (sentence := part.strip())]


def rejoin(text: str) -> str:
    """A caption with its sentences joined by ". ", as the long-caption sets are scored."""
    return ". ".join(split_sentences(text))
