"""What the page shows of each sentence: scores, maps, and the maps of its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flair_jax.pages import data_url
from flair_jax.show.draw import layer
from flair_jax.show.maps import Explanation
from flair_jax.show.words import pieces


class Text(NamedTuple):
    """A text that was computed, be it a sentence or a word.

    Attributes:
      score: text-conditioned logit.
      empty: share of the attention on the empty slot, in place of the image.
      attention: its map, as a data URL.
      patches: likewise.
    """

    score: str
    empty: str
    attention: str
    patches: str


class Card(NamedTuple):
    """A sentence.

    Attributes:
      sentence: as it was written.
      number: of its text.
      pieces: its words, and what stands between them; the number of the word's text, if it has one.
      global_score: global logit.
      best: whether its text-conditioned logit is the highest of all sentences.
      best_global: likewise.
    """

    sentence: str
    number: int
    pieces: list[tuple[str, int | None]]
    global_score: str
    best: bool
    best_global: bool


def texts(found: Explanation, heads: Sequence[int]) -> list[Text]:
    """All texts that were computed; the attention is averaged over some heads."""
    attention, empty = (np.asarray(each)[:, heads].mean(axis=1) for each in found.attention)
    return [
        Text(
            f"{logit:.2f}",
            f"{100 * empty[number]:.1f} %",
            data_url(layer(attention[number]), "png"),
            data_url(layer(np.asarray(found.patches[number])), "png"),
        )
        for number, logit in enumerate(found.logits)
    ]


def cards(sentences: Sequence[str], words: Sequence[str], found: Explanation) -> list[Card]:
    """A card for each sentence; `explain_picture` was given the sentences, and after them the words."""
    count = len(sentences)
    numbers = {word: count + number for number, word in enumerate(words)}
    logits, global_logits = (np.asarray(each)[:count] for each in (found.logits, found.global_logits))
    return [
        Card(
            sentence,
            number,
            [(piece, numbers.get(piece) if is_word else None) for piece, is_word in pieces(sentence)],
            f"{global_logits[number]:.2f}",
            bool(logits[number] == logits.max()),
            bool(global_logits[number] == global_logits.max()),
        )
        for number, sentence in enumerate(sentences)
    ]
