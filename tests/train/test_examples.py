"""The rivals in examples/: against values that plain NumPy gives, on the drawn scenes, and planned."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from numeric import assert_close
from runs import MODEL, finish, run, spawn

import flair_jax
from flair_jax import TrainSettings
from flair_jax.errors import ConfigError
from flair_jax.train import Features, LossValues, parse_config

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGES, PATCHES, WIDTH = 3, 4, 16


def load(name: str, *flags: str) -> tuple[TrainSettings, ModuleType]:
    """Settings of an example, and the module that its factories are of."""
    settings = TrainSettings.from_config(parse_config([f"--config={EXAMPLES / name}.py", *flags]))
    return settings, sys.modules["configuration_file"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.json"
    path.write_text(json.dumps(MODEL))
    return path


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def info_nce(one: np.ndarray, other: np.ndarray, scale: float) -> float:
    """Symmetric cross-entropy of [N, D] and [N, D], row by row."""
    losses = []
    for a, b in ((one, other), (other, one)):
        for n in range(len(a)):
            logits = scale * np.array([unit(a[n]) @ unit(row) for row in b])
            losses.append(np.log(np.exp(logits).sum()) - logits[n])
    return float(np.mean(losses))


def beta_cal(pooled: np.ndarray, text: np.ndarray, scale: float, beta: float, form: str) -> float:
    """Pair by pair, of [N, K, D] and [N, K, D]."""
    count = pooled.shape[0] * pooled.shape[1]
    views, texts = unit(pooled).reshape(count, -1), unit(text).reshape(count, -1)
    logits = scale * views @ texts.T
    losses = []
    for i in range(count):
        weights = [1 if i == j else beta if i // pooled.shape[1] == j // pooled.shape[1] else 0 for j in range(count)]
        if form == "ce":
            for row in (logits[i], logits[:, i]):
                log_p = row - np.log(np.exp(row).sum())
                losses.append(-np.dot(weights, log_p) / sum(weights))
        else:
            for j in range(count):
                positive = i // pooled.shape[1] == j // pooled.shape[1]
                probability = 1 / (1 + np.exp(-logits[i, j]))
                likelihood = probability if positive else 1 - probability
                losses.append(-(weights[j] if positive else 1) * np.log(likelihood))
    return float(np.mean(losses))


def attend(params: dict, query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    """Multi-head attention of one projected query [D] over projected keys and values [L, D]."""
    mixed = []
    for q, k, v in zip(np.split(query, heads), np.split(key, heads, 1), np.split(value, heads, 1), strict=True):
        weights = np.exp(k @ q / np.sqrt(len(q)))
        mixed.append(weights @ v / weights.sum())
    return linear(params["out"], np.concatenate(mixed))


def linear(params: dict, x: np.ndarray) -> np.ndarray:
    return x @ params["kernel"] + params["bias"]


def layer_norm(params: dict, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    # Flax's default epsilon.
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def drawn(settings: TrainSettings, captions: int) -> tuple[flair_jax.Flair, dict, Features, Features]:
    """The example's model with random parameters, and random features of a student and a teacher."""
    model = settings.factories.model(settings)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), {**model.abstract_params(), "vision": {}}
    )

    def features() -> Features:
        shapes = (IMAGES, WIDTH), (IMAGES, PATCHES, WIDTH), (IMAGES * captions, WIDTH)
        return Features(*(rng.normal(0, 1, shape).astype(np.float32) for shape in shapes))

    params |= {"logit_scale": np.float32(1.1), "logit_bias": np.float32(-3)}
    return model, params, features(), features()


def loss_of(settings: TrainSettings, *arguments: Any) -> LossValues:
    """What the example's loss gives for (model, params, features, teacher), which are of NumPy."""
    model, params, features, teacher = arguments
    arrays = jax.tree.map(jax.numpy.asarray, (params, features))
    teacher = jax.tree.map(jax.numpy.asarray, teacher)
    return jax.jit(settings.factories.loss(settings), static_argnums=0)(model, *arrays, jax.random.key(0), teacher)


