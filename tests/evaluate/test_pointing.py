"""Pointing at what phrases name, from files to metrics, with a small model of 2 x 2 patches of 16 pixels."""

import dataclasses

import jax
import numpy as np
import pytest
from made_grounding import make_entities, make_folder
from own_modules import GatedMean

import flair_jax
from flair_jax.data.sets import scenes_builder
from flair_jax.data.sets.grounding import GROUNDING_SETS
from flair_jax.demo import evaluation
from flair_jax.demo.evaluation import ScenesEvaluation
from flair_jax.demo.run import write_pictures
from flair_jax.errors import DatasetError
from flair_jax.evaluate import pointing
from flair_jax.evaluate.localization import chosen_pixels, intersection_over_union, points_at, winning_patches
from flair_jax.evaluate.pointing import PointSettings, centre_map, measure_phrases, point
from flair_jax.evaluate.pointing_task import result, table
from flair_jax.models.flair import Flair
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.maps import maps_of, pair_maps
from flair_jax.scoring.scorer import Retriever
from flair_jax.show.maps import attention_maps, patch_similarity

SETTINGS = PointSettings(batch_size=8)


@pytest.fixture(scope="module")
def retriever(small_model) -> Retriever:
    """One for all tests, so that each shape is compiled once."""
    return Retriever(*small_model)


def test_metrics_of_a_phrase_are_those_computed_by_hand() -> None:
    """A picture of 8 x 8 pixels and 4 x 4 patches, whose upper left quarter is named."""
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    good = np.zeros((4, 4), np.float32)
    good[:2, :2] = 1
    good[0, 0] = 2
    bad = good[::-1, ::-1]
    (measured,) = measure_phrases(np.stack([good, bad, np.ones_like(good)])[None], [mask])
    rows = dict(zip(("good", "bad", "flat", "centre", "uniform"), measured.tolist(), strict=True))
    assert rows["good"][0] == 1
    # Half of the range is 1: the three patches of 1 are chosen where bilinear resizing leaves them at least that.
    assert rows["good"][1] == 1
    assert rows["good"][2] == pytest.approx(intersection_over_union(chosen_pixels(good, (8, 8)), mask))
    assert rows["bad"] == [0, 0, 0, 0]
    assert rows["flat"] == [0, 0, 0.25, 0], "all patches tie, and chosen is the whole picture"
    assert rows["uniform"] == [0.25, 0.25, 0.25, 0], "one patch in four wins"
    assert rows["centre"][:2] == [0.25, 0.25], "one of the middle four wins"
    assert rows["centre"][2] == pytest.approx(intersection_over_union(chosen_pixels(centre_map(4), (8, 8)), mask))


def test_the_centre_of_an_odd_grid_is_one_patch() -> None:
    assert centre_map(3).argmax() == 4
    mask = np.zeros((3, 3), bool)
    mask[1, 1] = True
    (measured,) = measure_phrases(np.zeros((1, 0, 3, 3), np.float32), [mask])
    assert measured[:, 0].tolist() == [1, pytest.approx(1 / 9)]


