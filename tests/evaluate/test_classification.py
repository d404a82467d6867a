"""Zero-shot classification: scores and metrics."""

from pathlib import Path

import jax
import numpy as np
import pytest
from labelled import COLOURS, write_folders
from numeric import assert_close

from flair_jax import normalize, preprocess, tokenize
from flair_jax.data.sets.classification import CLASSIFICATION_SETS
from flair_jax.data.sets.labelled import FileExamples
from flair_jax.errors import FlairError
from flair_jax.evaluate import classification
from flair_jax.evaluate.classification import ClassificationSettings, Classifier, classify
from flair_jax.evaluate.ensemble import class_features
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.metrics import class_ranks, classification_metrics
from flair_jax.scoring.scorer import Retriever

TEMPLATES = ("{}", "a photo of a {}.", "the {} thing in a long sentence about it")


def test_ranks_by_hand() -> None:
    """Equal scores rank in the order of the classes; beside them the ranks before and behind all equals."""
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.1], [0.2, 0.3, 0.3], [0.4, 0.4, 0.4]])
    ranks = class_ranks(scores, np.arange(3), np.array([0, 1, 0, 2, 1]))
    assert ranks.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 2]]
    # Four classes with three names: the first and the last have the same.
    shared = np.array([0, 1, 2, 0])
    ranks = class_ranks(scores, shared, np.array([0, 3, 0, 3, 2]))
    assert ranks.tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 2], [3, 2, 3], [2, 0, 3]]
    assert class_ranks(scores[:1], shared, np.array([1])).tolist() == [[2, 2, 2]]


def test_metrics_by_hand() -> None:
    """Class 0: 2 of 3 right; class 2: none; class 1 has no pictures."""
    metrics = classification_metrics(np.array([0, 0, 0, 2]), np.array([0, 0, 4, 5]))
    assert metrics == {"top1": 0.5, "top5": 0.75, "mean_per_class_top1": pytest.approx(1 / 3)}


def test_a_broken_model_is_one_sentence() -> None:
    with pytest.raises(FlairError, match="the scores hold NaN"):
        class_ranks(np.array([[0.0, np.nan]]), np.arange(2), np.array([0]))


def test_class_features_by_hand() -> None:
    """Direction: mean of (1, 0) and (0, 1). Length: mean of 1 and 3."""
    feature = class_features(np.array([[[1, 0], [0, 3]]], np.float32))
    np.testing.assert_allclose(feature, [[2 * 0.5**0.5, 2 * 0.5**0.5]], rtol=1e-6)
    one = np.random.default_rng(0).normal(size=(5, 1, 16)).astype(np.float32)
    np.testing.assert_allclose(class_features(one), one[:, 0], rtol=1e-6)
    assert np.all(np.isfinite(class_features(np.zeros((1, 2, 4), np.float32))))


