"""A model's tokenizer as a `tokenizer.json`, which the library `tokenizers`, transformers and transformers.js read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.data.tokenizer import clip_vocabulary, find_tokenizer
from flair_jax.data.tokenizer_files import KINDS
from flair_jax.models.config import TextConfig
from flair_jax.models.tokenizer_names import split_name

if TYPE_CHECKING:
    import tokenizers

# CLIP's words: an English contraction, a run of letters, one digit, or a run of anything else but spaces.
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# What ftfy replaces in ordinary texts; it also mends broken Unicode, and HTML is unescaped, which no such file can say.
_QUOTES = {"[\u02bc\u2018-\u201b]": "'", "[\u201c-\u201f]": '"'}


def tokenizer_file(text: TextConfig) -> str:
    """The contents of the file: it gives T ids for each text, cut and padded as by `flair_jax.data.tokenizer`.

    CLIP's ids are the same but for texts with broken Unicode or HTML in them.

    Args:
      text: the model's `config.text`.

    Raises:
      ConfigError: if the model's tokenizer is unknown.
    """
    from tokenizers.processors import TemplateProcessing

    known = find_tokenizer(text.tokenizer)
    kind, file = split_name(text.tokenizer)
    made = _of_file(kind, file) if file else _clip()
    start = [] if known.start is None else [(_word(made, known.start), known.start)]
    end = (_word(made, known.end), known.end)
    template = [*(name for name, _ in start), "$A", end[0]]
    made.post_processor = TemplateProcessing(single=template, special_tokens=[*start, end])
    made.enable_truncation(text.context_length)
    made.enable_padding(length=text.context_length, pad_id=known.padding, pad_token=_word(made, known.padding))
    return str(made.to_str(pretty=False))


def _word(tokenizer: tokenizers.Tokenizer, number: int) -> str:
    return str(tokenizer.id_to_token(number))


def _of_file(kind: str, file: str) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers.normalizers import Lowercase, Sequence

    made = tokenizers.Tokenizer.from_file(file)
    if KINDS[kind].lower:
        made.normalizer = Sequence([Lowercase(), made.normalizer]) if made.normalizer else Lowercase()
    return made


def _clip() -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import Regex, normalizers, pre_tokenizers

    ids, merges, end_of_word = clip_vocabulary()
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=merges, end_of_word_suffix=end_of_word))
    replaced = [normalizers.Replace(Regex(quotes), plain) for quotes, plain in _QUOTES.items()]
    made.normalizer = normalizers.Sequence([normalizers.NFC(), *replaced, normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.add_special_tokens(list(ids)[-2:])  # where a text starts, and where it ends
    return made
