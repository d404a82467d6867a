"""Names of tokenizers whose vocabulary is a file: `KIND:FILE`, as in `siglip2:tokenizer.json`. Imports no JAX.

In a model's description the file lies beside it, so that the folder can be copied; what reads the description makes the
name absolute.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flair_jax.files import absolute, expand
from flair_jax.models.config import FlairConfig, TextConfig

# The file's name in a checkpoint.
FILE = "tokenizer.json"


def split_name(name: str) -> tuple[str, str]:
    """The kind of a tokenizer, and its file or ""."""
    kind, _, file = name.partition(":")
    return kind, file


def with_file(text: TextConfig, kind: str, file: Path) -> TextConfig:
    """A text tower with a tokenizer of a kind, read from a file."""
    return dataclasses.replace(text, tokenizer=f"{kind}:{absolute(file)}")


def found_beside(config: FlairConfig, folder: Path) -> FlairConfig:
    """A model as its description in `folder` means it: a tokenizer's file that is there has its whole name."""
    kind, file = split_name(config.text.tokenizer)
    if file != FILE:
        return config
    return dataclasses.replace(config, text=with_file(config.text, kind, folder / FILE))


def kept_beside(config: FlairConfig, folder: Path) -> FlairConfig:
    """Copies the tokenizer's file of a model into a folder, if it has one; the model as a description there says it.

    Raises:
      OSError: if the file cannot be read, or not written.
    """
    kind, file = split_name(config.text.tokenizer)
    if not file:
        return config
    (folder / FILE).write_bytes(expand(file).read_bytes())
    return dataclasses.replace(config, text=dataclasses.replace(config.text, tokenizer=f"{kind}:{FILE}"))
