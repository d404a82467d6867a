"""Evaluates a model on `scenes`: retrieval, where it looks, and which words it understands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from flair_jax.data.sets.scenes import (
    BACKGROUNDS,
    LANDMARK,
    NAMED_BY,
    RELATIONS,
    VALUES,
    Scene,
    SceneObject,
    describe_background,
    describe_object,
    describe_relation,
    fits,
    relation_holds,
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
from flair_jax.scoring.scorer import Retriever

ATTRIBUTES = (*VALUES, "background", "relation")
SENTENCE = "images that fit a sentence about one object, mAP"
LONG = {"text_to_image_R@1": "long caption to image, R@1", "image_to_text_R@1": "image to long caption, R@1"}
POINTING, MOST, IOU = "pointing game", "named object most attended", "mean IoU at 0.5"
BY_SHAPE_AND_PLACE = ", named by shape and place"
# How an object is named where the model has to look for it: by all of its attributes, and without its colour.
_NAMED = {"": frozenset(VALUES), BY_SHAPE_AND_PLACE: frozenset({"shape", "place"})}
_ROWS = 256  # images or texts at once


def words(attribute: str) -> str:
    """The metric's name: how often a true sentence beats the same with one attribute changed."""
    return f"true sentence beats one with another {attribute}"


@dataclasses.dataclass(frozen=True)
class ScenesResult:
    """Metrics in per cent, by name.

    Attributes:
      scenes: how many there were.
      text_conditioned: by the pooling; those of localisation are its attention's.
      by_global: of those that need no attention, by global features alone.
      chance: of guessing; mean IoU has none.
    """

    scenes: int
    text_conditioned: dict[str, float]
    by_global: dict[str, float]
    chance: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Looking:
    """Where maps are high that the sentence does not speak of; means, in per cent.

    Attributes:
      on_background: attention on the background, of sentences about it.
      background: how much of the picture it covers.
      named: attention on an object named by shape and place.
      landmark: then on the white object beside it, to which relations are told.
      other: then on each further object.
    """

    on_background: float
    background: float
    named: float
    landmark: float
    other: float


