import json

import pytest

from flair_jax.data.captions import rejoin, sentences_of, split_sentences


@pytest.mark.golden
def test_sentences_equal_the_original(golden) -> None:
    for case in json.loads((golden / "captions.json").read_text())["split"]:
        assert split_sentences(case["text"]) == case["sentences"], case["text"]


def test_rejoin() -> None:
    assert rejoin("A dog.\nIt runs . ") == "A dog. It runs"


@pytest.mark.parametrize("blank", ["  ", [], [" ", ""], ".", None])
def test_lists_that_say_nothing_leave_the_caption(blank) -> None:
    assert sentences_of({"raw_caption": blank, "caption": "A dog. It runs"}) == ["A dog", "It runs"]
