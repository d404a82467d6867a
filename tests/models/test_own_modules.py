"""Other poolings and towers in the place of FLAIR's: all that is built on a model works with them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_pictures import draw
from numeric import assert_close
from own_modules import BagOfWords, GatedMean, HiddenFastPath, NarrowAttention, PatchMeans, PlainMean

import flair_jax
from flair_jax import Flair, FlairError, Pooling, TextTower, VisionTower, checkpoint, normalize, tokenize
from flair_jax.convert import stablehlo, stablehlo_export
from flair_jax.demo.evaluation import _Scorer
from flair_jax.errors import CheckpointError, ConfigError, SearchIndexError
from flair_jax.evaluate import retrieval_task
from flair_jax.evaluate.retrieval import RETRIEVAL_MODES, RetrievalSettings
from flair_jax.evaluate.tasks import Job, evaluate_checkpoint
from flair_jax.parallel.sharding import data_mesh
from flair_jax.scoring.scorer import Retriever, score_all_step, top_k
from flair_jax.search import Searcher, SearchIndex
from flair_jax.search.build import IndexSettings, update
from flair_jax.search.fingerprint import fingerprint
from flair_jax.search.pictures import find_pictures
from flair_jax.train.initial import initial_params

POOLINGS = (GatedMean(), NarrowAttention(8), PlainMean())
SENTENCES = ["a red kettle on a gas stove", "two dogs", "a dog and a cat asleep on a large blue sofa by the window"]


def name_of(pooling: Pooling) -> str:
    return type(pooling).__name__


@pytest.fixture(scope="session", params=POOLINGS, ids=name_of)
def own(request, small_config) -> tuple[Flair, dict]:
    """A model with a pooling of its own, and every parameter random."""
    model = Flair(small_config, pooling=request.param)
    rng = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), np.float32), model.abstract_params()
    )


@pytest.fixture(scope="session")
def inputs(small_config) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and tokens."""
    size = small_config.vision.image_size
    return np.random.default_rng(2).integers(0, 256, (5, size, size, 3), dtype=np.uint8), tokenize(SENTENCES)


@pytest.fixture(scope="session")
def cosines(own, inputs) -> np.ndarray:
    """By the model's own logits."""
    model, params = own
    logits = jax.jit(model.logits)(params, normalize(inputs[0]), inputs[1])
    return np.asarray((logits - params["logit_bias"]) / np.exp(params["logit_scale"]))


@pytest.fixture(scope="session")
def saved(own, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "checkpoint"
    checkpoint.save(path, *own, {"file": "own"})
    return path


@pytest.mark.golden
def test_without_its_fast_path_flairs_own_pooling_gives_the_same(golden, golden_model) -> None:
    """2e-5 is the room that the golden data's README gives float32 scores; measured 1e-6."""
    model, params = golden_model
    plain = Flair(model.config, pooling=HiddenFastPath(model.config.embed_dim, model.config.pooling_heads))
    data = {key.removeprefix("e2e/"): each for key, each in np.load(golden / "retrieval.npz").items()}
    image, local = jax.jit(plain.encode_image)(params, data["images"].transpose(0, 2, 3, 1))
    image, local = np.asarray(image), np.asarray(local)
    text, scale = np.asarray(jax.jit(plain.encode_text)(params, data["tokens"])), np.exp(params["logit_scale"])
    retriever = Retriever(plain, params)
    prepared = retriever.prepare_texts(text)
    assert prepared.shared == (), "or the fast path was used"
    scores = retriever.score_all(local, prepared)
    assert_close(scale * scores, data["text_conditioned/scores"])
    candidates = top_k(retriever.score_global(image, text), data["top_k/indices"].shape[1])
    assert_close(scale * retriever.score_top_k(candidates, local, prepared), data["top_k/scores"])
    assert_close(retriever.score_text(local, text[0]), Retriever(*golden_model).score_text(local, text[0]))
    assert_close(plain.pool(params, local, text), model.pool(params, local, text))


@pytest.mark.parametrize("devices", [1, 4])
def test_scores_are_those_of_the_logits(own, inputs, cosines, devices: int) -> None:
    retriever = Retriever(*own, jax.devices()[:devices])
    tokens, text = retriever.encode_images(inputs[0], with_local=True), retriever.encode_texts(inputs[1])
    prepared = retriever.prepare_texts(text)
    assert_close(retriever.score_all(tokens[:, 1:], prepared), cosines)
    chosen = np.array([[2, 0], [1, 2], [0, 1], [2, 1], [0, 0]])
    expected = np.take_along_axis(cosines, chosen, axis=1)
    assert_close(retriever.score_top_k(chosen, tokens[:, 1:], prepared), expected)
    assert_close(retriever.score_text(tokens[:, 1:], text[1]), cosines[:, 1])


def test_pooling_own_queries_is_a_part_of_pooling_all(own, inputs) -> None:
    """What the loss does, against what the logits do."""
    model, params = own
    _, local = model.encode_image(params, normalize(inputs[0]))
    text = model.encode_text(params, inputs[1])
    own_texts = np.array([[0, 1], [2, 1], [0, 2], [1, 1], [2, 0]])
    query, images = model.project_texts(params, text), model.prepare_images(params, local)
    pooled = model.pool(params, local, text)
    expected = jnp.stack([row[chosen] for row, chosen in zip(pooled, own_texts, strict=True)])
    assert_close(model.pool_queries(params, query[own_texts], images), expected)


def test_the_scoring_step_compiles_from_shapes_as_for_a_plan(own) -> None:
    model, _ = own
    params = model.abstract_params()
    local = jax.ShapeDtypeStruct((8, model.config.vision.grid**2, model.config.embed_dim), jnp.float32)
    texts = jax.eval_shape(model.prepare_texts, params, jax.ShapeDtypeStruct((37, model.config.embed_dim), jnp.float32))
    step = score_all_step(model, data_mesh(jax.devices()))
    assert step.lower(params, local, texts).compile().memory_analysis() is not None


def test_a_checkpoint_is_loaded_with_its_model_alone(own, saved, small_checkpoint) -> None:
    model, params = own
    _, loaded = flair_jax.load(saved, model=model)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(CheckpointError, match=rf"holds a model with pooling own_modules.{name_of(model.pooling)}, and"):
        flair_jax.load(saved)
    with pytest.raises(CheckpointError, match="holds a model with the modules of FLAIR, and not with pooling own_mod"):
        flair_jax.load(small_checkpoint, model=model)
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, init_logit_bias=-9.0))
    with pytest.raises(CheckpointError, match="is not of the model that is given; they differ in init_logit_bias"):
        flair_jax.load(saved, model=other)