@pytest.mark.parametrize("form", ["ce", "bce"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_clip_agrees_with_numpy(model_file, form: str, beta: float) -> None:
    captions = 4
    settings, _ = load(
        *("beta_clip", f"--config.model={model_file}", f"--config.extra.form={form}", f"--config.extra.beta={beta}")
    )
    model, params, features, _ = drawn(settings, captions)
    values = loss_of(settings, model, params, features, None)

    pooling, text = params["pooling"], features.text.reshape(IMAGES, captions, WIDTH)
    pooled = np.zeros_like(text)
    for n in range(IMAGES):
        local = unit(features.local[n])
        key, value = linear(pooling["key"], local), linear(pooling["value"], local)
        for k in range(captions):
            seen = attend(pooling, linear(pooling["query"], unit(text[n, k])), key, value, model.config.pooling_heads)
            hidden = linear(pooling["up"], layer_norm(pooling["ln"], seen))
            pooled[n, k] = seen + linear(pooling["down"], hidden / (1 + np.exp(-1.702 * hidden)))
    expected = {
        "global": info_nce(features.image, text[:, 0], np.exp(1.1)),
        "beta_cal": beta_cal(pooled, text, np.exp(pooling["logit_scale"]), beta, form),
    }
    assert set(values.terms) == set(expected)
    for name, value in expected.items():
        assert_close(values.terms[name], value, 2e-6)  # float32 sums in another order
    assert_close(values.total, sum(expected.values()), 2e-6)


def test_cosmos_agrees_with_numpy(model_file) -> None:
    captions = 4
    settings, _ = load("cosmos", f"--config.model={model_file}")
    model, params, student, teacher = drawn(settings, captions)
    values = loss_of(settings, model, params, student, teacher)

    text, taught = (each.text.reshape(IMAGES, captions, WIDTH) for each in (student, teacher))
    heads, of_image, of_text = model.config.pooling_heads, np.zeros_like(student.image), np.zeros_like(text)
    for n in range(IMAGES):
        over = params["pooling"]["over_texts"]
        tokens = layer_norm(over["ln_k"], text[n])
        query = linear(over["query"], layer_norm(over["ln_q"], student.image[n]))
        of_image[n] = student.image[n] + attend(
            over, query, linear(over["key"], tokens), linear(over["value"], tokens), heads
        )
        over = params["pooling"]["over_images"]
        tokens = layer_norm(over["ln_k"], student.local[n])
        for k in range(captions):
            query = linear(over["query"], layer_norm(over["ln_q"], text[n, k]))
            of_text[n, k] = text[n, k] + attend(
                over, query, linear(over["key"], tokens), linear(over["value"], tokens), heads
            )
    scale = np.exp(params["pooling"]["logit_scale"])
    views = [[of_image], [of_text[:, k] for k in range(captions)]]
    teachers = [[teacher.image], [taught[:, k] for k in range(2)]]  # of the texts, the global crops
    expected = {
        "clip": np.mean([info_nce(student.image, text[:, k], np.exp(1.1)) for k in range(captions)]),
        "distillation": np.mean(
            [np.mean([info_nce(s, t, scale) for s in ss for t in ts]) for ss in views for ts in teachers]
        ),
    }
    assert set(values.terms) == set(expected)
    for name, value in expected.items():
        assert_close(values.terms[name], value, 2e-6)  # float32 sums in another order
    assert_close(values.total, sum(expected.values()), 2e-6)


def test_cosmos_needs_a_teacher() -> None:
    settings, _ = load("cosmos", "--config.optimizer.ema_decay=0.0")
    with pytest.raises(ConfigError, match="ema_decay is 0"):
        settings.factories.loss(settings)


def test_texts_of_beta_clip_are_caption_sentences_and_phrases() -> None:
    _, module = load("beta_clip")
    sentences = ["a red ring above a small cross", "the background is navy", "a large circle in the upper left"]
    texts = module.texts_of(sentences, np.random.default_rng(0), 12, 2)
    assert len(texts) == 12
    assert texts[0] == ". ".join(sentences)
    assert len(set(texts[1:3])) == 2
    assert set(texts[1:3]) < set(sentences)
    phrases = {"a red ring", "a small cross", "the background", "a large circle", "the upper left"}
    assert set(texts[3:8]) == set(texts[3:]) == phrases  # each once before any twice
    assert texts != module.texts_of(sentences, np.random.default_rng(1), 12, 2)
    assert module.texts_of(["rings"], np.random.default_rng(0), 4, 1) == ["rings"] * 4


def test_texts_of_cosmos_are_global_and_local_crops() -> None:
    _, module = load("cosmos")
    sentences = [f"sentence {number}" for number in range(9)]
    lengths = set()
    for seed in range(40):
        texts = module.crops_of(sentences, np.random.default_rng(seed), 6)
        lengths |= {text.count(". ") + 1 for text in texts[:2]}
        assert len(set(texts[2:])) == 4
        assert set(texts[2:]) < set(sentences)
    assert lengths == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("name", "terms"), [("beta_clip", ["global", "beta_cal"]), ("cosmos", ["clip", "distillation"])]
)
def test_trains_on_the_scenes(name: str, terms: list[str], scenes, model_file, tmp_path) -> None:
    """On two devices, with worker processes, as the command does it."""
    status, _, err = run(
        *(EXAMPLES / f"{name}.py", tmp_path, f"--config.model={model_file}", f"--config.data.dir={scenes}"),
        *("--config.data.name=scenes/small", "--config.batch_size=8", "--config.captions_per_image=9"),
        *("--config.steps=50", "--config.optimizer.warmup_steps=5", "--config.optimizer.learning_rate=3e-3"),
        *("--config.log_every_steps=10", "--config.data.workers=1", "--config.compilation_cache="),
        devices=2,
    )
    assert status == 0, err
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50]
    for term in ("loss", *terms):
        assert lines[-1][term] < 0.95 * lines[0][term]  # means of ten steps, the first of which learn already
    settings, _ = load(name, f"--config.model={model_file}")
    model, params = flair_jax.load(tmp_path, model=settings.factories.model(settings))
    size, length = model.config.vision.image_size, model.config.text.context_length
    pixels, tokens = np.zeros((2, size, size, 3), np.uint8), flair_jax.tokenize(["a red ring"], length)
    assert np.isfinite(model.logits(params, model.normalize(pixels), tokens)).all()


def test_beta_clip_is_planned(model_file) -> None:
    words = ("plan", f"--config={EXAMPLES / 'beta_clip.py'}", f"--config.model={model_file}", "--topology=cpu:2")
    status, out, err = finish(spawn("-m", "flair_jax.cli", *words, devices=2))
    assert status == 0, err
    assert "32 images a step" in out
