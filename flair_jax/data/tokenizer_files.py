"""Tokenizers whose vocabulary is a file of the library `tokenizers`, `tokenizer.json`. Imports no JAX.

Such a file says how a text is cut into tokens; what else a model expects of its texts is a row of `KINDS`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flair_jax.data.tokenizer import Tokenizer
from flair_jax.errors import ConfigError
from flair_jax.files import expand, local_copy
from flair_jax.packages import how_to_install

if TYPE_CHECKING:
    import tokenizers


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a model expects of its texts.

    Attributes:
      description: a few words for people.
      lower: whether texts are put into lower case first.
      end: the token at the end of a text.
      padding: the token that follows it.
    """

    description: str
    lower: bool
    end: str
    padding: str


# SigLIP 2 was trained on lower-case texts without a token for the start, padded behind (`Siglip2Tokenizer` of
# transformers 5.24; huggingface/transformers pull request 43101).
KINDS: dict[str, Kind] = {
    "siglip2": Kind("SigLIP 2's: Gemma's vocabulary, in lower case", lower=True, end="<eos>", padding="<pad>")
}


def open_tokenizer(kind: str, file: str) -> Tokenizer:
    """The tokenizer of a kind in a file.

    Raises:
      ConfigError: if the kind is unknown, or the file is missing, damaged or without the kind's tokens, or the library
        `tokenizers` is not installed.
    """
    name = f"text.tokenizer={kind}:{file}"
    if kind not in KINDS:
        raise ConfigError(f"{name}: the kinds of tokenizers in files are {', '.join(KINDS)}")
    found, path = KINDS[kind], str(local_copy(expand(file)))
    if not Path(path).is_file():
        raise ConfigError(
            f"{name}: there is no such file; a checkpoint's tokenizer stays where `flair-jax convert` put it, so bring "
            "it back, or change the name in the checkpoint's config.json"
        )
    try:
        vocabulary = _read(path)
    except ImportError:
        raise ConfigError(f"{name} needs tokenizers: {how_to_install('tokenizers')}") from None
    except Exception as error:  # the library raises bare ones
        raise ConfigError(f"{name}: cannot be read as a tokenizer ({error})") from None
    end, padding = vocabulary.token_to_id(found.end), vocabulary.token_to_id(found.padding)
    if end is None or padding is None:
        raise ConfigError(f"{name}: the vocabulary lacks {found.end} or {found.padding}, so it is of another kind")
    return Tokenizer(
        found.description,
        functools.partial(_tokenize, path, found, end, padding),
        functools.partial(_count, path, found),
        start=None,
        end=end,
        padding=padding,
        decode=functools.partial(_decode, path),
    )


@functools.lru_cache(maxsize=4)
def _read(path: str) -> tokenizers.Tokenizer:
    import tokenizers

    read = tokenizers.Tokenizer.from_file(path)
    read.no_truncation()
    read.no_padding()
    return read


@functools.cache
def _lower_case() -> tokenizers.normalizers.Lowercase:
    import tokenizers.normalizers

    return tokenizers.normalizers.Lowercase()  # letter by letter, which Python's is not


def _encode(path: str, kind: Kind, text: str) -> list[int]:
    """Ids of a text, without an end."""
    if not isinstance(text, str):
        raise TypeError(f"tokenize takes text, found {type(text).__name__}: {text!r:.80}")
    if kind.lower:
        text = _lower_case().normalize_str(text)
    return _read(path).encode(text, add_special_tokens=False).ids


def _tokenize(path: str, kind: Kind, end: int, padding: int, texts: Sequence[str], context_length: int) -> np.ndarray:
    """Ids int32 [N, T] of N texts."""
    ids = np.full((len(texts), context_length), padding, np.int32)
    for row, text in zip(ids, texts, strict=True):
        tokens = _encode(path, kind, text)[: context_length - 1]
        row[: len(tokens) + 1] = [*tokens, end]
    return ids


def _decode(path: str, ids: Sequence[int]) -> str:
    return _read(path).decode(list(ids), skip_special_tokens=False)


def _count(path: str, kind: Kind, texts: Sequence[str]) -> np.ndarray:
    """How many tokens each of N texts has, without an end: int64 [N]."""
    return np.array([len(_encode(path, kind, text)) for text in texts], np.int64)
