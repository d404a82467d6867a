"""Long captions as sentences, and the sampling of training captions from them. Imports no JAX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from flair_jax.errors import DatasetError

# Lists of the recaptioned sets: the web's own caption, and short and long ones of InstructBLIP, ShareGPT4V and LLaVA.
CAPTION_LISTS = (
    "raw_caption",
    "shortIB_captions",
    "longIB_captions",
    "shortSV_captions",
    "longSV_captions",
    "shortLLA_captions",
    "longLLA_captions",
)
_SENTENCE_END = re.compile(r"\n|</s>|\.")


def split_sentences(text: str) -> list[str]:
    """Sentences of a caption: cut at newline, `</s>` and every full stop, stripped, empty ones dropped."""
    return [sentence for part in _SENTENCE_END.split(text) if (sentence := part.strip())]


def sentences_of(document: Mapping[str, object]) -> list[str]:
    """The sentences in a sample's JSON: those of all its `CAPTION_LISTS`, or else of its `caption`.

    Each may be a text, which is split, or a list of sentences.

    Raises:
      DatasetError: if there are none; the message is the reason alone.
    """
    sentences = [text for name in CAPTION_LISTS for text in _sentences_in(document, name)]
    sentences = sentences or _sentences_in(document, "caption")
    if not sentences:
        raise DatasetError("no caption")
    if fault := fault_of("\n".join(sentences)):
        raise DatasetError(f"a caption has {fault}")
    return sentences


def _sentences_in(document: Mapping[str, object], name: str) -> list[str]:
    value = document.get(name) or ()
    if isinstance(value, str):
        return split_sentences(value)
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return [text for each in value if (text := each.strip())]
    raise DatasetError(f"{name} is neither a text nor a list of texts")


def fault_of(text: str) -> str:
    """Why it is not valid text: half a surrogate pair, bytes kept by `surrogateescape`, or a NUL; "" if it is valid."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        escaped = "\udc80" <= text[error.start] <= "\udcff"
        return "bytes that are not UTF-8" if escaped else "half a surrogate pair"
    return "a NUL" if "\0" in text else ""


def rejoin(text: str) -> str:
    """A caption with its sentences joined by ". ", as the long-caption sets are scored."""
    return ". ".join(split_sentences(text))


def sample_caption(sentences: Sequence[str], rng: np.random.Generator, max_merged: int = 3) -> str:
    """One caption by the diverse sampling of FLAIR (arXiv 2412.03561, section 3.1).

    m is drawn uniformly from 1 to `max_merged`. If m is 1, the caption is one sentence drawn uniformly. Otherwise it
    is, with probability 1/2 each, m consecutive sentences (all of them if there are fewer) or m sentences drawn at
    random, without replacement where there are enough. As in the PyTorch release, the last window of m sentences is
    never drawn.

    Args:
      sentences: at least one.
      rng: the only source of randomness.
      max_merged: greatest m.

    Returns:
      The sentences, joined by ". ".
    """
    count = len(sentences)
    # All random numbers at once: a call for each would take longer than the rest.
    first, second, *others = rng.random(2 + max_merged).tolist()
    merged = 1 + int(first * max_merged)
    if merged == 1:
        return sentences[int(second * count)]
    if second < 0.5:
        start = int(others[0] * (count - merged)) if count > merged else 0
        return ". ".join(sentences[start : start + merged])
    if count < merged:
        return ". ".join(sentences[int(number * count)] for number in others[:merged])
    pool = list(sentences)
    return ". ".join(pool.pop(int(number * len(pool))) for number in others[:merged])
