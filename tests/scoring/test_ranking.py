"""Ranks counted in parts, against the metrics of the whole matrix."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from sorting import made, sorted_metrics

from flair_jax import FlairError, retrieval_metrics
from flair_jax.parallel.processes import ALONE, Processes
from flair_jax.scoring.metrics import Ties
from flair_jax.scoring.ranking import ScoreBlock, rank


class Threads(Processes):
    """Processes that are threads of this process."""

    def __new__(cls, *_):
        return object.__new__(cls)

    def __init__(self, index: int, count: int, barrier: threading.Barrier, board: list) -> None:
        super().__init__(index, count)
        object.__setattr__(self, "barrier", barrier)
        object.__setattr__(self, "board", board)

    def gather(self, value):
        self.board[self.index] = value
        self.barrier.wait()
        everyone = list(self.board)
        self.barrier.wait()
        return everyone

    gather_arrays = gather


def blocks(scores: np.ndarray, size: int) -> list[ScoreBlock]:
    parts = [scores[start : start + size] for start in range(0, len(scores), size)]
    return [ScoreBlock(len(part), partial(np.asarray, part)) for part in parts]


def rank_on(count: int, scores: np.ndarray, image_of_text: np.ndarray, size: int) -> list:
    """What each of so many processes finds."""
    barrier, board = threading.Barrier(count, timeout=60), [None] * count
    processes = [Threads(index, count, barrier, board) for index in range(count)]

    def one(process: Threads):
        part = process.part(len(scores))
        try:
            return rank(blocks(scores[part.start : part.stop], size), part.start, image_of_text, process)
        except FlairError as error:
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, processes))


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("images", "more_texts"), [(3, 0), (13, 16)])
def test_hosts_find_the_metrics_of_the_whole(images: int, more_texts: int, count: int, size: int) -> None:
    """More processes than pictures, too."""
    for seed in range(5):
        scores, image_of_text = made(images, more_texts, seed)
        alone = rank(blocks(scores, size), 0, image_of_text, ALONE)
        assert alone[0] == retrieval_metrics(scores, image_of_text) == sorted_metrics(scores, image_of_text)
        assert rank_on(count, scores, image_of_text, size) == [alone] * count


def test_bounds_are_those_of_the_right_answer_before_and_behind_its_equals() -> None:
    """Against scores that a little more or less for all right pairs has freed of ties with wrong ones."""
    for seed in range(20):
        scores, image_of_text = made(2 + seed % 7, seed, seed)
        scores = np.maximum(scores, -1.0)
        metrics, ties = rank(blocks(scores, 3), 0, image_of_text, ALONE)
        right = np.arange(len(scores))[:, None] == image_of_text
        for change, bound in ((0.5, ties.ties_for), (-0.5, ties.ties_against)):
            expected = sorted_metrics(scores + change * right, image_of_text)
            assert {**metrics, **bound} == expected
            assert bound == {name: value for name, value in expected.items() if value != metrics[name]}
    distinct = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert rank(blocks(distinct, 2), 0, np.array([0, 1, 2, 2]), ALONE)[1] == Ties(
        {"text_to_image": 0.0, "image_to_text": 0.0}, {}, {}
    )


def test_a_score_that_is_not_a_number_is_reported_by_all() -> None:
    scores, image_of_text = made(13, 16, 0)
    scores[12, 5] = np.nan
    words = "similarity holds NaN: the model or its input is broken"
    assert rank_on(2, scores, image_of_text, 3) == [f"process 1: {words}", words]
