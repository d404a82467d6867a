"""Candidates: exact ones, ties, and those of FAISS."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numeric import assert_close

from flair_jax.errors import SearchIndexError
from flair_jax.search import SearchIndex, build
from flair_jax.search.candidates import FAISS_FILE, ExactCandidates, FaissCandidates, highest
from flair_jax.search.manifest import Manifest
from flair_jax.search.shards import ShardWriter


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 50])
def test_highest_breaks_ties_by_the_lower_index(count: int) -> None:
    scores = np.array([1, 5, 3, 3, 5, 3, 0], np.float32)
    expected = sorted(range(7), key=lambda i: (-scores[i], i))[:count]
    assert highest(scores, count).tolist() == sorted(expected)


@pytest.fixture
def clusters(tmp_path) -> tuple[Path, np.ndarray]:
    """An index of 3,000 vectors around 30 centres, of length 7, and texts near some of them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 16))
    features = (centres[rng.integers(0, 30, 3000)] + 0.4 * rng.normal(size=(3000, 16))).astype(np.float32)
    features *= 7 / np.linalg.norm(features, axis=1, keepdims=True)
    manifest = Manifest("fingerprint", "", "", 16, 1, "float16")
    manifest.write(tmp_path / "index")
    writer = ShardWriter(tmp_path / "index", manifest, 512)
    for start in range(0, 3000, 128):
        tokens = np.repeat(features[start : start + min(128, writer.free), None], 2, axis=1)
        writer.add([(f"{start + n}.png", 1, 1) for n in range(len(tokens))], tokens)
    writer.flush()
    writer.finish([])
    return tmp_path / "index", (centres[:5] + 0.2 * rng.normal(size=(5, 16))).astype(np.float32)


def test_faiss_finds_what_exact_search_finds(clusters) -> None:
    path, texts = clusters
    build.add_faiss(path)
    index = SearchIndex.open(path)
    assert index.manifest.faiss
    exact, inverted = ExactCandidates(index), FaissCandidates(index)
    for text in texts:
        wanted, found = exact(text, 100), inverted(text, 100)
        # 16 of 60 lists are read; measured 0.99 and more.
        assert len(np.intersect1d(wanted.rows, found.rows)) >= 95
        assert (np.diff(found.rows) > 0).all()
        both, theirs, ours = np.intersect1d(wanted.rows, found.rows, return_indices=True)
        assert len(both)
        assert_close(found.scores[ours], wanted.scores[theirs])
        cosines = index.global_scores(text)
        assert_close(wanted.scores, np.sort(cosines)[-100:][np.argsort(np.argsort(cosines)[-100:])])
    assert inverted(texts[0], 2500).rows.tolist() == exact(texts[0], 2500).rows.tolist(), "more than the lists hold"
    assert len(inverted(texts[0], 9999).rows) == 3000


def test_faiss_is_not_used_for_other_shards(clusters) -> None:
    path, _ = clusters
    build.add_faiss(path)
    writer = ShardWriter(path, Manifest.read(path), 512)
    assert writer.keep(lambda row: row[0] != "7.png") == 1
    assert not Manifest.read(path).faiss
    ShardWriter(path, Manifest.read(path), 512)
    assert not (path / FAISS_FILE).exists()
    build.add_faiss(path)
    assert Manifest.read(path).faiss
    build.add_faiss(path)


def test_faiss_re_ranked_the_same_way(small_model, make_index, drawn, tmp_path) -> None:
    from flair_jax.search import Searcher

    make_index(drawn, tmp_path / "index")
    without = Searcher(SearchIndex.open(tmp_path / "index"), *small_model)
    build.add_faiss(tmp_path / "index")
    searcher = Searcher(SearchIndex.open(tmp_path / "index"), *small_model)
    assert without.exact
    assert not searcher.exact
    for rerank in (4, 11):
        ours, theirs = (each.search("a red kettle", top=3, rerank=rerank) for each in (searcher, without))
        assert [hit.path for hit in ours] == [hit.path for hit in theirs]
        assert_close([hit[1:] for hit in ours], [hit[1:] for hit in theirs])


def test_faiss_messages(clusters, monkeypatch) -> None:
    path, _ = clusters
    build.add_faiss(path)
    (path / FAISS_FILE).write_bytes(b"?")
    with pytest.raises(
        SearchIndexError, match="candidates.faiss: cannot be read; run `flair-jax index` again with --f"
    ):
        FaissCandidates(SearchIndex.open(path))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SearchIndexError, match='FAISS is not installed: .*pip install.* "faiss-cpu>=1.9"'):
        build.add_faiss(build_again(path))


def build_again(path: Path) -> Path:
    """The index without its FAISS file."""
    writer = ShardWriter(path, Manifest.read(path), 512)
    writer.keep(lambda row: row[0] != "7.png")
    return path
