import numpy as np
from skimage.metrics import contingency_table

from flair_jax.evaluate.segmentation_metrics import confusion_matrix, segmentation_metrics

CLASSES = ("a", "b", "c", "d")


def test_confusion_is_scikit_images_contingency_table() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (40, 30))
    predicted = rng.integers(0, 4, (40, 30)).astype(np.uint8)
    expected = contingency_table(truth, predicted, ignore_labels=[255]).toarray()[:4, :4]
    confusion = confusion_matrix(truth, predicted, 4)
    assert np.array_equal(confusion, expected)
    metrics = segmentation_metrics(confusion, CLASSES)
    judged = truth != 255
    iou = [
        (judged & (truth == n) & (predicted == n)).sum() / (judged & ((truth == n) | (predicted == n))).sum()
        for n in range(4)
    ]
    np.testing.assert_allclose(list(metrics["iou"].values()), iou, rtol=1e-12)
    np.testing.assert_allclose(metrics["mean_iou"], np.mean(iou), rtol=1e-12)
    np.testing.assert_allclose(metrics["pixel_accuracy"], np.mean((truth == predicted)[judged]), rtol=1e-12)


def test_a_class_that_does_not_occur_is_not_in_the_mean() -> None:
    truth, predicted = np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 3]], np.uint8)
    metrics = segmentation_metrics(confusion_matrix(truth, predicted, 4), CLASSES)
    assert metrics["iou"] == {"a": 0.5, "b": 0.5, "c": None, "d": None}
    assert metrics["mean_iou"] == 0.5


def test_nothing_judged_is_nothing_right() -> None:
    ignored = np.full((2, 2), 255, np.uint8)
    metrics = segmentation_metrics(confusion_matrix(ignored, np.zeros_like(ignored), 4), CLASSES)
    assert metrics["mean_iou"] == metrics["pixel_accuracy"] == 0
