"""Tokenizers by name, and CLIP's byte-pair encoding, equal id for id to the tokenizer of the PyTorch release.

Imports no JAX, so that input workers start fast.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import heapq
import html
import itertools
import re
from collections.abc import Callable, Sequence
from importlib import resources

import ftfy
import numpy as np
import regex

from flair_jax.errors import ConfigError
from flair_jax.models.config import TextConfig
from flair_jax.models.tokenizer_names import split_name

CONTEXT_LENGTH = 77
_START, _END = "<start_of_text>", "<end_of_text>"
_END_OF_WORD = "</w>"

# A literal marker, an English contraction, a run of letters, one digit, or a run of anything else but spaces.
_WORD = regex.compile(
    rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
# The same for lower-case printable ASCII, by a faster engine.
_ASCII_WORD = re.compile(rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^ a-z0-9]+")
_SPACES = regex.compile(r"\s+")


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH) -> np.ndarray:
    """Token ids of texts.

    Args:
      texts: one text or N of them.
      context_length: T; a longer text is cut, and its last token is still the end of text.

    Returns:
      int32 [N, T]: start of text (49406), the text's tokens, end of text (49407), then zeros.

    Raises:
      TypeError: if something other than text is given.
      ValueError: if `context_length` leaves no room for the start and end tokens.
    """
    if context_length < 2:
        raise ValueError(f"context_length={context_length} leaves no room for the start and end tokens")
    if isinstance(texts, str):
        texts = [texts]
    ids = np.zeros((len(texts), context_length), np.int32)
    for row, text in zip(ids, texts, strict=True):
        if not isinstance(text, str):
            raise TypeError(f"tokenize takes text, found {type(text).__name__}: {text!r:.80}")
        tokens = _vocabulary().encode(text)[: context_length - 2]
        row[: len(tokens) + 2] = [_vocabulary().start, *tokens, _vocabulary().end]
    return ids


def count_tokens(texts: Sequence[str]) -> np.ndarray:
    """Number of tokens of each text, without start and end, and not cut off: int64 [N]."""
    return np.array([len(_vocabulary().encode(text)) for text in texts], np.int64)


def decode(ids: Sequence[int]) -> str:
    """The text that token ids stand for, in lower case, without start and end; half a letter is U+FFFD."""
    return _vocabulary().decode(ids)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """How a model's texts become token ids; it goes to worker processes, so its functions are a module's own.

    Attributes:
      description: a few words for people.
      tokenize: (N texts, T) -> int32 [N, T]; a longer text is cut, and its last token is still `end`.
      count_tokens: N texts -> int64 [N], how many tokens each has, without `start` and `end`.
      start: id of the token that each text starts with; None if there is none.
      end: id of the token that each text ends with.
      padding: id of the tokens that follow.
      decode: ids without `start`, `end` and `padding` -> the text that they stand for; None if it cannot tell.
    """

    description: str
    tokenize: Callable[[Sequence[str], int], np.ndarray]
    count_tokens: Callable[[Sequence[str]], np.ndarray]
    start: int | None
    end: int
    padding: int
    decode: Callable[[Sequence[int]], str] | None = None

    def room(self, context_length: int) -> int:
        """How many tokens of its own a text may have."""
        return context_length - 1 - (self.start is not None)


# `TextConfig.tokenizer` is a name here. CLIP's (Radford et al. 2021) is that of all released models.
TOKENIZERS: dict[str, Tokenizer] = {
    "clip": Tokenizer(
        "CLIP's byte-pair encoding", tokenize, count_tokens, start=49406, end=49407, padding=0, decode=decode
    )
}


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]], str]:
    """CLIP's byte-pair encoding for other programs: ids by word, merges by rank, and what marks the end of a word."""
    return _vocabulary().ids, list(_vocabulary().rank), _END_OF_WORD


