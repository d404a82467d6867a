"""One text feature for a class from those of several sentences about it. NumPy only."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def class_features(features: Float[np.ndarray, "C N D"]) -> Float[np.ndarray, "C D"]:
    """One text feature for each class, or each word for it, from those of its N sentences, not normalised.

    Its direction is CLIP's: the mean of the normalised features (Radford et al. 2021, section 3.1.4). Its length is the
    mean of theirs. Cosines do not depend on the length, and the pooling, whose query starts with a LayerNorm, depends
    on it only through that norm's epsilon; so the query is as long as those it was trained with. A single sentence
    gives its own feature, and so exactly what `Flair.logits` gives.
    """
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    direction = (features / np.maximum(lengths, 1e-12)).mean(axis=1)
    direction /= np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), 1e-12)
    return direction * lengths.mean(axis=1)
