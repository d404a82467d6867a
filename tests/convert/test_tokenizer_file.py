"""A tokenizer's file gives the ids that our own tokenizers give."""

import json

import numpy as np
import pytest

tokenizers = pytest.importorskip("tokenizers")

from flair_jax.convert.tokenizer_file import tokenizer_file
from flair_jax.data.tokenizer import tokenize_for
from flair_jax.models.config import TextConfig


def ids_by_file(text: TextConfig, texts: list[str]) -> np.ndarray:
    read = tokenizers.Tokenizer.from_str(tokenizer_file(text))
    return np.array([each.ids for each in read.encode_batch(texts)], np.int32)


@pytest.mark.golden
def test_clips_ids(golden) -> None:
    """But for the texts that say so in docs/export.md: HTML, broken Unicode, and letters that ftfy exchanges."""
    texts = [each["text"] for each in json.loads((golden / "tokenizer.json").read_text())]
    texts += [
        "It\u2019s a \u201cquote\u201d",
        "  two   spaces\n",
        "naïve café 東京 🙂 12345",
        "a" * 400,
        "<start_of_text> inside",
        "e\u0301",
    ]
    for length in (77, 12):
        ours = tokenize_for(TextConfig(context_length=length), texts)
        theirs = ids_by_file(TextConfig(context_length=length), texts)
        other = [text for text, one, two in zip(texts, ours, theirs, strict=True) if (one != two).any()]
        assert all("&" in text or "Ã" in text or "ﬁ" in text for text in other), other
        assert len(other) <= 4


@pytest.mark.parametrize("length", [4, 16])
def test_siglips_ids(tmp_path, length: int) -> None:
    """A file that the model came with gains lower case, the end, a cut and padding."""
    pytest.importorskip("transformers")
    from made_transformers import WORDS, save_tokenizer

    save_tokenizer(tmp_path)
    text = TextConfig(context_length=length, tokenizer=f"siglip2:{tmp_path / 'tokenizer.json'}")
    texts = [*WORDS, "", " ", "CAFÉ\n東京 🙂", "x" * 40, "İ and ΣΑΣ", "a  b"]
    np.testing.assert_array_equal(ids_by_file(text, texts), tokenize_for(text, texts))