def find_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a name: one of `TOKENIZERS`, or `KIND:FILE`, see `flair_jax.data.tokenizer_files`.

    Raises:
      ConfigError: if there is none.
    """
    kind, file = split_name(name)
    if file:
        from flair_jax.data.tokenizer_files import open_tokenizer

        return open_tokenizer(kind, file)
    if name not in TOKENIZERS:
        raise ConfigError(f"text.tokenizer={name!r} is unknown; the tokenizers are {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name]


def tokenize_for(text: TextConfig, texts: Sequence[str]) -> np.ndarray:
    """Token ids int32 [N, T] of texts, as a model takes them: by its own tokenizer, T its context length.

    Args:
      text: the model's `config.text`.
      texts: N of them.

    Raises:
      ConfigError: if the model's tokenizer is unknown.
    """
    return find_tokenizer(text.tokenizer).tokenize(texts, text.context_length)


def clean(text: str) -> str:
    """Text as the encoding sees it: mended Unicode, HTML unescaped twice, single spaces, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _SPACES.sub(" ", text.strip()).strip().lower()


def _split(text: str) -> list[str]:
    # Most captions are plain: printable ASCII without an ampersand is not changed by ftfy or by unescaping HTML.
    if text.isascii() and text.isprintable() and "&" not in text:
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(clean(text))


@functools.cache
def _vocabulary() -> _Vocabulary:
    return _Vocabulary()


class _Vocabulary:
    """Ids of the shipped vocabulary and the merges that lead to them."""

    def __init__(self) -> None:
        packed = resources.files(__package__) / "clip_vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
        lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")
        self._letter = _letter_by_byte()
        letters = list(self._letter.values())
        # The file's first line is a header. 49,408 ids less two per byte and the two markers leave the merges in use.
        merges = [tuple(line.split()) for line in lines[1 : 49408 - 2 * 256 - 2 + 1]]
        words = [*letters, *(letter + _END_OF_WORD for letter in letters)]
        words += ["".join(merge) for merge in merges]
        self._words = [*words, _START, _END]
        self.ids = {word: index for index, word in enumerate(self._words)}
        self.rank = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self.start, self.end = self.ids[_START], self.ids[_END]
        # Words repeat: caching whole words is most of the speed. The bound keeps long-lived workers small.
        self._encode_word = functools.lru_cache(maxsize=1 << 17)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""
        return [token for word in _split(text) for token in self._encode_word(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, a space after each word."""
        letters = "".join(self._words[token] for token in ids if token not in (self.start, self.end))
        byte_of = {letter: byte for byte, letter in self._letter.items()}
        words = letters.replace(_END_OF_WORD, " ")
        return bytes(byte_of.get(letter, ord(" ")) for letter in words).decode("utf-8", "replace").strip()

    def _merge(self, word: str) -> tuple[int, ...]:
        if word in (_START, _END):
            return (self.ids[word],)
        parts = [self._letter[byte] for byte in word.encode("utf-8")]
        parts[-1] += _END_OF_WORD
        # The merges lead every word of the vocabulary to its own id; the tests try each.
        whole = self.ids.get("".join(parts))
        return (whole,) if whole is not None else self._merge_parts(parts)

    def _merge_parts(self, parts: list[str]) -> tuple[int, ...]:
        """Merges pairs, lowest rank first and from the left, in O(n log n), since words may be of any length.

        The result of a merge takes part in later merges only, so ranks never decrease.
        """
        parts = list(parts)
        after = list(range(1, len(parts) + 1))  # where the next part begins
        before = list(range(-1, len(parts) - 1))
        waiting = [(self.rank[pair], left) for left, pair in enumerate(itertools.pairwise(parts)) if pair in self.rank]
        heapq.heapify(waiting)
        while waiting:
            rank, left = heapq.heappop(waiting)
            right = after[left]
            if right == len(parts) or self.rank.get((parts[left], parts[right])) != rank:
                continue  # one of the two is part of something else by now
            parts[left] += parts[right]
            parts[right] = ""
            after[left] = after[right]
            if after[left] < len(parts):
                before[after[left]] = left
            for start in (before[left], left):
                if start >= 0 and after[start] < len(parts):
                    new = self.rank.get((parts[start], parts[after[start]]))
                    if new is not None:
                        heapq.heappush(waiting, (new, start))
        return tuple(self.ids[part] for part in parts if part)


def _letter_by_byte() -> dict[int, str]:
    """A printable character for each byte: itself where it has one, else one above U+00FF. In vocabulary order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}
