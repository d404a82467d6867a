import numpy as np
import pytest

from flair_jax import FlairError, retrieval_metrics


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


def test_a_constant_score_earns_nothing() -> None:
    metrics = retrieval_metrics(np.zeros((20, 40)), np.repeat(np.arange(20), 2))
    assert all(
        metrics[f"{direction}_R@{k}"] == 0 for direction in ("text_to_image", "image_to_text") for k in (1, 5, 10)
    )
    assert metrics["text_to_image_mean_rank"] == 20
    assert metrics["image_to_text_mean_rank"] == 39  # behind the 38 wrong texts


def test_a_tie_with_a_wrong_answer_loses_and_with_a_right_one_does_not() -> None:
    similarity = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert retrieval_metrics(similarity, np.array([0, 0, 1]))["image_to_text_R@1"] == 1.0
    assert retrieval_metrics(similarity, np.array([0, 1, 1]))["image_to_text_R@1"] == 0.5


def test_unscored_pairs_rank_last() -> None:
    similarity = np.array([[2.0, -np.inf], [-np.inf, -np.inf]])
    metrics = retrieval_metrics(similarity, np.array([0, 1]))
    assert metrics["text_to_image_R@1"] == 0.5
    assert metrics["text_to_image_mean_rank"] == 1.5


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
        (np.zeros((3, 2)), [0, 2], "1 picture.s. have no text, the first is number 1"),
        (np.full((2, 2), np.nan), [0, 1], "NaN"),
    ],
)
def test_wrong_input(similarity, image_of_text, message: str) -> None:
    with pytest.raises(FlairError, match=message):
        retrieval_metrics(similarity, np.array(image_of_text))