class ScenesEvaluation:
    """Held-out scenes, and the questions asked about them, the same for every model."""

    def __init__(self, scenes: Sequence[LabelledScene], seed: int = 0) -> None:
        """Draws the questions.

        Args:
          scenes: from `scenes_builder.read`.
          seed: of the questions.
        """
        self.scenes = scenes
        rng = np.random.default_rng(seed)
        # (number of the scene, number of the object from 0)
        self.objects = [(number, item) for number, each in enumerate(scenes) for item in range(len(each.scene.objects))]
        # A sentence about each object with two to all of its attributes, and the images that it is true of.
        self.sentences, true = [], []
        for number, item in self.objects:
            one = scenes[number].scene.objects[item]
            mentioned = frozenset(
                rng.choice(list(VALUES), int(rng.integers(2, len(VALUES) + 1)), replace=False).tolist()
            )
            self.sentences.append(describe_object(one, mentioned))
            true.append([fits(each.scene, one, mentioned) for each in scenes])
        self.relevant = np.array(true).T
        self.swaps = {name: [_swap(each.scene, name, rng) for each in scenes] for name in ATTRIBUTES}

    def run(self, model: Flair, params: Params) -> ScenesResult:
        """Evaluates a model."""
        scorer = _Scorer(model, params, [labelled.pixels for labelled in self.scenes])
        values = [self._retrieval(scorer, mode) | self._words(scorer, mode) for mode in scorer.MODES]
        return ScenesResult(
            len(self.scenes),
            values[0] | self._localization(scorer),
            values[1],
            self._chance(model.config.vision.grid),
        )

    def look(self, model: Flair, params: Params) -> Looking:
        """Measures what maps show besides what is named."""
        scorer = _Scorer(model, params, [labelled.pixels for labelled in self.scenes])
        asked = [(number, describe_background(each.scene)) for number, each in enumerate(self.scenes)]
        on_background = [
            1 - self._by_object(number, attention).sum()
            for (number, _), attention in zip(asked, scorer.attention(asked), strict=True)
        ]
        looks = [[item.colour == LANDMARK for item in each.scene.objects] for each in self.scenes]
        objects = [(number, item) for number, item in self.objects if not looks[number][item]]
        asked = [
            (number, describe_object(self.scenes[number].scene.objects[item], _NAMED[BY_SHAPE_AND_PLACE]))
            for number, item in objects
        ]
        found: dict[str, list[float]] = {"named": [], "landmark": [], "other": []}
        for (number, item), attention in zip(objects, scorer.attention(asked), strict=True):
            for other, share in enumerate(self._by_object(number, attention)):
                found["named" if other == item else "landmark" if looks[number][other] else "other"].append(share)
        return Looking(
            100 * float(np.mean(on_background)),
            100 * float(np.mean([each.mask == 0 for each in self.scenes])),
            **{name: 100 * float(np.mean(shares)) for name, shares in found.items()},
        )

    def _by_object(self, number: int, attention: np.ndarray) -> np.ndarray:
        """Shares of a map [G, G] that fall on each object of a scene."""
        labelled = self.scenes[number]
        return attention_by_object(attention / attention.sum(), labelled.mask, len(labelled.scene.objects))

    def _retrieval(self, scorer: _Scorer, mode: str) -> dict[str, float]:
        captions = [labelled.long_caption for labelled in self.scenes]
        found = retrieval_metrics(scorer.scores(captions, mode), np.arange(len(captions)))
        precision = _mean_average_precision(scorer.scores(self.sentences, mode), self.relevant)
        return {SENTENCE: 100 * precision} | {name: 100 * found[key] for key, name in LONG.items()}

    def _localization(self, scorer: _Scorer) -> dict[str, float]:
        """Attention for a description of each object that fits no other."""
        values = {}
        for how, mentioned in _NAMED.items():
            asked = [
                (number, describe_object(self.scenes[number].scene.objects[item], mentioned))
                for number, item in self.objects
            ]
            pointing, most, iou = [], [], []
            for (number, item), attention in zip(self.objects, scorer.attention(asked), strict=True):
                labelled = self.scenes[number]
                mask = labelled.mask == item + 1
                by_object = attention_by_object(attention, labelled.mask, len(labelled.scene.objects))
                pointing.append(points_at(attention, winning_patches(mask, len(attention))))
                most.append(by_object.argmax() == item)
                iou.append(intersection_over_union(chosen_pixels(attention, mask.shape), mask))
            for name, each in ((POINTING, pointing), (MOST, most), (IOU, iou)):
                values[name + how] = 100 * float(np.mean(each))
        return values

    def _words(self, scorer: _Scorer, mode: str) -> dict[str, float]:
        shares = {}
        for name, swaps in self.swaps.items():
            true, false = (scorer.pair_scores(list(enumerate(captions)), mode) for captions in zip(*swaps, strict=True))
            shares[words(name)] = 100 * float(np.mean(true > false))
        return shares

    def _chance(self, grid: int) -> dict[str, float]:
        masks = [self.scenes[number].mask == item + 1 for number, item in self.objects]
        pointing = 100 * float(np.mean([winning_patches(mask, grid) for mask in masks]))
        most = 100 * float(np.mean([1 / len(self.scenes[number].scene.objects) for number, _ in self.objects]))
        return {
            SENTENCE: 100 * float(np.mean(self.relevant)),
            **dict.fromkeys(LONG.values(), 100 / len(self.scenes)),
            **{words(name): 50.0 for name in ATTRIBUTES},
            **{POINTING + how: pointing for how in _NAMED},
            **{MOST + how: most for how in _NAMED},
        }


class _Scorer:
    """A model and the features it gives the images."""

    MODES = ("text-conditioned", "global")

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
        return self._retriever.score_all(self._image[:, 1:], self._retriever.prepare_texts(text))

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

    def pair_scores(self, pairs: Sequence[tuple[int, str]], mode: str) -> np.ndarray:
        """Cosines of images with one caption each: [P]."""
        numbers, captions = zip(*pairs, strict=True)
        text = self._texts(captions)
        image = self._image[list(numbers), 0] if mode == "global" else self._of_pairs(self._pool, numbers, text)
        return np.sum(text * image, axis=1) / np.linalg.norm(text, axis=1) / np.linalg.norm(image, axis=1)


def _swap(scene: Scene, name: str, rng: np.random.Generator) -> tuple[str, str]:
    """A true caption, and the same with the word for one attribute changed so that it is false."""
    if name == "background":
        others = [word for word in BACKGROUNDS if word != scene.background]
        false = dataclasses.replace(scene, background=str(rng.choice(others)))
        return describe_background(scene), describe_background(false)
    if name == "relation":
        true = [
            (scene.objects[number], relation, named_by)
            for number, relation in relations(scene)
            for named_by in NAMED_BY
            if not relation_holds(scene, scene.objects[number], RELATIONS[relation], named_by)
        ]
        item, relation, named_by = true[int(rng.integers(len(true)))]
        return describe_relation(item, relation, named_by), describe_relation(item, RELATIONS[relation], named_by)
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    while True:
        changed: SceneObject = dataclasses.replace(item, **{name: str(rng.choice(VALUES[name]))})
        if changed not in scene.objects:
            return describe_object(item), describe_object(changed)


def _mean_average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Mean over columns of the average precision of their rows; ties count against the model."""
    # Sorting by relevance first puts irrelevant rows before relevant ones of equal score.
    order = np.lexsort((relevant, -scores), axis=0)
    hits = np.take_along_axis(relevant, order, axis=0)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    return float(np.mean((precision * hits).sum(axis=0) / hits.sum(axis=0)))
