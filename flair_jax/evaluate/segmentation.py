"""Zero-shot segmentation of one set: read, cut into windows, score each patch against the classes' words, judge."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from flair_jax.data.sets.segmentation_data import SegmentationData
from flair_jax.errors import ImageError
from flair_jax.evaluate.ensemble import class_features
from flair_jax.evaluate.overlays import file_names, write_comparison
from flair_jax.evaluate.segmentation_metrics import confusion_matrix, segmentation_metrics
from flair_jax.evaluate.windows import Windows, average_windows, classify_pixels, cut_windows, plan_windows
from flair_jax.models.config import VisionConfig
from flair_jax.models.flair import Flair
from flair_jax.progress import ProgressBar
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import CutOff, check_broken, cut_off, embed_texts, read_ahead
from flair_jax.scoring.scorer import Retriever

SEGMENT_BY = ("patches", "pooled-patches")
_BLOCK = 32  # pictures whose confusion matrices are stored as one
_Tag = TypeVar("_Tag")


@dataclasses.dataclass(frozen=True)
class SegmentationSettings:
    """How to segment.

    Attributes:
      segment_by: "patches" (cosine of each local token with the words) or "pooled-patches" (each local token pooled
        alone with the words, and the cosine of that).
      short_side: the pictures' shorter side in pixels, before they are cut into windows; the set's usual one if None.
      background_threshold: in a set with background, the cosine that a class must exceed; None to find the background
        by its word.
      batch_size: windows embedded at once over all devices.
      skip_broken: leave out pictures that cannot be read, or whose annotation cannot, instead of failing.
      templates: sentences with `{}` for the words; the set's own if None.
    """

    segment_by: str = "patches"
    short_side: int | None = None
    background_threshold: float | None = None
    batch_size: int = 64
    skip_broken: bool = False
    templates: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The outcome.

    Attributes:
      metrics: see `segmentation_metrics`.
      images: number of images segmented.
      cut_off: how much of the classes' words in their templates exceeds the model's context.
      skipped: messages about pictures and annotations that could not be read.
      seconds: wall time.
    """

    metrics: dict[str, Any]
    images: int
    cut_off: CutOff
    skipped: list[str]
    seconds: float


class PatchScorer:
    """A model that scores the patches of windows for classes given in words.

    Attributes:
      cut_off: how much of these exceeds the model's context.
    """

    def __init__(
        self, model: Flair, retriever: Retriever, data: SegmentationData, settings: SegmentationSettings
    ) -> None:
        """Embeds the words in all templates, with a progress bar on stderr.

        Args:
          model: for its context length.
          retriever: the model on its devices.
          data: for its words and templates; of several words of a class, the best counts.
          settings: only `segment_by`, `batch_size` and `templates` are used.
        """
        self._retriever, self._batch = retriever, settings.batch_size
        self._first_word = np.cumsum([0, *map(len, data.texts[:-1])])
        words, templates = [word for alternatives in data.texts for word in alternatives], settings.templates
        templates = data.templates if templates is None else templates
        sentences = [template.replace("{}", word) for word in words for template in templates]
        self.cut_off = cut_off(sentences, model.config.text)
        with ProgressBar(total=len(sentences), description="texts", unit="text") as bar:
            features = embed_texts(model, retriever, sentences, self._batch, bar)
        text = class_features(features.reshape(len(words), len(templates), -1))
        if settings.segment_by == "patches":
            self._cosines: Callable[[np.ndarray], np.ndarray] = partial(self._of_patches, text)
        else:
            self._cosines = partial(self._of_pooled_patches, retriever.prepare_texts(text))

    def score(
        self, images: Iterable[tuple[_Tag, UInt8[np.ndarray, "K S S 3"]]]
    ) -> Iterator[tuple[_Tag, Float[np.ndarray, "K L C"]]]:
        """Cosines of the L patches of each image's windows with the C classes, in full batches over the images.

        Args:
          images: of each a tag, which is given back with its cosines, and its windows; there may be none.

        Yields:
          The same names in the same order, with the scores.
        """
        waiting: deque[tuple[_Tag, int]] = deque()
        windows: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        for tag, cut in images:
            waiting.append((tag, len(cut)))
            windows.extend(cut)
            while len(windows) >= self._batch:
                scores.extend(self._score(np.stack(windows[: self._batch])))
                del windows[: self._batch]
            while waiting and len(scores) >= waiting[0][1]:
                yield _take(waiting, scores)
        if windows:
            scores.extend(self._score(np.stack(windows)))
        while waiting:
            yield _take(waiting, scores)

    def _score(self, windows: np.ndarray) -> np.ndarray:
        local = self._retriever.encode_images(windows, with_local=True, pad_to=self._batch)[:, 1:]
        cosines = self._cosines(local.reshape(-1, local.shape[-1]))
        return np.maximum.reduceat(cosines, self._first_word, axis=1).reshape(*local.shape[:2], -1)

    def _of_patches(self, text: np.ndarray, local: np.ndarray) -> np.ndarray:
        return self._retriever.score_global(local, text)

    def _of_pooled_patches(self, texts: Any, local: np.ndarray) -> np.ndarray:
        return self._retriever.score_all(local[:, None], texts)


