"""Embedding of texts in evaluation: in the order of the file, sorted by length, and packed, in one run.

    python benchmarks/texts.py

ViT-B/16's text tower in float32, texts as long as COCO's captions, as many at once as `flair-jax evaluate` embeds. In
the order of the file each block is cut to its longest text; sorted by length is how evaluation embeds them; packed they
lie several in a row of 128 tokens. The three take turns, and their features must be the same but for rounding.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from made_captions import COCO, made_captions
from tqdm import tqdm

from flair_jax.data.packing import Packing, rows_of
from flair_jax.models.flair import Flair, Params
from flair_jax.models.presets import read_config
from flair_jax.models.tokens import PackedTexts
from flair_jax.scoring.embedding import embed_tokens
from flair_jax.scoring.scorer import Retriever

ROW_TOKENS = 128
TOLERANCE = 1e-5  # of features of size 1 or so; float32, whose sums are in another order each way


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-FLAIR", help="preset (default %(default)s)")
    parser.add_argument("--texts", type=int, default=1024, help="texts embedded (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="texts at once (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default %(default)s)")
    options = parser.parse_args()
    model = Flair(read_config(options.model))
    tokens = made_captions(options.texts, COCO, model.config.text)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    ways = ways_to_embed(model, params, tokens, options.batch_size)
    features = {name: way() for name, way in ways.items()}  # compiled
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(options.rounds), unit="round"):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    lengths = model.text_lengths(tokens)
    print(
        f"{options.model}, {len(tokens):,} texts of {lengths.mean():.1f} tokens, {options.batch_size} at once, "
        f"float32, {os.cpu_count()} cores"
    )
    base, *_ = middle = [statistics.median(each) for each in seconds.values()]
    for name, each in zip(ways, middle, strict=True):
        print(f"{name:<28}{len(tokens) / each:>10.1f} texts/s{base / each:>8.2f} x")
    worst = max(float(np.abs(each - features["file order"]).max()) for each in features.values())
    print(f"largest difference of a feature: {worst:.1e}")
    if worst > TOLERANCE:
        sys.exit(f"the features are not the same to {TOLERANCE:.0e}")


def ways_to_embed(
    model: Flair, params: Params, tokens: np.ndarray, batch_size: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that give the features [N, D] of tokens [N, T], by name."""
    retriever = Retriever(model, params, jax.devices()[:1])
    on_device = jax.device_put(params)
    encode = jax.jit(model.encode_packed)

    def file_order() -> np.ndarray:
        starts = range(0, len(tokens), batch_size)
        return np.concatenate(
            [retriever.encode_texts(tokens[start : start + batch_size], pad_to=batch_size) for start in starts]
        )

    def by_length() -> np.ndarray:
        with tqdm(disable=True) as bar:
            return embed_tokens(model, retriever, tokens, batch_size, bar)

    def packed() -> np.ndarray:
        features = np.empty((len(tokens), model.config.embed_dim), np.float32)
        for chosen, texts in packed_blocks(model, tokens, batch_size):
            features[chosen] = np.asarray(encode(on_device, texts))[: len(chosen)]
        return features

    return {"file order": file_order, "sorted by length": by_length, "packed": packed}


def packed_blocks(model: Flair, tokens: np.ndarray, batch_size: int) -> list[tuple[np.ndarray, PackedTexts]]:
    """All texts packed together, in blocks of rows of one shape that hold about `batch_size` of them each.

    The numbers of a block's texts, and the block, whose last ends are of no text.
    """
    mean = float(model.text_lengths(tokens).mean())
    of_block = rows_of(batch_size, mean, ROW_TOKENS)
    blocks = -(-rows_of(len(tokens), 1.01 * mean, ROW_TOKENS) // of_block)
    whole, cut = Packing(ROW_TOKENS, blocks * of_block, 1, 1, model.config.text.end_of_text_id).pack(tokens)
    if cut:
        sys.exit(f"{cut} texts were cut")
    block_of, end = np.divmod(whole.ends[0], of_block * ROW_TOKENS)
    most = int(np.bincount(block_of).max())
    found = []
    for block in range(blocks):
        (chosen,) = np.nonzero(block_of == block)
        ends = np.zeros((1, most), np.int32)
        ends[0, : len(chosen)] = end[chosen]
        rows = slice(block * of_block, (block + 1) * of_block)
        found.append((chosen, PackedTexts(*(each[:, rows] for each in whole[:3]), ends)))
    return found


if __name__ == "__main__":
    main()
