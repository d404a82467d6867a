"""Search at scale: seconds for a sentence among many pictures, by what the page cache holds of them.

    python benchmarks/search.py --folder /some/disk   # about 10 GB, removed at the end

The index is made of random features of ViT-B/16's sizes (196 local tokens of 512 numbers, float16) and searched with a
random model of that size, in float32: the work does not depend on the values. Before a query the index is closed, and
its pages are dropped from the page cache: all of them, all but the global features, or none, and then the same sentence
was asked right before. Wall time depends on what else the machine does; the processor's time, summed over threads, less
so. Re-ranked scores are compared with those of `model.pool`, the plain way, and candidates with a sort of all cosines.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from flair_jax.data.tokenizer import tokenize
from flair_jax.models.flair import Flair, Params
from flair_jax.models.normalize import l2_normalize
from flair_jax.models.presets import PRESETS
from flair_jax.search import Searcher, SearchIndex
from flair_jax.search.build import SHARD_ROWS, add_faiss
from flair_jax.search.fingerprint import fingerprint
from flair_jax.search.manifest import Manifest
from flair_jax.search.shards import ShardWriter

WORDS = "red blue kettle gas stove steam wooden table left of right cat tall tree near small house dog round lamp"
BLOCK = 128


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where to make the index; 10 GB for 50,000 pictures")
    parser.add_argument("--pictures", type=int, default=50_000, help="pictures (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="queries of each kind (default %(default)s)")
    parser.add_argument("--rerank", type=int, default=200, help="candidates re-ranked (default %(default)s)")
    parser.add_argument("--keep", action="store_true", help="do not remove the index, for the next run")
    options = parser.parse_args()

    model = Flair(PRESETS["ViT-B-16-FLAIR"])
    params = model.init(jax.random.key(0))
    path = options.folder / "index"
    try:
        make_index(path, options.pictures, model, params)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(
            f"{options.pictures:,} pictures, {size / 1e9:.1f} GB, {options.rerank} re-ranked; {options.rounds} rounds"
        )
        print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {os.cpu_count()} cores, {processor()}")
        searcher = Searcher(SearchIndex.open(path), model, params)
        print(f"largest difference from brute force: {check(searcher, path, model, params, options.rerank):.1e}")
        table(searcher, path, options.rounds, options.rerank, "exact")
        start = time.perf_counter()
        add_faiss(path)
        print(f"FAISS built in {time.perf_counter() - start:.0f} s")
        table(searcher, path, options.rounds, options.rerank, "FAISS")
    finally:
        if not options.keep:
            shutil.rmtree(path, ignore_errors=True)


def make_index(path: Path, pictures: int, model: Flair, params: Params) -> None:
    """Fills an index with random features, unless that was done before with --keep."""
    if path.exists() and SearchIndex.open(path).complete:
        dataclasses.replace(Manifest.read(path), faiss=False).write(path)
        return
    config, rng = model.config, np.random.default_rng(0)
    shape = (1 + config.vision.grid**2, config.embed_dim)
    manifest = Manifest(fingerprint(model, params), "", "", shape[1], shape[0] - 1, "float16")
    path.mkdir(parents=True)
    manifest.write(path)
    writer = ShardWriter(path, manifest, SHARD_ROWS)
    for start in tqdm(range(0, pictures, BLOCK), desc="making the index", unit="block"):
        count = min(BLOCK, pictures - start)
        tokens = rng.standard_normal((count, *shape), np.float32)
        writer.add([(f"{start + number}.jpg", 1, 1) for number in range(count)], tokens)
    writer.flush()
    writer.finish([])


def check(searcher: Searcher, path: Path, model: Flair, params: Params, rerank: int) -> float:
    """Asserts that a search gives what brute force gives, and returns the largest difference of a cosine."""
    index, sentence = SearchIndex.open(path), next(sentences())
    text = jax.jit(model.encode_text)(params, tokenize(sentence))
    unit = np.asarray(text[0] / jnp.linalg.norm(text))
    cosines = np.concatenate([block @ unit for _, block in index.blocks()])
    candidates = np.argsort(-cosines, kind="stable")[:rerank]
    pool = jax.jit(lambda local: l2_normalize(model.pool(params, local, text))[:, 0] @ l2_normalize(text[0]))
    blocks = np.array_split(candidates, max(1, rerank // 25))
    plain = np.concatenate([pool(index.local_tokens(block).astype(np.float32)) for block in blocks])
    hits = searcher.search(sentence, top=rerank, rerank=rerank)
    scores = dict(zip((index.picture(int(row)) for row in candidates), plain, strict=True))
    assert {hit.path for hit in hits} == set(scores), "other candidates than brute force finds"
    assert [hit.path for hit in hits[:20]] == sorted(scores, key=lambda name: -scores[name])[:20], "another order"
    return float(max(abs(scores[hit.path] - hit.score) for hit in hits))


def table(searcher: Searcher, path: Path, rounds: int, rerank: int, name: str) -> None:
    """Prints one line for each state of the page cache."""
    texts = sentences()
    for state, dropped in (("nothing", "*"), ("global features", "local.npy"), ("all it needs", "")):
        walls, processors = [], []
        for _ in range(rounds + 2):  # the first two compile
            searcher.use(SearchIndex.open(path))  # lets go of what was mapped; pages in use cannot be dropped
            sentence = next(texts)
            if dropped:
                drop(path, dropped)
            else:
                searcher.search(sentence, top=20, rerank=rerank)
            wall, processor = time.perf_counter(), time.process_time()
            searcher.search(sentence, top=20, rerank=rerank)
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
        walls, processors = walls[2:], processors[2:]
        print(
            f"{name}, cached: {state:<16} median {statistics.median(walls):.3f} s, best {min(walls):.3f}, worst "
            f"{max(walls):.3f}; processor {statistics.median(processors):.3f} s, best {min(processors):.3f}; "
            f"memory {anonymous_memory():.2f} GiB; load {os.getloadavg()[0]:.0f}",
            flush=True,
        )


def drop(path: Path, pattern: str) -> None:
    """Drops an index's files from the page cache."""
    for file in path.rglob(pattern):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sentences() -> Iterator[str]:
    """Sentences of 14 words without end."""
    rng = np.random.default_rng(1)
    while True:
        yield " ".join(rng.choice(WORDS.split(), 14))


def anonymous_memory() -> float:
    """GiB that are the process's own: mapped files are not among them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 2**20


def processor() -> str:
    """Its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


if __name__ == "__main__":
    main()