def _take(waiting: deque[tuple[_Tag, int]], scores: list[np.ndarray]) -> tuple[_Tag, np.ndarray]:
    """Takes the first waiting image and its scores from the queue."""
    tag, count = waiting.popleft()
    taken = np.array(scores[:count], np.float32)
    del scores[:count]
    return tag, taken


@dataclasses.dataclass(frozen=True)
class _Picture:
    """One picture, read and cut."""

    number: int
    windows: Windows
    cut: UInt8[np.ndarray, "K S S 3"]
    truth: UInt8[np.ndarray, "H W"]
    picture: Image.Image


def segment(
    model: Flair,
    retriever: Retriever,
    data: SegmentationData,
    settings: SegmentationSettings,
    store: BlockStore,
    save: Path | None = None,
) -> Segmentation:
    """Segments a set and compares with its annotations, with a progress bar on stderr.

    Args:
      model: for its image size, which is that of the windows, and its context length.
      retriever: the model on its devices.
      data: pictures, annotations and words.
      settings: how.
      store: confusion matrices of finished blocks go there; those of an earlier, stopped run are taken from there.
        Emptied at the end.
      save: folder to which each picture is written beside its true and predicted classes.

    Raises:
      DatasetError: listing the pictures and annotations that could not be read.
    """
    begin = time.monotonic()
    blocks = [range(start, min(start + _BLOCK, len(data.names))) for start in range(0, len(data.names), _BLOCK)]
    names = {block: f"confusion-{block.start:08d}" for block in blocks}
    todo = [block for block in blocks if names[block] not in store]
    finished = [store.get(names[block]) for block in blocks if block not in todo]
    total = sum(finished, np.zeros((len(data.classes),) * 2, np.int64))
    broken: dict[int, str] = {}
    numbers = [number for block in todo for number in block]
    files = [save / name for name in file_names(data.names)] if save else []

    scorer = PatchScorer(model, retriever, data, settings)
    ends = {block[-1]: block for block in todo}
    done: list[Future[np.ndarray]] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        ProgressBar(
            total=len(data.names), done=len(data.names) - len(numbers), description="images", unit="image"
        ) as bar,
    ):
        for (number, picture), scores in scorer.score(_windows(model, data, settings, numbers, broken)):
            if picture is not None:
                done.append(pool.submit(_judge, data, settings, picture, scores, files))
            if number in ends:
                block = ends[number]
                matrix = sum((each.result() for each in done), np.zeros_like(total))
                # A block with gaps is not stored: a later run must look at its pictures again, and report them.
                total = total + (store.put(names[block], matrix) if len(done) == len(block) else matrix)
                done = []
            bar.update()
    check_broken(broken, len(data.names), skip=settings.skip_broken)
    for number in broken if save else ():
        files[number].unlink(missing_ok=True)  # of an earlier run, when it could be read
    store.remove()
    judged = len(data.names) - len(broken)
    metrics = segmentation_metrics(total, data.classes)
    return Segmentation(metrics, judged, scorer.cut_off, list(broken.values()), time.monotonic() - begin)


def _windows(
    model: Flair, data: SegmentationData, settings: SegmentationSettings, numbers: list[int], broken: dict[int, str]
) -> Iterator[tuple[tuple[int, _Picture | None], np.ndarray]]:
    """Pictures with their windows; none for unreadable ones, whose messages go to `broken`."""
    pictures = read_ahead(partial(_read_one, data, model.config.vision, settings), numbers, per_thread=2)
    for number, picture in zip(numbers, pictures, strict=True):
        if isinstance(picture, ImageError):
            broken[number] = str(picture)
        # A run that will fail keeps reading, to name all that is broken, but computes no more.
        if isinstance(picture, ImageError) or (broken and not settings.skip_broken):
            yield (number, None), np.empty((0, 1, 1, 3), np.uint8)
        else:
            yield (number, picture), picture.cut


def _judge(
    data: SegmentationData, settings: SegmentationSettings, picture: _Picture, scores: np.ndarray, files: list[Path]
) -> np.ndarray:
    """The confusion matrix of one picture, which is drawn if there are files for all."""
    height, width = picture.truth.shape
    patches = average_windows(scores, picture.windows)
    predicted = classify_pixels(patches, width, height, settings.background_threshold)
    if files:
        write_comparison(files[picture.number], picture.picture, picture.truth, predicted, data.classes, data.palette)
    return confusion_matrix(picture.truth, predicted, len(data.classes))


def _read_one(
    data: SegmentationData, vision: VisionConfig, settings: SegmentationSettings, number: int
) -> _Picture | ImageError:
    try:
        picture, truth = data.read(number)
    except ImageError as error:
        return error
    short_side = settings.short_side or max(data.short_side, vision.image_size)
    try:
        windows = plan_windows(*picture.size, short_side=short_side, side=vision.grid, patch=vision.patch_size)
    except ImageError as error:
        return ImageError(f"{data.names[number]}: {error}", error.kind)
    return _Picture(
        number, windows, cut_windows(picture, windows, vision.patch_size, vision.interpolation), truth, picture
    )
