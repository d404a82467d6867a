import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flair_jax import tokenize
from flair_jax.data.tokenizer import _PLAIN, clean


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


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=126), max_size=60))
def test_the_fast_path_for_plain_text_changes_nothing(text: str) -> None:
    import html

    import ftfy

    slow = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    assert " ".join(clean(text).split()) == slow
    assert not _PLAIN.fullmatch("&amp;")


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
