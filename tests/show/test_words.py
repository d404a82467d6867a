"""Sentences cut into words, and the drawn examples."""

import numpy as np
import pytest
from PIL import Image

from flair_jax.show.examples import draw_examples
from flair_jax.show.words import distinct_words, pieces


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("a small, striped ring.", ["a", "small", "striped", "ring"]),
        ("the dog's well-kept l\u2019or", ["the", "dog's", "well-kept", "l\u2019or"]),
        ("'quoted' - dashed-", ["quoted", "dashed"]),
        ("写真 αβγ 12", ["写真", "αβγ", "12"]),
        ("", []),
        ("?! ...", []),
    ],
)
def test_words_are_found_and_nothing_is_lost(sentence: str, words: list[str]) -> None:
    assert [part for part, is_word in pieces(sentence) if is_word] == words
    assert "".join(part for part, _ in pieces(sentence)) == sentence


def test_words_are_listed_once_in_their_order() -> None:
    assert distinct_words(["b a", "a, b B"]) == ["b", "a", "B"]


def test_examples_are_drawn_the_same_each_time(tmp_path) -> None:
    drawn = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        drawn.append(draw_examples(folder))
    for (first, sentences), (second, again) in zip(*drawn, strict=True):
        assert sentences == again
        assert np.array_equal(Image.open(first), Image.open(second))
    assert [sentences.splitlines() for _, sentences in drawn[0]] == [
        ["a red bar", "a cyan star", "an orange triangle"],
        ["a white circle", "a blue star", "a red ring"],
        ["a blue moon", "a red circle", "an orange square"],
    ]