@pytest.mark.parametrize("mode", RETRIEVAL_MODES)
def test_evaluation(own, saved, photographs, mode: str) -> None:
    job = Job(retrieval_task.task(), RetrievalSettings(mode, top_k=3))
    (result,) = evaluate_checkpoint(saved, "coco", photographs, job, dtype="float32", output=None, model=own[0])
    assert 0 <= result["metrics"]["text_to_image_R@1"] <= 1


def test_search(own, tmp_path) -> None:
    """Against scores of the very tokens that are stored, and only with this pooling."""
    model, params = own
    for number in range(6):
        draw(tmp_path / "pictures" / f"{number}.png", number)
    index = tmp_path / "index"
    found = find_pictures(tmp_path / "pictures")
    update(index, found, model, params, root=str(tmp_path / "pictures"), checkpoint="", settings=IndexSettings())
    opened = SearchIndex.open(index)
    hits = Searcher(opened, model, params).search(SENTENCES[0], top=6)
    retriever = Retriever(model, params)
    local = opened.local_tokens(np.arange(6)).astype(np.float32)
    scores = retriever.score_all(local, retriever.prepare_texts(retriever.encode_texts(tokenize(SENTENCES[:1]))))[:, 0]
    assert_close([hit.score for hit in hits], np.sort(scores)[::-1])
    flair = Flair(model.config)
    with pytest.raises(SearchIndexError, match="was made by another checkpoint"):
        Searcher(opened, flair, flair.init(jax.random.key(0)))
    assert fingerprint(model, params) != fingerprint(dataclasses.replace(model, pooling=None), params)


def test_export(own, saved, inputs, cosines, tmp_path) -> None:
    """The pooled features of the exported functions give the model's cosines."""
    stablehlo_export.export(saved, tmp_path / "own.stablehlo", model=own[0])
    exported = stablehlo.load(tmp_path / "own.stablehlo")
    _, local = exported.encode_image(normalize(inputs[0]))
    text = exported.encode_text(inputs[1])
    pooled = exported.pool(local, text)
    products = jnp.einsum("bnd,nd->bn", pooled, text)
    norms = jnp.linalg.norm(pooled, axis=-1) * jnp.linalg.norm(text, axis=-1)[None]
    assert_close(products / norms, cosines)


def test_the_demonstrations_scores(small_config, monkeypatch) -> None:
    """Every mode and pairs of a picture and a caption; where it looks cannot be told without attention weights."""
    from flair_jax.demo import evaluation

    monkeypatch.setattr(evaluation, "_ROWS", 8)
    model = Flair(small_config, pooling=GatedMean())
    params = model.init(jax.random.key(0))
    size = small_config.vision.image_size
    pictures = list(np.random.default_rng(4).integers(0, 256, (5, size, size, 3), dtype=np.uint8))
    scorer = _Scorer(model, params, pictures)
    captions = [f"{sentence} {number}" for number, sentence in enumerate(SENTENCES)]
    scores = {mode: scorer.scores(captions, mode) for mode in _Scorer.MODES}
    pairs = [(4, captions[0]), (2, captions[2])]
    expected = [scores["text-conditioned"][4, 0], scores["text-conditioned"][2, 2]]
    assert_close(scorer.pair_scores(pairs, "text-conditioned"), expected)
    assert_close(scorer.pair_scores(pairs, "global"), [scores["global"][4, 0], scores["global"][2, 2]])
    with pytest.raises(FlairError, match="GatedMean, the model's pooling, has no attention weights"):
        scorer.attention(pairs)


