"""Zero-shot classification: each image gets the class whose text fits it best."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from flair_jax.data.image import open_rgb, preprocess
from flair_jax.data.sets.classification import ClassificationData
from flair_jax.data.sets.labelled import LabelledExample
from flair_jax.data.sets.prompts import sentences
from flair_jax.errors import ImageError
from flair_jax.evaluate.ensemble import class_features
from flair_jax.models.config import VisionConfig
from flair_jax.models.flair import Flair
from flair_jax.progress import ProgressBar
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import CutOff, check_broken, compute_in_blocks, cut_off, embed_texts
from flair_jax.scoring.metrics import Ranks, Ties, class_ranks, classification_metrics, measure
from flair_jax.scoring.scorer import Retriever

CLASSIFICATION_MODES = ("text-conditioned", "global")
# Texts embedded between two saves; at 512 floats a text they take 8 MB.
_TEXTS_PER_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class ClassificationSettings:
    """How to classify.

    Attributes:
      mode: "text-conditioned" or "global"; see `Classifier`.
      templates: sentences with `{}` for the class's name; None for those of the set.
      class_names: file that the names were read from; None for those of the set.
      batch_size: images, and likewise texts, embedded at once over all devices.
      skip_broken: leave out pictures that cannot be read, instead of failing.
    """

    mode: str = "text-conditioned"
    templates: tuple[str, ...] | None = None
    class_names: str | None = None
    batch_size: int = 64
    skip_broken: bool = False


@dataclasses.dataclass(frozen=True)
class Classification:
    """The outcome.

    Attributes:
      metrics: see `classification_metrics`.
      ties: how equal scores affect them.
      classes: for each class its `key` and `name`, how many `pictures` it has, `top1` and `top5` (None if it has none),
        and `taken_for`, the class most often predicted for its misclassified images (None if there are none).
      templates: the sentences.
      cut_off: how much of these, with the classes' names, exceeds the model's context.
      images: number of images classified.
      whole: number of images in the whole set, or None.
      skipped: messages about pictures that could not be read.
      seconds: wall time.
    """

    metrics: dict[str, float]
    ties: Ties
    classes: list[dict[str, Any]]
    templates: tuple[str, ...]
    cut_off: CutOff
    images: int
    whole: int | None
    skipped: list[str]
    seconds: float


class Classifier:
    """Scores images with classes, keeping only one block of images in memory."""

    def __init__(self, retriever: Retriever, features: Float[np.ndarray, "C D"], mode: str) -> None:
        """Takes the classes.

        Args:
          retriever: the model on its devices.
          features: from `class_features`.
          mode: "global", CLIP's way: cos(image, class), with the global image token; or "text-conditioned", FLAIR's:
            cos(pool(class, image), class), where each class pools the local image tokens with its own feature as query.
        """
        self._retriever, self._features, self._local = retriever, features, mode == "text-conditioned"
        self._prepared = retriever.prepare_texts(features) if self._local else None

    def scores(self, pixels: UInt8[np.ndarray, "B S S 3"], pad_to: int = 0) -> Float[np.ndarray, "B C"]:
        """Cosines of images from `flair_jax.preprocess`; `pad_to` as in `Retriever.encode_images`."""
        tokens = self._retriever.encode_images(pixels, with_local=self._local, pad_to=pad_to)
        if self._prepared is None:
            return self._retriever.score_global(tokens[:, 0], self._features, pad_to=pad_to)
        return self._retriever.score_all(tokens[:, 1:], self._prepared, pad_to=pad_to)


def classify(
    model: Flair,
    retriever: Retriever,
    data: ClassificationData,
    settings: ClassificationSettings,
    store: BlockStore,
) -> Classification:
    """Classifies one set, with progress bars on stderr.

    Args:
      model: for its image size and context length.
      retriever: the model on its devices.
      data: pictures and classes.
      settings: how.
      store: finished blocks go there; those of an earlier, stopped run are taken from there. Emptied at the end.

    Raises:
      DatasetError: listing the pictures that could not be read.
    """
    start = time.monotonic()
    templates = settings.templates or data.templates
    names = list(dict.fromkeys(data.names))  # two classes may share one
    name_of_class = np.array([names.index(name) for name in data.names])
    features = _embed_names(model, retriever, names, templates, settings.batch_size, store)
    classifier = Classifier(retriever, features, settings.mode)
    pad_to = min(settings.batch_size, len(data.examples))

    def read(number: int) -> tuple[np.ndarray, int]:
        example = data.examples[number]
        return _pixels(example, model.config.vision), example.label

    def judge(pictures: list[tuple[np.ndarray, int]]) -> Int[np.ndarray, "B 5"]:
        """For each image its class, the class that ranks first, and the ranks of its own class."""
        labels = np.array([label for _, label in pictures])
        scores = classifier.scores(np.stack([pixels for pixels, _ in pictures]), pad_to)
        first = scores[:, name_of_class].argmax(axis=1)
        return np.column_stack([labels, first, class_ranks(scores, name_of_class, labels)])

    blocks, broken = compute_in_blocks(
        range(len(data.examples)), read, judge, store, size=settings.batch_size, skip_broken=settings.skip_broken
    )
    check_broken(broken, len(data.examples), skip=settings.skip_broken)
    labels, first, *columns = np.concatenate([block.read() for block in blocks]).T
    ranks = Ranks(*columns)
    metrics, ties = measure({"class": ranks}, lambda _, column: classification_metrics(labels, column))
    store.remove()
    return Classification(
        metrics,
        ties,
        _by_class(data, labels, ranks.by_index, first),
        templates,
        cut_off([text for name in names for text in sentences(templates, name)], model.config.text),
        len(labels),
        data.whole,
        list(broken.values()),
        time.monotonic() - start,
    )


def _pixels(example: LabelledExample, vision: VisionConfig) -> np.ndarray:
    """The picture, preprocessed; an error says where it is."""
    picture = example.picture
    try:
        return preprocess(open_rgb(picture) if isinstance(picture, bytes) else picture, vision)
    except ImageError as error:
        raise ImageError(str(error).replace("the picture", example.where, 1), error.kind) from error


def _embed_names(
    model: Flair,
    retriever: Retriever,
    names: Sequence[str],
    templates: Sequence[str],
    batch_size: int,
    store: BlockStore,
) -> Float[np.ndarray, "C D"]:
    """`class_features` of names, a few at a time."""
    at_once = max(1, _TEXTS_PER_BLOCK // len(templates))

    def embed(chosen: Sequence[str], bar: ProgressBar) -> Callable[[], np.ndarray]:
        def compute() -> np.ndarray:
            texts = [text for name in chosen for text in sentences(templates, name)]
            features = embed_texts(model, retriever, texts, batch_size, bar)
            return class_features(features.reshape(len(chosen), len(templates), -1))

        return compute

    blocks = []
    with ProgressBar(total=len(names) * len(templates), description="texts", unit="text") as bar:
        for start in range(0, len(names), at_once):
            chosen = names[start : start + at_once]
            blocks.append(store.get_or_compute(f"classes-{start:08d}", embed(chosen, bar)))
            bar.update((start + len(chosen)) * len(templates) - bar.n)  # those of an earlier run
    return np.concatenate(blocks)


def _by_class(
    data: ClassificationData, labels: np.ndarray, ranks: np.ndarray, first: np.ndarray
) -> list[dict[str, Any]]:
    """`Classification.classes`."""
    classes = []
    for number, (key, name) in enumerate(zip(data.keys, data.names, strict=True)):
        own = labels == number
        wrong = first[own & (first != number)]
        classes.append(
            {
                "key": key,
                "name": name,
                "pictures": int(own.sum()),
                "top1": float((ranks[own] < 1).mean()) if own.any() else None,
                "top5": float((ranks[own] < 5).mean()) if own.any() else None,
                "taken_for": data.names[np.bincount(wrong).argmax()] if len(wrong) else None,
            }
        )
    return classes