@pytest.fixture(scope="module")
def pictures(small_model) -> np.ndarray:
    size = small_model[0].config.vision.image_size
    return np.random.default_rng(1).integers(0, 256, (11, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("mode", ["text-conditioned", "global"])
def test_scores_are_the_models_logits(small_model, pictures, mode: str, devices: int) -> None:
    """With one sentence a class, up to scale and bias, on any number of devices."""
    model, params = small_model
    tokens = tokenize([f"a photo of a {name}." for name in COLOURS])
    logits = jax.jit(model.logits if mode == "text-conditioned" else model.global_logits)
    expected = np.asarray(logits(params, normalize(pictures), tokens))
    expected = (expected - (params["logit_bias"] if mode == "text-conditioned" else 0)) / np.exp(params["logit_scale"])
    retriever = Retriever(model, params, jax.devices()[:devices])
    features = class_features(retriever.encode_texts(tokens)[:, None])
    assert_close(Classifier(retriever, features, mode).scores(pictures), expected)


@pytest.mark.parametrize("mode", ["text-conditioned", "global"])
def test_several_sentences(small_model, pictures, mode: str) -> None:
    """Against the definition: mean direction of the normalised features, which pools, and is compared."""
    model, params = small_model
    retriever = Retriever(model, params)
    each = np.stack(
        [retriever.encode_texts(tokenize([template.format(name) for template in TEMPLATES])) for name in COLOURS]
    )
    features = class_features(each)
    mean = (each / np.linalg.norm(each, axis=-1, keepdims=True)).mean(axis=1)
    image, local = jax.jit(model.encode_image)(params, normalize(pictures))
    seen = jax.jit(model.pool)(params, local, features) if mode == "text-conditioned" else np.asarray(image)[:, None]
    dots = (np.asarray(seen) * mean).sum(axis=-1)
    cosines = dots / np.linalg.norm(seen, axis=-1) / np.linalg.norm(mean, axis=-1)
    assert_close(Classifier(retriever, features, mode).scores(pictures), cosines)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    write_folders(root, (*COLOURS, "sea_green", "teal", "maroon", "sunglasses"), each=3)
    return root


def classified(small_model, folders: Path, settings: ClassificationSettings, devices: int = 8, **changes):
    model, params = small_model
    data = CLASSIFICATION_SETS["folder"].load(folders)
    data = type(data)(**{**vars(data), **changes})
    return classify(model, Retriever(model, params, jax.devices()[:devices]), data, settings, BlockStore(None))


@pytest.mark.parametrize("mode", ["text-conditioned", "global"])
def test_outcome_from_the_models_own_logits(small_model, folders, mode: str) -> None:
    """Metrics and classes, from logits of one picture at a time; the same on 1 and 8 devices, in any block size."""
    model, params = small_model
    data = CLASSIFICATION_SETS["folder"].load(folders)
    tokens = tokenize([f"the {name} one" for name in data.names])
    logits_of = jax.jit(model.logits if mode == "text-conditioned" else model.global_logits)
    examples = [data.examples[number] for number in range(len(data.examples))]
    pixels = [preprocess(each.picture, model.config.vision.image_size) for each in examples]
    logits = np.concatenate([np.asarray(logits_of(params, normalize(each[None]), tokens)) for each in pixels])
    labels = np.array([each.label for each in examples])
    order = np.argsort(-logits, axis=1)

    outcomes = [
        classified(small_model, folders, ClassificationSettings(mode, ("the {} one",), None, size), devices)
        for devices, size in ((1, 64), (8, 5))
    ]
    for outcome in outcomes:
        assert outcome.metrics["top1"] == np.mean(order[:, 0] == labels)
        assert outcome.metrics["top5"] == np.mean((order[:, :5] == labels[:, None]).any(axis=1))
        assert outcome.images == 21
        for number, each in enumerate(outcome.classes):
            own = labels == number
            assert (each["key"], each["pictures"]) == (data.keys[number], 3)
            assert each["top1"] == np.mean(order[own, 0] == number)
            wrong = [first for first in order[own, 0] if first != number]
            names = {data.names[first] for first in wrong if wrong.count(first) == max(map(wrong.count, wrong))}
            assert each["taken_for"] in (names or {None})
        assert outcome.classes == outcomes[0].classes


def test_texts_in_several_blocks(small_model, folders, monkeypatch) -> None:
    settings = ClassificationSettings("global", TEMPLATES)
    expected = classified(small_model, folders, settings)
    monkeypatch.setattr(classification, "_TEXTS_PER_BLOCK", 7)
    assert classified(small_model, folders, settings).classes == expected.classes


def test_classes_of_one_name_and_without_pictures(small_model, folders) -> None:
    """Of two classes of one name, the first wins all that the name wins, and the second nothing."""
    settings = ClassificationSettings("global", ("{}",))
    data = CLASSIFICATION_SETS["folder"].load(folders)
    files = [(data.examples[number].picture, number % 2) for number in range(len(data.examples))]
    outcome = classified(
        small_model, folders, settings, examples=FileExamples(files), keys=["a", "b", "c"], names=["x", "x", "x"]
    )
    assert [(each["pictures"], each["top1"], each["top5"]) for each in outcome.classes] == [
        (11, 1.0, 1.0),
        (10, 0.0, 1.0),
        (0, None, None),
    ]
    assert outcome.metrics == {"top1": 11 / 21, "top5": 1.0, "mean_per_class_top1": 0.5}