def test_maps_need_weights_and_patches_do_not(own, inputs) -> None:
    model, params = own
    images = normalize(inputs[0][:2])
    with pytest.raises(FlairError, match=rf"{name_of(model.pooling)}, the model's pooling, has no attention weights"):
        flair_jax.attention_maps(model, params, images, inputs[1])
    similarity = flair_jax.patch_similarity(model, params, images, inputs[1])
    assert similarity.shape == (2, len(SENTENCES), model.config.vision.grid, model.config.vision.grid)


@pytest.mark.parametrize("method", ["project_texts", "prepare_images", "pool_queries"])
def test_what_a_pooling_must_have_is_said(small_config, method: str) -> None:
    class Unfinished(PlainMean):
        pass

    setattr(Unfinished, method, getattr(Pooling, method))
    with pytest.raises(NotImplementedError, match=f"Unfinished has no {method}, which every pooling must have"):
        Flair(small_config, pooling=Unfinished()).init(jax.random.key(0))


@pytest.fixture
def own_towers(small_config) -> Flair:
    text = dataclasses.replace(small_config.text, causal=False)
    config = dataclasses.replace(small_config, text=text)
    vision = PatchMeans(config.vision.patch_size, config.embed_dim)
    return Flair(config, vision=vision, text=BagOfWords(config.text.vocab_size, config.embed_dim))


def test_own_towers(own_towers, inputs) -> None:
    """One that sees padding: texts are not cut to their length before they are embedded."""
    params = own_towers.init(jax.random.key(0))
    assert set(params) == {"vision", "text", "pooling", "logit_scale", "logit_bias"}
    assert set(params["vision"]) == {"Dense_0"}
    retriever = Retriever(own_towers, params)
    expected = params["text"]["Embed_0"]["embedding"][inputs[1]].mean(axis=1)
    text = retriever.encode_texts(inputs[1])
    assert_close(text, expected)
    tokens = retriever.encode_images(inputs[0], with_local=True)
    logits = jax.jit(own_towers.logits)(params, normalize(inputs[0]), inputs[1])
    scores = retriever.score_all(tokens[:, 1:], retriever.prepare_texts(text))
    assert_close(np.exp(params["logit_scale"]) * scores + params["logit_bias"], logits)


@pytest.mark.parametrize("transform", [jax.jit, lambda function: function], ids=["jit", "plain"])
def test_modules_alone_are_those_of_the_model(small_model, inputs, transform: Callable) -> None:
    """Each from its own fields, without a `FlairConfig`, on its part of the parameters."""
    model, params = small_model
    config = model.config
    vision = VisionTower(config.vision.image_size, config.vision.patch_size, 24, layers=3, heads=3, embed_dim=16)
    text = TextTower(config.text.context_length, config.text.vocab_size, 16, layers=2, heads=2, embed_dim=16)
    pooling = flair_jax.TextConditionedPooling(embed_dim=16, heads=8)

    def pooled(params):
        with jax.default_matmul_precision("highest"):
            _, local = vision.apply({"params": params["vision"]}, normalize(inputs[0]))
            texts = text.apply({"params": params["text"]}, jnp.asarray(inputs[1]))
            return pooling.apply({"params": params["pooling"]}, local, texts)[0]

    _, local = model.encode_image(params, normalize(inputs[0]))
    assert_close(transform(pooled)(params), model.pool(params, local, model.encode_text(params, inputs[1])))


def test_given_modules_draw_the_same_parameters(small_config) -> None:
    """The names of parameters, by which they are drawn, do not depend on who made the modules."""
    from flair_jax.models import text_conditioned_pooling, text_tower, vision_tower

    given = Flair(
        small_config, vision_tower(small_config), text_tower(small_config), text_conditioned_pooling(small_config)
    )
    both = (model.init(jax.random.key(3)) for model in (Flair(small_config), given))
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_a_class_is_known_by_its_name_wherever_its_file_is(own, saved, inputs, monkeypatch) -> None:
    """A file gives its classes other full names as a program, a module and a configuration."""
    model, params = own
    before = fingerprint(model, params)
    monkeypatch.setattr(type(model.pooling), "__module__", "moved")
    assert model.own_modules["pooling"].startswith("moved.")
    flair_jax.load(saved, model=model)
    assert fingerprint(model, params) == before


def test_starting_from_a_model_with_other_modules_is_one_sentence(small_checkpoint, small_config) -> None:
    model = Flair(small_config, pooling=GatedMean())
    with pytest.raises(ConfigError, match=r"config.init=.*: holds a model with the modules of FLAIR, and not with"):
        initial_params(str(small_checkpoint), model, model.abstract_params())
