"""Choosing captions, from files to metrics, with a small model of 2 x 2 patches of 16 pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_choices import make_fgovd, make_sugarcrepe, make_sugarcrepe_pp, make_winoground
from own_modules import GatedMean

import flair_jax
from flair_jax.data.sets import scenes_builder
from flair_jax.data.sets.choice import CHOICE_SETS
from flair_jax.demo import evaluation
from flair_jax.demo.evaluation import ScenesEvaluation
from flair_jax.demo.run import write_pictures
from flair_jax.errors import DatasetError, FlairError
from flair_jax.evaluate import choosing_scores, choosing_task
from flair_jax.evaluate.choosing import ChooseSettings, choose
from flair_jax.evaluate.choosing_scores import WAYS, box_patches
from flair_jax.models.flair import Flair
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever

SETTINGS = ChooseSettings(batch_size=4)


@pytest.fixture(scope="module")
def retriever(small_model) -> Retriever:
    """One for all tests, so that each shape is compiled once."""
    return Retriever(*small_model)


@pytest.fixture(scope="module")
def score(small_model):
    """Logits of one picture with captions, text-conditioned and global, from public methods."""
    model, params = small_model
    logits = jax.jit(
        lambda *inputs: jnp.stack([model.logits(params, *inputs)[0], model.global_logits(params, *inputs)[0]])
    )

    def of(picture, captions: list[str]) -> np.ndarray:
        pixels = flair_jax.preprocess(picture, model.config.vision)
        return np.asarray(logits(flair_jax.normalize(pixels[None]), flair_jax.tokenize(captions)))

    return of


def test_boxes_have_the_patches_of_which_they_cover_a_quarter() -> None:
    def chosen(*box: float) -> list:
        """Rows and columns, in a picture of 40 x 20 pixels in 4 x 4 patches of 10 x 5."""
        return np.argwhere(box_patches(tuple(map(float, box)), (40, 20), 4)).tolist()

    assert chosen(10, 5, 20, 5) == [[1, 1], [1, 2]]
    # Half of a patch across and half down, which is a quarter; then a bit less on one side.
    assert chosen(5, 2.5, 10, 5) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert chosen(5.1, 2.5, 10, 5) == [[0, 1], [1, 1]]
    # A box too small for any has the patch that it covers most of.
    assert chosen(21, 11, 1, 1) == [[2, 2]]
    assert len(chosen(0, 0, 40, 20)) == 16


def test_only_the_kept_tokens_are_pooled(small_model) -> None:
    model, params = small_model
    rng = np.random.default_rng(0)
    local = rng.normal(size=(3, 4, 16)).astype(np.float32)
    text = rng.normal(size=(3, 2, 16)).astype(np.float32)
    kept = np.array([[True, False, True, False], [True] * 4, [False] * 4])

    @jax.jit
    def partly() -> jax.Array:
        query, images = model.project_texts(params, text), model.prepare_images(params, local)
        return model.pool_queries(params, query, model.keep_tokens(params, images, kept))

    found, pool = np.asarray(partly()), jax.jit(model.pool)
    for number in range(3):
        # The same sums over fewer terms; measured 1e-7.
        alone = pool(params, local[number : number + 1, kept[number]], text[number])[0]
        np.testing.assert_allclose(found[number], alone, atol=2e-6)
    assert not np.allclose(found[0], pool(params, local[:1], text[0])[0])


@pytest.mark.parametrize(("name", "make"), [("sugarcrepe", make_sugarcrepe), ("sugarcrepe++", make_sugarcrepe_pp)])
def test_accuracy_is_that_of_the_public_logits(
    small_model, retriever, score, tmp_path, monkeypatch, name, make
) -> None:
    make(tmp_path)
    data = CHOICE_SETS[name].load(tmp_path)
    found = choose(small_model[0], retriever, data, SETTINGS, BlockStore(None))
    right = {}
    for view, rows in zip(data.views, data.rows, strict=True):
        for row in rows:
            logits = score(view.path, [data.texts[text] for text in row.texts])
            true = np.array(data.owners[row.question]) == 0
            right[row.question] = logits[:, true].min(axis=1) > logits[:, ~true].max(axis=1)
    expected = np.array([right[number] for number in range(len(right))])
    assert found.metrics["text-conditioned"] == {"accuracy": pytest.approx(expected[:, 0].mean())}
    assert found.metrics["global"] == {"accuracy": pytest.approx(expected[:, 1].mean())}
    assert found.metrics["chance"] == {"accuracy": pytest.approx(1 / 2 if name == "sugarcrepe" else 1 / 3)}
    assert (found.questions, found.images) == (len(data.owners), len(data.views))
    first = data.kinds[0]
    of_first = [right[number][0] for number, kind in enumerate(data.kinds) if kind == first]
    assert found.kinds[first]["text-conditioned"] == {"accuracy": pytest.approx(np.mean(of_first))}
    assert found.kinds[first]["questions"] == len(of_first)

    monkeypatch.setattr(choosing_scores, "_ROWS", 8)
    again = choose(small_model[0], retriever, data, ChooseSettings(batch_size=1), BlockStore(None))
    assert again.metrics == found.metrics


def test_winogrounds_pictures_and_captions_are_matched(small_model, retriever, score, tmp_path) -> None:
    make_winoground(tmp_path)
    data = CHOICE_SETS["winoground"].load(tmp_path)
    found = choose(small_model[0], retriever, data, SETTINGS, BlockStore(None))
    sums = np.zeros((2, 3))
    for question in range(2):
        captions = [data.texts[2 * question + which] for which in range(2)]
        logits = np.stack([score(data.views[2 * question + which].path, captions) for which in range(2)])
        for way in range(2):
            (a, b), (c, d) = logits[:, way]  # picture 0 with both captions, then picture 1
            sums[way] += [a > b and d > c, a > c and d > b, a > b and d > c and a > c and d > b]
    for way, expected in zip(("text-conditioned", "global"), sums / 2, strict=True):
        assert list(found.metrics[way].values()) == pytest.approx(expected.tolist())
    assert found.metrics["chance"] == {
        "text": pytest.approx(0.25),
        "image": pytest.approx(0.25),
        "group": pytest.approx(1 / 6),
    }
    assert (found.images, found.questions, found.captions) == (4, 2, 4)


def test_boxes_are_scored_by_their_crops_and_by_their_tokens(small_model, retriever, score, tmp_path) -> None:
    model, params = small_model
    make_fgovd(tmp_path, bbox=[0, 0, 3, 4])  # of 8 x 4 pixels: the two patches on the left, of 2 x 2
    data = CHOICE_SETS["fg-ovd-hard"].load(tmp_path)
    found = choose(model, retriever, data, SETTINGS, BlockStore(None))
    assert tuple(found.metrics) == (*WAYS, "chance")
    crop, whole, _ = data.read(0)
    captions = [data.texts[text] for text in data.rows[0][0].texts]
    logits = score(crop, captions)
    assert found.metrics["text-conditioned"]["accuracy"] == float(logits[0].argmax() == 0)
    assert found.metrics["global"]["accuracy"] == float(logits[1].argmax() == 0)
    local = retriever.encode_images(np.asarray(whole.resize((32, 32), 3))[None], with_local=True, pad_to=4)[:, 1:]
    text = retriever.encode_texts(flair_jax.tokenize(captions))
    pooled = np.asarray(jax.jit(model.pool)(params, local[:, [0, 2]], text)[0])
    cosines = np.sum(pooled * text, axis=1) / np.linalg.norm(pooled, axis=1) / np.linalg.norm(text, axis=1)
    assert found.metrics["box-tokens"]["accuracy"] == float(cosines.argmax() == 0)
    scorer = choosing_scores.CaptionScorer(
        retriever, jax.jit(lambda *arrays: choosing_scores.score_rows(model, WAYS, *arrays)), WAYS, 4
    )
    view = choosing_scores.read_view(data, model.config.vision, True, 0)
    features = retriever.encode_texts(flair_jax.tokenize(data.texts))
    # The same sums in other batches; measured 1e-7.
    np.testing.assert_allclose(scorer([view], features, 11)[0, 2], cosines, atol=2e-6)
    assert found.metrics["chance"] == {"accuracy": pytest.approx(1 / 11)}


def test_equal_scores_count_against_the_model(small_model, retriever, tmp_path, monkeypatch) -> None:
    make_sugarcrepe(tmp_path)
    data = CHOICE_SETS["sugarcrepe"].load(tmp_path)
    store = BlockStore(None)
    store.put("texts", np.ones((len(data.texts), 16), np.float32))
    found = choose(small_model[0], retriever, data, SETTINGS, store)
    assert found.metrics["global"] == found.metrics["text-conditioned"] == {"accuracy": 0}
    assert found.tied == {"global": 8, "text-conditioned": 8}


def test_a_mode_alone_and_a_mode_that_is_not_there(small_model, retriever, tmp_path) -> None:
    make_fgovd(tmp_path)
    data = CHOICE_SETS["fg-ovd-hard"].load(tmp_path)
    found = choose(small_model[0], retriever, data, ChooseSettings("global", 4), BlockStore(None))
    assert tuple(found.metrics) == ("global", "chance")
    with pytest.raises(FlairError, match="--mode top-k is not for --task choose; choose global or text-conditioned"):
        ChooseSettings("top-k")


def test_a_pooling_that_cannot_keep_tokens_scores_boxes_by_their_crops_and_says_so(small_config, tmp_path) -> None:
    make_fgovd(tmp_path)
    model = Flair(small_config, pooling=GatedMean())
    params = jax.jit(model.init)(jax.random.key(0))
    data = CHOICE_SETS["fg-ovd-hard"].load(tmp_path)
    found = choose(model, Retriever(model, params), data, SETTINGS, BlockStore(None))
    assert tuple(found.metrics) == (*WAYS[:2], "chance")
    entry = choosing_task.result("fg-ovd-hard", tmp_path, found, SETTINGS, {})
    note = "fg-ovd-hard: not scored by box-tokens, since the model's pooling has no keep_tokens"
    assert note in choosing_task.table([entry], SETTINGS)


def test_questions_about_broken_pictures_are_listed_or_left_out(small_model, retriever, tmp_path) -> None:
    make_winoground(tmp_path)
    (tmp_path / "images/ex_0_img_1.png").unlink()
    data = CHOICE_SETS["winoground"].load(tmp_path)
    with pytest.raises(DatasetError, match="1 of 4 pictures cannot be read"):
        choose(small_model[0], retriever, data, SETTINGS, BlockStore(None))
    skipping = dataclasses.replace(SETTINGS, skip_broken=True)
    found = choose(small_model[0], retriever, data, skipping, BlockStore(None))
    assert (found.images, found.questions, found.skipped_questions, len(found.skipped)) == (3, 1, 1, 1)
    assert list(found.kinds) == ["Relation"]
    (tmp_path / "images/ex_1_img_0.png").unlink()
    with pytest.raises(DatasetError, match="no question has all its pictures"):
        choose(small_model[0], retriever, data, skipping, BlockStore(None))


def test_the_scenes_give_the_numbers_of_the_demonstrations_tables(small_config, tmp_path, monkeypatch) -> None:
    scenes_builder.prepare(tmp_path / "data", "small")
    scenes = scenes_builder.read(tmp_path / "data", "test", "small")
    write_pictures(tmp_path / "held-out", scenes)
    vision = dataclasses.replace(small_config.vision, image_size=72, patch_size=18, layers=1)
    text = dataclasses.replace(small_config.text, layers=1)
    model = Flair(dataclasses.replace(small_config, vision=vision, text=text))
    params = jax.jit(model.init)(jax.random.key(1))
    monkeypatch.setattr(evaluation, "_ROWS", 16)
    tables = ScenesEvaluation(scenes)
    scorer = evaluation._Scorer(model, params, [labelled.pixels for labelled in scenes])
    data = CHOICE_SETS["folder"].load(tmp_path / "held-out")
    found = choose(model, Retriever(model, params), data, ChooseSettings(batch_size=16), BlockStore(None))
    assert found.questions == len(scenes) * len(evaluation.ATTRIBUTES)
    for way in ("text-conditioned", "global"):
        ours = {evaluation.words(name): 100 * values[way]["accuracy"] for name, values in found.kinds.items()}
        assert ours == pytest.approx(tables._words(scorer, way))
        assert len(set(ours.values())) > 1, "the comparison is of something"
    assert 100 * found.metrics["chance"]["accuracy"] == tables._chance(4)[evaluation.words("colour")]
