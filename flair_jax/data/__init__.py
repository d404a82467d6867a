"""Text, images and data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.data.captions import sample_caption as sample_caption
    from flair_jax.data.captions import sentences_of as sentences_of
    from flair_jax.data.captions import split_sentences as split_sentences
    from flair_jax.data.damage import Damage as Damage
    from flair_jax.data.damage import LeftOut as LeftOut
    from flair_jax.data.image import open_rgb as open_rgb
    from flair_jax.data.image import preprocess as preprocess
    from flair_jax.data.packing import Packing as Packing
    from flair_jax.data.pipeline import LocalBatch as LocalBatch
    from flair_jax.data.pipeline import Sample as Sample
    from flair_jax.data.pipeline import SampleSettings as SampleSettings
    from flair_jax.data.pipeline import batches as batches
    from flair_jax.data.pipeline import load_sample as load_sample
    from flair_jax.data.shards import expand_shards as expand_shards
    from flair_jax.data.sources import Concatenated as Concatenated
    from flair_jax.data.sources import Record as Record
    from flair_jax.data.sources import Source as Source
    from flair_jax.data.sources import TfdsSource as TfdsSource
    from flair_jax.data.tar_index import ShardIndex as ShardIndex
    from flair_jax.data.tar_index import build_index as build_index
    from flair_jax.data.tar_index import index_shard as index_shard
    from flair_jax.data.tars import TarSource as TarSource
    from flair_jax.data.tokenizer import CONTEXT_LENGTH as CONTEXT_LENGTH
    from flair_jax.data.tokenizer import TOKENIZERS as TOKENIZERS
    from flair_jax.data.tokenizer import Tokenizer as Tokenizer
    from flair_jax.data.tokenizer import count_tokens as count_tokens
    from flair_jax.data.tokenizer import tokenize as tokenize
    from flair_jax.data.tokenizer import tokenize_for as tokenize_for
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "captions": ["sample_caption", "sentences_of", "split_sentences"],
            "damage": ["Damage", "LeftOut"],
            "image": ["open_rgb", "preprocess"],
            "packing": ["Packing"],
            "pipeline": ["LocalBatch", "Sample", "SampleSettings", "batches", "load_sample"],
            "shards": ["expand_shards"],
            "sources": ["Concatenated", "Record", "Source", "TfdsSource"],
            "tar_index": ["ShardIndex", "build_index", "index_shard"],
            "tars": ["TarSource"],
            "tokenizer": ["CONTEXT_LENGTH", "TOKENIZERS", "Tokenizer", "count_tokens", "tokenize", "tokenize_for"],
        },
    )
