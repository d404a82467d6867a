"""Searching: equal to brute force, its edges and messages."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from made_pictures import draw
from numeric import assert_close

from flair_jax import normalize, preprocess, tokenize
from flair_jax.errors import FlairError, SearchIndexError
from flair_jax.search import Hit, Searcher, SearchIndex

SENTENCE = "a red kettle on a gas stove, steam at its spout"


@pytest.fixture(params=["float16", "bfloat16"])
def index(request, make_index, drawn, tmp_path) -> SearchIndex:
    make_index(drawn, tmp_path / "index", local_dtype=request.param)
    return SearchIndex.open(tmp_path / "index")


def brute_force(small_model, index: SearchIndex) -> tuple[np.ndarray, np.ndarray]:
    """Text-conditioned and global cosines by the model's own logits, picture by picture, from pixels."""
    model, params = small_model
    paths = [index.picture(row) for row in range(len(index))]
    images = normalize(np.stack([preprocess(path, model.config.vision.image_size) for path in paths]))
    tokens, scale = tokenize(SENTENCE), np.exp(params["logit_scale"])
    logits, global_logits = (
        jax.jit(model.logits)(params, images, tokens),
        jax.jit(model.global_logits)(params, images, tokens),
    )
    return np.asarray((logits - params["logit_bias"]) / scale)[:, 0], np.asarray(global_logits / scale)[:, 0]


def test_equals_brute_force(small_model, index) -> None:
    """All pictures, by `model.logits` from pixels: what differs is the rounding of stored tokens."""
    scores, global_scores = brute_force(small_model, index)
    hits = Searcher(index, *small_model).search(SENTENCE, top=11, rerank=11)
    row = {index.picture(row): row for row in range(len(index))}
    order = [row[hit.path] for hit in hits]
    assert sorted(order) == list(range(11))
    assert_close([hit.global_score for hit in hits], global_scores[order])
    # Of cosines; measured 3e-4 and 2e-3. Neighbours in rank may change places within that.
    tolerance = 1e-3 if index.manifest.local_dtype == "float16" else 8e-3
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], atol=tolerance)
    assert (np.diff([hit.score for hit in hits]) <= 0).all()


@pytest.mark.parametrize("rerank", [3, 7, 11, 10_000])
def test_equals_brute_force_over_the_candidates(small_model, retriever, index, rerank: int) -> None:
    """The `rerank` best by global cosine, ordered by `score_all` of the very tokens that are stored."""
    _, global_scores = brute_force(small_model, index)
    candidates = np.argsort(-global_scores)[:rerank]
    text = retriever.encode_texts(tokenize(SENTENCE))
    local = index.local_tokens(np.arange(11)).astype(np.float32)
    scores = retriever.score_all(local, retriever.prepare_texts(text))[:, 0]
    expected = sorted(candidates, key=lambda row: -scores[row])[:3]
    hits = Searcher(index, *small_model).search(SENTENCE, top=3, rerank=rerank)
    assert [hit.path for hit in hits] == [index.picture(row) for row in expected]
    assert_close([hit.score for hit in hits], scores[expected])


def test_more_hits_than_candidates_or_pictures(small_model, index) -> None:
    searcher = Searcher(index, *small_model)
    every = searcher.search(SENTENCE, top=500, rerank=1)
    assert len(every) == 11, "all that are asked for are scored with pooling"
    assert every == searcher.search(SENTENCE, top=11, rerank=11)
    assert every[:2] == searcher.search(SENTENCE, top=2, rerank=11)
    assert isinstance(every[0], Hit)
    assert [type(value) for value in every[0]] == [str, float, float]


def test_threads_may_search_at_once(small_model, index) -> None:
    searcher, sentences = Searcher(index, *small_model), ["a red kettle", "a dog", "two cats on a mat"] * 3
    alone = [searcher.search(sentence, top=5, rerank=7) for sentence in sentences]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda sentence: searcher.search(sentence, top=5, rerank=7), sentences)) == alone


def test_ties_keep_the_order_of_the_index(small_model, make_index, tmp_path) -> None:
    draw(tmp_path / "pictures" / "5.png", 5)
    for name in ("0", "1", "3", "7"):
        draw(tmp_path / "pictures" / f"{name}.png", 1)
    make_index(tmp_path / "pictures", tmp_path / "index")
    searcher = Searcher(SearchIndex.open(tmp_path / "index"), *small_model)
    names = [Path(hit.path).stem for hit in searcher.search(SENTENCE, top=5)]
    assert "".join(names).replace("5", "") == "0137"


def test_an_index_of_nothing(small_model, make_index, tmp_path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.png").write_text("?")
    assert len(make_index(tmp_path / "pictures", tmp_path / "index").broken) == 1
    assert Searcher(SearchIndex.open(tmp_path / "index"), *small_model).search(SENTENCE) == []


def test_the_compute_dtype_is_free(small_model, index) -> None:
    """bfloat16 with what float32 indexed; within 3 % of a cosine."""
    model, params = small_model
    half = type(model)(dataclasses.replace(model.config, dtype="bfloat16"))
    scores = {hit.path: hit.score for hit in Searcher(index, model, params).search(SENTENCE)}
    halves = {hit.path: hit.score for hit in Searcher(index, half, params).search(SENTENCE)}
    np.testing.assert_allclose([halves[path] for path in scores], list(scores.values()), atol=3e-2)


def test_messages(small_model, index) -> None:
    model, params = small_model
    with pytest.raises(
        SearchIndexError, match="was made by another checkpoint than the one at hand, .*checkpoint; sear"
    ):
        Searcher(index, model, {**params, "logit_bias": params["logit_bias"] + 1})
    searcher = Searcher(index, model, params)
    with pytest.raises(FlairError, match="the sentence is empty"):
        searcher.search(" \n")
    with pytest.raises(FlairError, match="top=0 and rerank=200 must be at least 1"):
        searcher.search(SENTENCE, top=0)
    with pytest.raises(FlairError, match="top=20 and rerank=0 must be at least 1"):
        searcher.search(SENTENCE, rerank=0)


def test_replaced_since_it_was_opened(small_model, make_index, drawn, index) -> None:
    searcher = Searcher(index, *small_model)
    before = searcher.search(SENTENCE)
    searcher.use(SearchIndex.open(index.path))
    shutil.rmtree(index.path / "00001")
    with pytest.raises(SearchIndexError, match="was replaced since it was opened; open it again"):
        searcher.search(SENTENCE)
    make_index(drawn, index.path)
    searcher.use(SearchIndex.open(index.path))
    assert sorted(searcher.search(SENTENCE)) == sorted(before)
