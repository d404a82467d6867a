import itertools
import json
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flair_jax import tokenize
from flair_jax.data.tokenizer import _WORD, _letter_by_byte, _split, _vocabulary, clean, count_tokens


@pytest.mark.golden
def test_ids_equal_the_original(golden) -> None:
    cases = json.loads((golden / "tokenizer.json").read_text())
    expected = np.array([case["ids"] for case in cases])
    ids = tokenize([case["text"] for case in cases], expected.shape[1])
    wrong = [case["text"] for case, ours, theirs in zip(cases, ids, expected, strict=True) if (ours != theirs).any()]
    assert not wrong
    assert ids.dtype == np.int32


def test_a_single_text_and_none() -> None:
    assert tokenize("a dog").shape == (1, 77)
    assert tokenize([]).shape == (0, 77)
    np.testing.assert_array_equal(tokenize("")[0, :3], [49406, 49407, 0])


def test_a_long_text_keeps_its_end_token() -> None:
    ids = tokenize("word " * 200, context_length=20)[0]
    assert ids[0] == 49406
    assert ids[-1] == 49407
    assert np.count_nonzero(ids == 49407) == 1


def test_wrong_input() -> None:
    with pytest.raises(TypeError, match="takes text, found int: 3"):
        tokenize(["a", 3])
    with pytest.raises(ValueError, match="context_length=1 leaves no room"):
        tokenize("a", context_length=1)


PIECES = st.sampled_from(
    ["don't", "IT'S", "'", "<start_of_text>", "<|", "&amp;", "&", "3rd", "...", " ", "  ", "\n", "\x7f"]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES | st.text(alphabet=st.characters(max_codepoint=126), max_size=12), max_size=8))
def test_the_fast_path_for_plain_text_changes_nothing(parts: list[str]) -> None:
    assert _split("".join(parts)) == _WORD.findall(clean("".join(parts)))


def test_the_merges_lead_every_word_of_the_vocabulary_to_its_own_id() -> None:
    vocabulary, bytes_of = _vocabulary(), {letter: byte for byte, letter in _letter_by_byte().items()}
    tried = 0
    for name, index in vocabulary.ids.items():
        letters = name.removesuffix("</w>")
        if name.endswith("</w>") and set(letters) <= set(bytes_of):
            assert vocabulary._merge_parts([*letters[:-1], letters[-1] + "</w>"]) == (index,)
            tried += 1
    assert tried > 30_000


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_gives_a_well_formed_row(text: str) -> None:
    ids = tokenize(text)[0]
    end = int(ids.argmax())
    assert ids[0] == 49406
    assert ids[end] == 49407
    assert not ids[end + 1 :].any()
    assert ids.min() >= 0


def test_usable_in_spawned_workers() -> None:
    assert pickle.loads(pickle.dumps(tokenize)) is tokenize


def test_tokenising_and_reading_pictures_loads_no_jax() -> None:
    script = (
        "import sys, flair_jax; flair_jax.tokenize('a'); flair_jax.preprocess; flair_jax.retrieval_metrics; "
        "print(sorted({'jax', 'flax', 'torch', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_tokens_are_counted_uncut() -> None:
    texts = ["", "a", "a dog, a cat", "word " * 200]
    assert count_tokens(texts).tolist() == [0, 1, 5, 200]
    assert (tokenize(texts[3]) != 0).sum() == 77


def merged_step_by_step(parts: list[str]) -> tuple[int, ...]:
    """As CLIP's paper describes it: all of the first pair, from the left, then all of the next."""
    vocabulary = _vocabulary()
    while pairs := [pair for pair in itertools.pairwise(parts) if pair in vocabulary.rank]:
        best, merged = min(pairs, key=vocabulary.rank.__getitem__), []
        while parts:
            width = 2 if tuple(parts[:2]) == best else 1
            merged.append("".join(parts[:width]))
            parts = parts[width:]
        parts = merged
    return tuple(vocabulary.ids[part] for part in parts)


@settings(max_examples=200, deadline=None)
@given(st.text("aehinorst", min_size=1, max_size=14) | st.text(min_size=1, max_size=5))
def test_merges_are_those_of_the_definition(word: str) -> None:
    parts = [_letter_by_byte()[byte] for byte in word.encode()]
    parts[-1] += "</w>"
    assert _vocabulary()._merge_parts(parts) == merged_step_by_step(parts)


def test_a_word_without_end_takes_no_more_than_its_length() -> None:
    word = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), 50_000))
    start = time.process_time()
    assert np.count_nonzero(tokenize(word)) == 77
    assert time.process_time() - start < 10  # 0.1 s on a core of an AMD EPYC; more than a minute in pairs of loops
