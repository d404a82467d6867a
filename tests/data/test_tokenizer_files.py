"""Tokenizers in files, against transformers' class for the same file."""

import json
import pickle

import numpy as np
import pytest

pytest.importorskip("transformers")

from made_transformers import WORDS, save_tokenizer

from flair_jax.data.tokenizer import find_tokenizer, tokenize_for
from flair_jax.errors import ConfigError
from flair_jax.models.config import TextConfig
from flair_jax.models.tokens import find_end


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return find_tokenizer(f"siglip2:{folder / 'tokenizer.json'}")


@pytest.mark.parametrize("length", [4, 16])
def test_ids_are_those_of_transformers(folder, tokenizer, length: int) -> None:
    """Lower case letter by letter, cut with the end kept, padded behind; bytes where there is no letter."""
    from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

    theirs = Siglip2Tokenizer.from_pretrained(folder)
    texts = [*WORDS, "", " ", "CAFÉ\n東京 🙂", "x" * 40, "İ and ΣΑΣ", "a  b", "<eos> inside"]
    wanted = theirs(texts, padding="max_length", max_length=length, truncation=True, padding_side="right")
    np.testing.assert_array_equal(tokenizer.tokenize(texts, length), wanted["input_ids"])


def test_counts_are_without_the_end_and_uncut(tokenizer) -> None:
    texts = [*WORDS, "", "x" * 40]
    counts = tokenizer.count_tokens(texts)
    assert counts.dtype == np.int64
    assert counts[-2:].tolist() == [0, 40]
    whole = tokenizer.tokenize(texts, 64)
    np.testing.assert_array_equal(find_end(whole, tokenizer.end), counts)
    assert (tokenizer.start, tokenizer.end, tokenizer.padding, tokenizer.room(16)) == (None, 1, 0, 15)


def test_workers_can_have_it(tokenizer) -> None:
    again = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(again.tokenize(WORDS, 8), tokenizer.tokenize(WORDS, 8))


def test_it_is_a_text_towers(folder, tokenizer) -> None:
    text = TextConfig(context_length=8, tokenizer=f"siglip2:{folder / 'tokenizer.json'}")
    np.testing.assert_array_equal(tokenize_for(text, WORDS), tokenizer.tokenize(WORDS, 8))


def test_what_is_no_tokenizer_is_named(folder, tmp_path) -> None:
    with pytest.raises(ConfigError, match="the kinds of tokenizers in files are siglip2"):
        find_tokenizer(f"gemma:{folder / 'tokenizer.json'}")
    with pytest.raises(ConfigError, match="there is no such file; a checkpoint's tokenizer stays where"):
        find_tokenizer(f"siglip2:{tmp_path / 'tokenizer.json'}")
    with pytest.raises(ConfigError, match="there is no such file"):
        find_tokenizer(f"siglip2:{tmp_path}")
    for content in ("", "{", "[]", '{"model": 3}', "\udcff"):
        (tmp_path / "bad.json").write_text(content, errors="surrogateescape")
        with pytest.raises(ConfigError, match="cannot be read as a tokenizer"):
            find_tokenizer(f"siglip2:{tmp_path / 'bad.json'}")
    other = json.loads((folder / "tokenizer.json").read_text())
    other["added_tokens"] = [each for each in other["added_tokens"] if each["content"] != "<eos>"]
    del other["model"]["vocab"]["<eos>"]
    other["post_processor"] = None
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="the vocabulary lacks <eos> or <pad>"):
        find_tokenizer(f"siglip2:{tmp_path / 'other.json'}")
    with pytest.raises(ConfigError, match=r"'nope' is unknown; the tokenizers are clip"):
        find_tokenizer("nope")


def test_texts_that_are_none_are_refused(tokenizer) -> None:
    with pytest.raises(TypeError, match="tokenize takes text, found int"):
        tokenizer.tokenize([3], 8)
