import numpy as np
import pytest
from sorting import made, sorted_metrics

from flair_jax import FlairError, retrieval_metrics
from flair_jax.scoring import metrics as metrics_module
from flair_jax.scoring.metrics import Ranks, measure


@pytest.mark.golden
def test_metrics_equal_the_original(golden) -> None:
    data = np.load(golden / "retrieval.npz")
    cases = sorted({key.split("/metrics/")[0] for key in data if "/metrics/" in key} - {"e2e/top_k"})
    assert len(cases) >= 3
    for case in cases:
        end_to_end = case.startswith("e2e/")
        similarity = data[f"{case}/scores" if end_to_end else f"{case}/similarity"]
        image_of_text = data["e2e/image_of_text" if end_to_end else f"{case}/image_of_text"]
        expected = {key.split("/metrics/")[1]: data[key].item() for key in data if key.startswith(f"{case}/metrics/")}
        assert retrieval_metrics(similarity, image_of_text) == expected, case


def test_by_hand() -> None:
    similarity = np.array([[0.9, 0.1, 0.8, 0.3], [0.2, 0.4, 0.7, 0.5]])
    metrics = retrieval_metrics(similarity, np.array([0, 0, 1, 1]))
    assert metrics["text_to_image_R@1"] == 0.5  # texts 0 and 3 find their picture; 1 and 2 do not
    assert metrics["text_to_image_mean_rank"] == 1.5
    assert metrics["image_to_text_R@1"] == 1.0


@pytest.mark.parametrize("rows", [1, 3, 256])
@pytest.mark.parametrize("values", [1, 2, 5, 1000])
def test_equal_scores_rank_as_a_stable_descending_sort_leaves_them(values: int, rows: int, monkeypatch) -> None:
    """Uneven captions, and pairs that were not scored; whole numbers are taken too."""
    monkeypatch.setattr(metrics_module, "_ROWS", rows)
    for seed in range(20):
        scores, image_of_text = made(1 + seed % 13, 1 + 3 * seed, seed, values)
        assert retrieval_metrics(scores, image_of_text) == sorted_metrics(scores, image_of_text)
        whole = np.maximum(scores, 0).astype(int)
        assert retrieval_metrics(whole, image_of_text) == sorted_metrics(whole, image_of_text)


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two_rounded_down() -> None:
    """Ranks from 0 of the texts: 0, 0, 0, 3, 5, 5."""
    similarity = np.zeros((6, 6))
    for text, rank in enumerate((0, 0, 3, 5, 5, 0)):
        similarity[:, text] = 1.0
        similarity[text, text] = 0.5
        similarity[np.flatnonzero(np.arange(6) != text)[rank:], text] = 0.0
    both = retrieval_metrics(similarity, np.arange(6))
    assert both["text_to_image_median_rank"] == 2  # floor((0 + 3) / 2) + 1
    assert both["text_to_image_mean_rank"] == pytest.approx(1 + 13 / 6)


def test_a_constant_score_earns_nothing_unnoticed() -> None:
    """The first picture wins for every text; that ties decide everything is said, and what they hide is nothing."""
    ranks = Ranks(np.arange(20), np.zeros(20, int), np.full(20, 19))
    metrics, ties = measure({"x": ranks}, lambda kind, column: {f"{kind}_R@1": float((column < 1).mean()), "same": 1.0})
    assert metrics == {"x_R@1": 0.05, "same": 1.0}
    assert (ties.share, ties.ties_for, ties.ties_against) == ({"x": 1.0}, {"x_R@1": 1.0}, {"x_R@1": 0.0})
    constant = retrieval_metrics(np.zeros((20, 40)), np.repeat(np.arange(20), 2))
    assert constant == sorted_metrics(np.zeros((20, 40)), np.repeat(np.arange(20), 2))
    assert constant["text_to_image_R@1"] == constant["image_to_text_R@1"] == 0.05


def test_unscored_pairs_rank_last() -> None:
    similarity = np.array([[2.0, -np.inf], [-np.inf, -np.inf]])
    metrics = retrieval_metrics(similarity, np.array([0, 1]))
    assert metrics["text_to_image_R@1"] == 0.5
    assert metrics["text_to_image_mean_rank"] == 1.5
    assert metrics["image_to_text_R@1"] == 0.5  # of the second picture's two texts, the first ranks first


def test_order_of_texts_is_free() -> None:
    rng = np.random.default_rng(0)
    similarity, image_of_text = rng.standard_normal((6, 18)), np.repeat(np.arange(6), 3)
    order = rng.permutation(18)
    assert retrieval_metrics(similarity, image_of_text) == retrieval_metrics(similarity[:, order], image_of_text[order])


@pytest.mark.parametrize(
    ("similarity", "image_of_text", "message"),
    [
        (np.zeros((2, 3)), [0, 1], r"must be \[I, T\] and \[T\]"),
        (np.zeros((0, 0)), [], "not empty"),
        (np.zeros((2, 2)), [0, 2], "integer from 0 to 1"),
        (np.zeros((2, 2)), [0.0, 1.0], "integer from 0 to 1"),
        (np.zeros((3, 2)), [0, 2], "no text for 1 image, such as number 1"),
        (np.full((2, 2), np.nan), [0, 1], "NaN"),
    ],
)
def test_wrong_input(similarity, image_of_text, message: str) -> None:
    with pytest.raises(FlairError, match=message):
        retrieval_metrics(similarity, np.array(image_of_text))