def test_maps_of_pairs_are_those_that_are_shown(small_model) -> None:
    model, params = small_model
    images = flair_jax.normalize(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    tokens = flair_jax.tokenize(["a cat", "a large dog"])
    _, local = jax.jit(model.encode_image)(params, images)
    text = jax.jit(model.encode_text)(params, tokens)
    found = np.asarray(jax.jit(pair_maps, static_argnums=0)(model, params, local, text))
    attention = attention_maps(model, params, images, tokens).heads.mean(axis=2)
    pooled = patch_similarity(model, params, images, tokens)
    for number in range(2):
        # The same sums in other batches; measured 1e-7.
        np.testing.assert_allclose(found[number, 0], attention[number, number].reshape(-1), atol=2e-6)
        np.testing.assert_allclose(found[number, 2], pooled[number, number].reshape(-1), atol=2e-6)
        tokens_of = np.asarray(local[number]) / np.linalg.norm(local[number], axis=1, keepdims=True)
        direction = np.asarray(text[number]) / np.linalg.norm(text[number])
        np.testing.assert_allclose(found[number, 1], tokens_of @ direction, atol=2e-6)


def expected(model: Flair, params: dict, data) -> dict[str, list[float]]:
    """Pointing and IoU by attention of each phrase, one at a time, from public functions."""
    attend = jax.jit(lambda images, tokens: attention_maps(model, params, images, tokens).heads.mean(axis=2)[0, 0])
    values = {"pointing": [], "mean_iou": []}
    for number, phrases in enumerate(data.phrases):
        picture, masks = data.read(number)
        pixels = np.asarray(picture.resize((32, 32), 3))
        for phrase, mask in zip(phrases, masks, strict=True):
            found = np.asarray(attend(flair_jax.normalize(pixels[None]), flair_jax.tokenize([data.texts[phrase]])))
            values["pointing"].append(points_at(found, winning_patches(mask, 2)))
            values["mean_iou"].append(intersection_over_union(chosen_pixels(found, mask.shape), mask))
    return values


def test_a_set_is_measured_phrase_by_phrase(small_model, retriever, tmp_path, monkeypatch) -> None:
    model, params = small_model
    make_entities(tmp_path)
    data = GROUNDING_SETS["flickr30k-entities-test"].load(tmp_path)
    found = point(model, retriever, data, SETTINGS, BlockStore(None))
    values = expected(model, params, data)
    for metric, each in values.items():
        assert found.metrics["attention"][metric] == pytest.approx(np.mean(each), abs=1e-6)
    assert (found.images, found.phrases, found.outlined) == (2, 6, 0)
    assert {kind: each["phrases"] for kind, each in found.kinds.items()} == {"people": 4, "clothing": 2, "other": 2}
    people = [values["mean_iou"][number] for number in (0, 2, 3, 5)]
    assert found.kinds["people"]["attention"]["mean_iou"] == pytest.approx(np.mean(people), abs=1e-6)
    assert found.left_out == data.left_out
    # Of 8 x 4 pixels in patches of 4 x 2, "it" covers 2 of 8 pixels of one patch, which is a quarter.
    assert found.too_small == 0
    assert found.metrics["uniform"]["pointing"] == pytest.approx((2 / 4 + 1 / 4 + 2 / 4) / 3)
    assert found.metrics["uniform"]["mean_iou"] == pytest.approx((6 + 2 + 6) / 3 / 32)

    monkeypatch.setattr(pointing, "_PAIRS", 4)
    again = point(model, retriever, data, PointSettings(batch_size=1), BlockStore(None))
    assert again.metrics == found.metrics


def test_a_pooling_without_weights_has_the_other_maps(small_config, tmp_path) -> None:
    model = Flair(small_config, pooling=GatedMean())
    assert maps_of(model) == ("patches", "pooled-patches")
    params = jax.jit(model.init)(jax.random.key(0))
    make_folder(tmp_path)
    data = GROUNDING_SETS["folder"].load(tmp_path)
    found = point(model, Retriever(model, params), data, SETTINGS, BlockStore(None))
    assert tuple(found.metrics) == ("patches", "pooled-patches", "centre", "uniform")
    printed = table([result("folder", tmp_path, found, SETTINGS, {})], SETTINGS)
    assert "folder: no map of attention, which the model's pooling does not have" in printed


def test_what_covers_a_quarter_of_no_patch_is_counted(small_model, retriever, tmp_path) -> None:
    make_folder(tmp_path, segmentation={"size": [4, 8], "counts": [0, 1, 31]})
    data = GROUNDING_SETS["folder"].load(tmp_path)
    found = point(small_model[0], retriever, data, SETTINGS, BlockStore(None))
    assert (found.phrases, found.outlined, found.too_small) == (2, 2, 2)
    for game in ("pointing", "pixel_pointing"):
        assert [each[game] for each in found.metrics.values()] == [0] * 5
    assert found.kinds == {}


def test_broken_pictures_are_listed_or_left_out_and_not_kept(small_model, retriever, tmp_path) -> None:
    make_entities(tmp_path)
    picture = tmp_path / "flickr30k-images/10.jpg"
    healthy = picture.read_bytes()
    picture.unlink()
    data = GROUNDING_SETS["flickr30k-entities-test"].load(tmp_path)
    store = BlockStore(tmp_path / "store")
    with pytest.raises(DatasetError, match="1 of 2 pictures cannot be read"):
        point(small_model[0], retriever, data, SETTINGS, store)
    skipping = PointSettings(batch_size=8, skip_broken=True)
    found = point(small_model[0], retriever, data, skipping, BlockStore(None))
    assert (found.images, found.phrases, len(found.skipped)) == (1, 3, 1)
    picture.write_bytes(healthy)
    whole = point(small_model[0], retriever, data, SETTINGS, store)
    assert (whole.images, whole.phrases, whole.skipped) == (2, 6, [])
    assert not (tmp_path / "store").exists()


def test_the_scenes_give_the_numbers_of_the_demonstrations_tables(small_config, tmp_path, monkeypatch) -> None:
    scenes_builder.prepare(tmp_path / "data", "small")
    scenes = scenes_builder.read(tmp_path / "data", "test", "small")
    write_pictures(tmp_path / "held-out", scenes)
    vision = dataclasses.replace(small_config.vision, image_size=72, patch_size=8, layers=1)
    model = Flair(dataclasses.replace(small_config, vision=vision))
    params = jax.jit(model.init)(jax.random.key(1))
    monkeypatch.setattr(evaluation, "_ROWS", 16)
    tables = ScenesEvaluation(scenes)
    scorer = evaluation._Scorer(model, params, [labelled.pixels for labelled in scenes])
    localization, chances = tables._localization(scorer), tables._chance(9)
    data = GROUNDING_SETS["folder"].load(tmp_path / "held-out")
    found = point(model, Retriever(model, params), data, PointSettings(batch_size=16), BlockStore(None))
    assert (found.images, found.outlined) == (16, found.phrases)
    ours = {name: 100 * found.metrics["attention"][name] for name in ("pointing", "mean_iou")}
    # Means of float32 and of float64; measured 1e-6.
    assert ours["pointing"] == pytest.approx(localization["pointing game"], abs=1e-4)
    assert ours["mean_iou"] == pytest.approx(localization["mean IoU at 0.5"], abs=1e-3)
    chance = 100 * found.metrics["uniform"]["pointing"]
    assert chance == pytest.approx(chances["pointing game"], abs=1e-4)
    assert 0 < ours["pointing"] != pytest.approx(chance), "the comparison is of something"
