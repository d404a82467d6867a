"""Captions of the same tokens, which tie with each other whatever the batch, the device and the mode."""

import jax
import numpy as np
import pytest
from PIL import Image

from flair_jax.data.sets.retrieval_data import RetrievalData
from flair_jax.evaluate.retrieval import RETRIEVAL_MODES, RetrievalSettings, evaluate
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever

# Shorter and longer captions around those that are the same, so that these are embedded in batches of other shapes.
SAME = ("A dog runs on the wet grass", "a dog  runs on the wet grass", "a dog runs on the wet GRASS ")
CAPTIONS = ("a b c d e f g h", *SAME[:2], "a dog " * 8, SAME[2], "a cat")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> RetrievalData:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(len(CAPTIONS))]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return RetrievalData(paths, list(CAPTIONS), np.arange(len(CAPTIONS)))


@pytest.fixture(scope="module")
def retrievers(small_model) -> list[Retriever]:
    """On one device and on eight."""
    return [Retriever(*small_model, jax.devices()[:count]) for count in (1, 8)]


@pytest.mark.parametrize("mode", RETRIEVAL_MODES)
def test_the_same_caption_of_three_pictures(small_model, retrievers, data, mode: str) -> None:
    """Half of the pictures have a caption that two others have too. All texts are candidates in mode top-k."""
    alone, together = (
        evaluate(small_model[0], retriever, data, RetrievalSettings(mode, len(CAPTIONS), batch_size), BlockStore(None))
        for retriever, batch_size in zip(retrievers, (3, 64), strict=True)
    )
    assert alone.ties.share == {"text_to_image": 0.0, "image_to_text": 0.5}
    assert (together.metrics, together.ties) == (alone.metrics, alone.ties)


def test_what_was_not_scored_ties(small_model, retrievers, data) -> None:
    outcome = evaluate(small_model[0], retrievers[0], data, RetrievalSettings("top-k", 1, 3), BlockStore(None))
    assert outcome.ties.share["image_to_text"] > 0.5
    assert outcome.ties.ties_against["text_to_image_mean_rank"] > outcome.metrics["text_to_image_mean_rank"]
    assert outcome.ties.ties_for["text_to_image_mean_rank"] < outcome.metrics["text_to_image_mean_rank"]
