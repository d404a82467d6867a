import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flair_jax.data.sets import scenes_builder
from flair_jax.data.sets.scenes import (
    NAMED_BY,
    PLACES,
    RELATIONS,
    SHAPES,
    SIDE,
    VALUES,
    Scene,
    SceneObject,
    alike,
    describe_object,
    describe_relation,
    draw_mentioned,
    draw_scene,
    draw_sentences,
    fits,
    relation_holds,
    relations,
    render,
)
from flair_jax.data.sources import TfdsSource


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    scenes_builder.prepare(folder, "small")
    return folder


def test_scenes_follow_from_their_seed() -> None:
    one, other, third = (draw_scene(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == other != third
    np.testing.assert_array_equal(*(render(one, np.random.default_rng(5))[0] for _ in range(2)))


def test_objects_lie_where_they_are_said_to() -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        scene = draw_scene(rng, for_training=number < 30)
        assert (1 if number < 30 else 4) <= len(scene.objects) <= 6
        pixels, mask = render(scene, rng)
        assert pixels.shape == (SIDE, SIDE, 3)
        assert set(np.unique(mask)) == set(range(len(scene.objects) + 1))
        for number, item in enumerate(scene.objects, start=1):
            rows, columns = np.nonzero(mask == number)
            assert divmod(PLACES.index(item.place), 3) == (rows.mean() * 3 // SIDE, columns.mean() * 3 // SIDE)


@pytest.mark.parametrize("shape", SHAPES)
def test_large_is_larger_than_small(shape: str) -> None:
    rng = np.random.default_rng(0)
    scene = draw_scene(rng)
    areas = []
    for size in VALUES["size"]:
        item = SceneObject(size=size, texture="plain", colour="red", shape=shape, place="middle center")
        areas.append((render(dataclasses.replace(scene, objects=(item,)), rng)[1] > 0).sum())
    assert areas[1] > 1.5 * areas[0]


def test_textures_differ() -> None:
    scene = draw_scene(np.random.default_rng(0))
    item = SceneObject(size="large", texture="plain", colour="red", shape="square", place="middle center")
    dark = {}
    for texture in VALUES["texture"]:
        each = dataclasses.replace(scene, objects=(dataclasses.replace(item, texture=texture),))
        pixels, mask = render(each, np.random.default_rng(0))
        dark[texture] = float((pixels[mask > 0, 0] < 150).mean())
    # Half of the surface is dark, or a quarter, but bands of 2.5 pixels take 2 or 3 of every 5.
    assert dark["plain"] < 0.01
    assert 0.38 < dark["striped"] < 0.62
    assert 0.14 < dark["dotted"] < 0.38


def test_sentences_are_true() -> None:
    rng = np.random.default_rng(0)
    kinds = {"object": 0, "relation": 0, "background": 0}
    for number in range(50):
        scene = draw_scene(rng, for_training=number < 25)
        true = {
            describe_relation(scene.objects[item], relation, named_by)
            for item, relation in relations(scene)
            for named_by in NAMED_BY
        }
        whites = sum(item.colour == "white" for item in scene.objects)
        assert whites == 1 or len(scene.objects) == 1
        for sentence, about in draw_sentences(scene, rng, 40):
            if about >= 0:
                kinds["object"] += 1
                words = sentence.removeprefix("an ").removeprefix("a ").replace(" in the ", " ").split()
                assert set(words) <= {*" ".join(dataclasses.astuple(scene.objects[about])).split(), "object"}, sentence
            elif sentence in true:
                kinds["relation"] += 1
            else:
                kinds["background"] += 1
                assert sentence == f"the background is {scene.background}"
    assert min(kinds.values()) > 50


def test_what_a_sentence_mentions() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_mentioned(rng) for _ in range(500)]
    assert {len(each) for each in drawn} == {1, 2, 3, 4, 5}
    assert set.union(*map(set, drawn)) == set(VALUES)


def test_whether_a_sentence_is_true_of_another_scene() -> None:
    white = SceneObject(size="small", texture="plain", colour="white", shape="ring", place="middle center")
    red = dataclasses.replace(white, colour="red", place="upper center")
    blue = dataclasses.replace(white, colour="blue", place="lower center")
    scene = Scene("navy", (red, white, blue))
    assert fits(scene, dataclasses.replace(red, size="large"), frozenset({"colour", "shape"}))
    assert not fits(scene, dataclasses.replace(red, size="large"), frozenset({"colour", "size"}))
    assert not alike(red, blue, frozenset({"colour"}))
    assert list(relations(scene)) == [(0, "above"), (2, "below")]
    assert describe_relation(red, "above", "colour") == "a red object above the white object"
    assert relation_holds(scene, red, "above", "colour")
    assert not relation_holds(scene, red, RELATIONS["above"], "colour")
    assert relation_holds(scene, red, "below", "shape"), "of two rings, one is below"


def test_an_article_fits_its_word() -> None:
    item = SceneObject(size="small", texture="plain", colour="orange", shape="ring", place="upper left")
    assert describe_object(item) == "a small plain orange ring in the upper left"
    assert describe_object(item, {"colour", "shape"}) == "an orange ring"
    assert describe_object(item, {"size", "place"}) == "a small object in the upper left"


def test_builder_gives_what_it_drew(prepared: Path) -> None:
    scenes = scenes_builder.read(prepared, "test", "small")
    assert len(scenes) == 16
    for item in scenes:
        assert item.mask.max() == len(item.scene.objects)
        assert len(item.captions) == len(item.caption_object)
        assert item.scene.background in item.long_caption
    source = TfdsSource("scenes/small", prepared, "train")
    assert len(source) == 64
    assert all("a" in source[number].sentences[0] for number in range(4))
    assert not {item.pixels.tobytes() for item in scenes} & {
        item.pixels.tobytes() for item in scenes_builder.read(prepared, "train", "small")
    }
