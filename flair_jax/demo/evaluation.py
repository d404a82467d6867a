"""Evaluates a model on `scenes`: retrieval, where it looks, and which words it understands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from flair_jax.data.sets.scenes import (
    BACKGROUNDS,
    RELATIONS,
    VALUES,
    Scene,
    describe_background,
    describe_object,
    describe_relation,
    fits,
    relations,
)
from flair_jax.data.sets.scenes_builder import LabelledScene
from flair_jax.data.tokenizer import tokenize_for
from flair_jax.evaluate.localization import (
    attention_by_object,
    chosen_pixels,
    intersection_over_union,
    points_at,
    winning_patches,
)
from flair_jax.models.flair import Flair, Params
from flair_jax.scoring.metrics import retrieval_metrics
from flair_jax.scoring.scorer import Retriever, top_k

ATTRIBUTES = (*VALUES, "background", "relation")
_TOP_K = 32  # texts for each image in mode top-k
_ROWS = 256  # images or texts at once


@dataclasses.dataclass(frozen=True)
class ScenesResult:
    """Number of scenes, and metrics in percent, by name; `chance` holds those of guessing, by the same names."""

    scenes: int
    retrieval: dict[str, dict[str, float]]
    sub_captions: dict[str, float]
    localization: dict[str, float]
    words: dict[str, float]
    chance: dict[str, float]


class ScenesEvaluation:
    """Held-out scenes, and the questions asked about them, the same for every model."""

    def __init__(self, scenes: Sequence[LabelledScene], seed: int = 0) -> None:
        """Draws the questions.

        Args:
          scenes: from `scenes_builder.read`.
          seed: of the wrong words.
        """
        self.scenes = scenes
        rng = np.random.default_rng(seed)
        # The first caption of each object: (scene, number of the object from 0, caption).
        self.about_objects = [
            (number, item, labelled.captions[labelled.caption_object.index(item)])
            for number, labelled in enumerate(scenes)
            for item in range(len(labelled.scene.objects))
        ]
        self.swaps = {name: [_swap(labelled.scene, name, rng) for labelled in scenes] for name in ATTRIBUTES}

    def run(self, model: Flair, params: Params, *, trained_pooling: bool = True) -> ScenesResult:
        """Evaluates a model.

        Args:
          model: the model.
          params: its parameters.
          trained_pooling: False for a model whose pooling was never trained: words are then judged by global features.
        """
        scorer = _Scorer(model, params, [labelled.pixels for labelled in self.scenes])
        return ScenesResult(
            len(self.scenes),
            self._retrieval(scorer),
            self._sub_captions(scorer),
            self._localization(scorer),
            self._words(scorer, trained_pooling),
            self._chance(model.config.vision.grid),
        )

    def _retrieval(self, scorer: _Scorer) -> dict[str, dict[str, float]]:
        captions = [labelled.long_caption for labelled in self.scenes]
        own = np.arange(len(captions))
        return {mode: retrieval_metrics(scorer.scores(captions, mode), own) for mode in scorer.MODES}

    def _sub_captions(self, scorer: _Scorer) -> dict[str, float]:
        """Mean average precision of images ranked for one sub-caption; every image that fits its words is relevant."""
        captions = sorted({caption for _, _, caption in self.about_objects})
        relevant = np.array([[fits(each.scene, caption) for caption in captions] for each in self.scenes])
        return {
            mode: 100 * _mean_average_precision(scorer.scores(captions, mode), relevant)
            for mode in ("text-conditioned", "global")
        }

    def _localization(self, scorer: _Scorer) -> dict[str, float]:
        """Attention for the full description of each object, which fits no other."""
        maps = scorer.attention(
            [
                (number, describe_object(self.scenes[number].scene.objects[item]))
                for number, item, _ in self.about_objects
            ]
        )
        pointing, most, iou = [], [], []
        for (number, item, _), attention in zip(self.about_objects, maps, strict=True):
            labelled = self.scenes[number]
            mask = labelled.mask == item + 1
            by_object = attention_by_object(attention, labelled.mask, len(labelled.scene.objects))
            pointing.append(points_at(attention, winning_patches(mask, len(attention))))
            most.append(by_object.argmax() == item)
            iou.append(intersection_over_union(chosen_pixels(attention, mask.shape), mask))
        values = {"pointing game": pointing, "named object most attended": most, "mean IoU at 0.5": iou}
        return {name: 100 * float(np.mean(value)) for name, value in values.items()}

    def _words(self, scorer: _Scorer, text_conditioned: bool) -> dict[str, float]:
        shares = {}
        for name, swaps in self.swaps.items():
            true, false = (
                scorer.pair_scores(list(enumerate(captions)), text_conditioned) for captions in zip(*swaps, strict=True)
            )
            shares[name] = 100 * float(np.mean(true > false))
        return shares

    def _chance(self, grid: int) -> dict[str, float]:
        masks = [self.scenes[number].mask == item + 1 for number, item, _ in self.about_objects]
        captions = sorted({caption for _, _, caption in self.about_objects})
        relevant = [[fits(each.scene, caption) for caption in captions] for each in self.scenes]
        return {
            "pointing game": 100 * float(np.mean([winning_patches(mask, grid) for mask in masks])),
            "named object most attended": 100
            * float(np.mean([1 / len(self.scenes[number].scene.objects) for number, _, _ in self.about_objects])),
            "R@1": 100 / len(self.scenes),
            "R@5": 500 / len(self.scenes),
            "sub-captions": 100 * float(np.mean(relevant)),
            "words": 50.0,
        }


class _Scorer:
    """A model and the features it gives the images."""

    MODES = ("text-conditioned", "top-k", "global")

    def __init__(self, model: Flair, params: Params, images: Sequence[np.ndarray]) -> None:
        self._model, self._params = model, params
        self._retriever = Retriever(model, params)
        tokens = [
            self._retriever.encode_images(np.stack(images[start : start + _ROWS]), with_local=True, pad_to=_ROWS)
            for start in range(0, len(images), _ROWS)
        ]
        self._image = np.concatenate(tokens)

        def pool(params: Params, local: jax.Array, text: jax.Array) -> jax.Array:
            return jax.vmap(lambda local, text: model.pool(params, local[None], text[None])[0, 0])(local, text)

        def attend(params: Params, local: jax.Array, text: jax.Array) -> jax.Array:
            def one(local: jax.Array, text: jax.Array) -> jax.Array:
                _, weights = model.pool_with_weights(params, local[None], text[None])
                return weights[0, :, 0, :-1].mean(axis=0)

            return jax.vmap(one)(local, text)

        self._pool, self._attend = jax.jit(pool), jax.jit(attend)

    def _texts(self, captions: Sequence[str]) -> np.ndarray:
        tokens = tokenize_for(self._model.config.text, captions)
        blocks = [tokens[start : start + _ROWS] for start in range(0, len(tokens), _ROWS)]
        return np.concatenate([self._retriever.encode_texts(block, pad_to=_ROWS) for block in blocks])

    def scores(self, captions: Sequence[str], mode: str) -> np.ndarray:
        """[I, T]; higher is better."""
        text = self._texts(captions)
        if mode == "global":
            return self._retriever.score_global(self._image[:, 0], text)
        prepared = self._retriever.prepare_texts(text)
        if mode == "text-conditioned":
            return self._retriever.score_all(self._image[:, 1:], prepared)
        candidates = top_k(self._retriever.score_global(self._image[:, 0], text), _TOP_K)
        scores = np.full((len(self._image), len(captions)), -np.inf, np.float32)
        np.put_along_axis(
            scores, candidates, self._retriever.score_top_k(candidates, self._image[:, 1:], prepared), axis=1
        )
        return scores

    def _of_pairs(self, function: Callable[..., jax.Array], numbers: Sequence[int], text: np.ndarray) -> np.ndarray:
        """function(params, local [P, L, D], text [P, D]) of images with one text each, a few at once: [P, ...]."""
        results = []
        for start in range(0, len(numbers), _ROWS):
            chosen, block = numbers[start : start + _ROWS], text[start : start + _ROWS]
            missing = _ROWS - len(chosen)
            local = np.pad(self._image[list(chosen), 1:], ((0, missing), (0, 0), (0, 0)))
            found = function(self._params, local, np.pad(block, ((0, missing), (0, 0))))
            results.append(np.asarray(found)[: len(chosen)])
        return np.concatenate(results)

    def attention(self, pairs: Sequence[tuple[int, str]]) -> np.ndarray:
        """Attention over the patches, averaged over heads: [P, G, G]."""
        numbers, captions = zip(*pairs, strict=True)
        grid = self._model.config.vision.grid
        return self._of_pairs(self._attend, numbers, self._texts(captions)).reshape(len(pairs), grid, grid)

    def pair_scores(self, pairs: Sequence[tuple[int, str]], text_conditioned: bool) -> np.ndarray:
        """Cosines of images with one caption each: [P]."""
        numbers, captions = zip(*pairs, strict=True)
        text = self._texts(captions)
        image = self._of_pairs(self._pool, numbers, text) if text_conditioned else self._image[list(numbers), 0]
        return np.sum(text * image, axis=1) / np.linalg.norm(text, axis=1) / np.linalg.norm(image, axis=1)


def _swap(scene: Scene, name: str, rng: np.random.Generator) -> tuple[str, str]:
    """A true caption, and the same with the word for one attribute changed so that it is false."""
    if name == "background":
        others = [word for word in BACKGROUNDS if word != scene.background]
        false = dataclasses.replace(scene, background=str(rng.choice(others)))
        return describe_background(scene), describe_background(false)
    if name == "relation":
        true = list(relations(scene))
        i, relation, j = true[int(rng.integers(len(true)))]
        one, other = scene.objects[i], scene.objects[j]
        return describe_relation(one, relation, other), describe_relation(one, RELATIONS[relation], other)
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    while True:
        changed = dataclasses.replace(item, **{name: str(rng.choice(VALUES[name]))})
        if changed not in scene.objects:
            return describe_object(item), describe_object(changed)


def _mean_average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Mean over columns of the average precision of their rows; ties count against the model."""
    # Sorting by relevance first puts irrelevant rows before relevant ones of equal score.
    order = np.lexsort((relevant, -scores), axis=0)
    hits = np.take_along_axis(relevant, order, axis=0)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    return float(np.mean((precision * hits).sum(axis=0) / hits.sum(axis=0)))
