import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flair_jax.data.sets import scenes_builder
from flair_jax.data.sets.scenes import (
    PLACES,
    SHAPES,
    SIDE,
    VALUES,
    SceneObject,
    describe_object,
    draw_scene,
    fits,
    relations,
    render,
    sub_captions,
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
    for _ in range(50):
        scene = draw_scene(rng)
        assert 2 <= len(scene.objects) <= 4
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


def test_captions_are_true() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = draw_scene(rng)
        captions = sub_captions(scene, rng)
        single = 4 * len(scene.objects) + 3
        assert len(captions) == single + single // 3
        true = [
            f"{describe_object(scene.objects[i], {'colour', 'shape'})} {relation} "
            f"{describe_object(scene.objects[j], {'colour', 'shape'})}"
            for i, relation, j in relations(scene)
        ]
        for caption, number in captions:
            if number >= 0:
                words = caption.removeprefix("an ").removeprefix("a ").replace(" in the ", " ").split()
                assert set(words) <= {*" ".join(dataclasses.astuple(scene.objects[number])).split(), "object"}, caption
            for sentence in [] if number >= 0 else caption.split(". "):
                words = set(sentence.split())
                about_one = words.isdisjoint({"of", "above", "below", "background"}) and fits(scene, sentence)
                assert about_one or sentence in [*true, f"the background is {scene.background}"]


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
