"""Metrics of retrieval by sorting, as the PyTorch release takes them with a stable sort."""

import numpy as np


def sorted_metrics(scores: np.ndarray, image_of_text: np.ndarray) -> dict[str, float]:
    """Place by place in a stable descending sort of every row and column; of an image's texts the first counts."""
    ranks = {
        "text_to_image": [
            np.argsort(-scores[:, text], kind="stable").tolist().index(image)
            for text, image in enumerate(image_of_text)
        ],
        "image_to_text": [
            int(np.flatnonzero(image_of_text[np.argsort(-row, kind="stable")] == image)[0])
            for image, row in enumerate(scores)
        ],
    }
    metrics = {}
    for direction, places in ranks.items():
        found = np.array(places, np.float32)
        metrics |= {f"{direction}_R@{k}": float((found < k).mean(dtype=np.float64)) for k in (1, 5, 10)}
        metrics[f"{direction}_mean_rank"] = float(np.float32(found.mean(dtype=np.float64))) + 1
        metrics[f"{direction}_median_rank"] = float(np.floor(np.median(found))) + 1
    return metrics


def made(images: int, more_texts: int, seed: int, values: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores of so many different values and pairs that were not scored, in no order; every picture has a text."""
    rng = np.random.default_rng(seed)
    image_of_text = rng.permutation(np.concatenate([np.arange(images), rng.integers(0, images, more_texts)]))
    scores = rng.integers(0, values, (images, len(image_of_text))).astype(np.float32)
    scores[rng.random(scores.shape) < rng.choice([0.0, 0.3, 0.9])] = -np.inf
    return scores, image_of_text
