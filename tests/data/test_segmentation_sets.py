"""Every set, from a small copy of its layout."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from made_segmentation import (
    make_ade,
    make_cityscapes,
    make_coco,
    make_voc,
    write_labels,
    write_picture,
)
from PIL import Image

from flair_jax.data.sets import scenes_builder
from flair_jax.data.sets.retrieval import find_row
from flair_jax.data.sets.segmentation import SEGMENTATION_SETS
from flair_jax.data.sets.segmentation_data import IGNORED
from flair_jax.data.sets.segmentation_texts import read_words
from flair_jax.errors import DatasetError, ImageError

CONTEXT = {"folder": "SegmentationClassContext", "listed": "SegmentationContext"}
VOC_NAMES = ["2007_000033", "2007_000042"]
COCO_NAMES = ["000000000139", "000000000285"]
CITIES = ["lindau/lindau_000000_000019", "munster/munster_000001_000019"]
# Set, what makes it, the values in its annotations, the names of the classes that they stand for (None: not judged).
LAYOUTS = [
    ("voc20", make_voc, [1, 20, 0, 255], ["aeroplane", "tvmonitor", None, None], VOC_NAMES),
    ("voc21", make_voc, [1, 20, 0, 255], ["aeroplane", "tvmonitor", "background", None], VOC_NAMES),
    ("context59", partial(make_voc, **CONTEXT), [1, 59, 0, 58], ["aeroplane", "wood", None, "window"], VOC_NAMES),
    ("context60", partial(make_voc, **CONTEXT), [1, 59, 0, 2], ["aeroplane", "wood", "background", "bag"], VOC_NAMES),
    ("ade20k", make_ade, [1, 150, 0, 13], ["wall", "flag", None, "person"], ["ADE_val_00000001", "ADE_val_00000002"]),
    ("cityscapes", make_cityscapes, [7, 33, 6, 255], ["road", "bicycle", None, None], CITIES),
    (
        "cityscapes",
        partial(make_cityscapes, ending="labelTrainIds"),
        [0, 18, 11, 255],
        ["road", "bicycle", "person", None],
        CITIES,
    ),
    ("coco-stuff", make_coco, [0, 181, 91, 255], ["person", "wood", "banner", None], COCO_NAMES),
    (
        "coco-stuff",
        partial(make_coco, ending="_labelTrainIds.png"),
        [0, 170, 80, 79],
        ["person", "wood", "banner", "toothbrush"],
        COCO_NAMES,
    ),
    ("coco-object", make_coco, [0, 89, 91, 255], ["person", "toothbrush", "background", "background"], COCO_NAMES),
    (
        "coco-object",
        partial(make_coco, ending="_labelTrainIds.png"),
        [0, 79, 80, 255],
        ["person", "toothbrush", "background", "background"],
        COCO_NAMES,
    ),
    (
        "coco-object",
        partial(make_coco, ending="_instanceTrainIds.png"),
        [1, 80, 0, 255],
        ["person", "toothbrush", "background", None],
        COCO_NAMES,
    ),
]
COUNTS = {
    "voc20": 20,
    "voc21": 21,
    "context59": 59,
    "context60": 60,
    "ade20k": 150,
    "cityscapes": 19,
    "coco-stuff": 171,
    "coco-object": 81,
    "scenes": 16,
}


@pytest.mark.parametrize(("name", "make", "values", "expected", "pictures"), LAYOUTS)
@pytest.mark.parametrize("above", [0, 1])
def test_a_set_is_read_as_it_lies_on_disk(name, make, values, expected, pictures, above, tmp_path) -> None:
    entry = SEGMENTATION_SETS[name]
    folder = tmp_path.joinpath(*Path(entry.folder).parts[-above:]) if above else tmp_path
    make(folder, values)
    data = entry.load(tmp_path)
    assert data.names == pictures
    assert len(data.classes) == len(set(data.classes)) == len(data.texts) == COUNTS[name]
    picture, truth = data.read(1)
    assert picture.mode == "RGB"
    assert truth.dtype == np.uint8
    assert truth.shape == picture.size[::-1]
    found = [None if value == IGNORED else data.classes[value] for value in truth.flat[: len(values)]]
    assert found == expected
    assert data.has_background == ("background" in data.classes)


def test_what_is_no_picture_of_the_set_is_passed_over(tmp_path, caplog) -> None:
    make_ade(tmp_path, [1])
    folder = tmp_path / "images" / "validation"
    names = SEGMENTATION_SETS["ade20k"].load(tmp_path).names
    assert not caplog.records
    (folder / ".cache").mkdir()
    for name in ("._ADE_val_00000001.jpg", ".cache/a.jpg", "other.png"):
        (folder / name).touch()
    assert SEGMENTATION_SETS["ade20k"].load(tmp_path).names == names
    assert "passes over 1 picture not named *.jpg" in caplog.text
    listed = tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt"
    make_voc(tmp_path / "voc", [1])
    listed.write_bytes(b"\xef\xbb\xbf" + listed.read_bytes())
    assert SEGMENTATION_SETS["voc20"].load(tmp_path / "voc").names == VOC_NAMES


def test_a_name_in_a_list_may_have_spaces(tmp_path) -> None:
    """One name a line, with whatever end, and each once."""
    make_voc(tmp_path, [1])
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tmp_path / folder / f"2007_000033.{ending}").rename(tmp_path / folder / f"my own.{ending}")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_bytes(b"my own\r\n\r\n2007_000042 \r\nmy own\r\n")
    data = SEGMENTATION_SETS["voc20"].load(tmp_path)
    assert data.names == ["my own", "2007_000042"]
    data.read(0)


def test_every_set_is_tested() -> None:
    assert {row[0] for row in LAYOUTS} | {"scenes"} == set(SEGMENTATION_SETS) == set(COUNTS)


def test_words_are_spelled_out(tmp_path) -> None:
    make_coco(tmp_path, [0])
    data = SEGMENTATION_SETS["coco-stuff"].load(tmp_path)
    words = dict(zip(data.classes, data.texts, strict=True))
    assert words["wall-brick"] == ("brick wall",)
    assert words["sky-other"] == ("sky",)
    assert not any("-" in text or text != text.strip() for texts in data.texts for text in texts)


def test_scenes_have_a_class_for_each_colour_and_background(tmp_path) -> None:
    scenes_builder.prepare(tmp_path, "small")
    labelled = scenes_builder.read(tmp_path, "test", "small")
    for data_dir in (tmp_path, tmp_path / "scenes"):
        data = SEGMENTATION_SETS["scenes"].load(data_dir)
        assert len(data.names) == len(labelled)
        picture, truth = data.read(3)
        assert np.array_equal(picture, labelled[3].pixels)
        mask = labelled[3].mask.reshape(truth.shape)
        assert {data.classes[value] for value in truth[mask == 0]} == {f"{labelled[3].scene.background} background"}
        for number, item in enumerate(labelled[3].scene.objects, start=1):
            assert {data.classes[value] for value in truth[mask == number]} == {item.colour}
    assert data.texts[1] == ("an orange object",)
    assert data.texts[-1] == ("the background is pink",)
    (tmp_path / "scenes").rename(tmp_path / "other")
    with pytest.raises(DatasetError, match="name the folder that holds `scenes`, and not this one"):
        SEGMENTATION_SETS["scenes"].load(tmp_path / "other")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "JPEGImages/2007_000033.jpg").unlink(), "2007_000033.jpg: no such picture"),
        (lambda root: (root / "SegmentationClass/2007_000033.png").unlink(), "2007_000033.png: no such annotation"),
        (
            lambda root: (root / "SegmentationClass/2007_000033.png").write_bytes(b"no"),
            "2007_000033.png: cannot be read as a picture",
        ),
        (
            lambda root: write_picture(root / "SegmentationClass/2007_000033.png"),
            "one number of 8 bits at each pixel, but this has mode RGB",
        ),
        (
            lambda root: write_labels(root / "SegmentationClass/2007_000033.png", [1, 21, 99]),
            "2007_000033.png: holds 21, 99, which the set does not have",
        ),
        (
            lambda root: write_labels(root / "SegmentationClass/2007_000033.png", [1], (4, 6)),
            "2007_000033.png: is 4x6 pixels, its picture 6x4",
        ),
    ],
)
def test_a_broken_picture_or_annotation_is_named(damage, message: str, tmp_path) -> None:
    make_voc(tmp_path, [1])
    damage(tmp_path)
    data = SEGMENTATION_SETS["voc20"].load(tmp_path)
    with pytest.raises(ImageError, match=message):
        data.read(0)
    data.read(1)


def test_a_wrong_folder_is_explained(tmp_path) -> None:
    with pytest.raises(DatasetError, match="gone: no such folder; it must hold voc20's ImageSets/Segm"):
        SEGMENTATION_SETS["voc20"].load(tmp_path / "gone")
    with pytest.raises(DatasetError, match="ade20k needs images/validation there or in ade/ADEChallengeData2016 below"):
        SEGMENTATION_SETS["ade20k"].load(tmp_path)
    (tmp_path / "images/validation").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no pictures of ade20k"):
        SEGMENTATION_SETS["ade20k"].load(tmp_path)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="val.txt: cannot be read as text in UTF-8"):
        SEGMENTATION_SETS["voc20"].load(tmp_path)
    with pytest.raises(DatasetError, match="dataset voc_21: no such set; did you mean voc21"):
        find_row("voc_21", SEGMENTATION_SETS)
    with pytest.raises(DatasetError, match="dataset q: no such set; choose from voc20, voc21"):
        find_row("q", SEGMENTATION_SETS)


def test_words_of_ones_own(tmp_path) -> None:
    (tmp_path / "w.txt").write_text("sky, wall , tree\ncat\n")
    assert read_words(tmp_path / "w.txt", ["background", "cat"]) == (("sky", "wall", "tree"), ("cat",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "f.txt: cannot be read as text in UTF-8"),
        ("cat\n", "f.txt: holds 1 line for 2 classes, which go from a to b"),
        ("cat\n,\n", "f.txt, line 2: names nothing"),
    ],
)
def test_wrong_files_of_words_are_explained(text, message: str, tmp_path) -> None:
    if text is not None:
        (tmp_path / "f.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_words(tmp_path / "f.txt", ["a", "b"])


def test_palette_annotations_are_numbers(tmp_path) -> None:
    """VOC's annotations are palette pictures: their numbers count, not their colours."""
    make_voc(tmp_path, [5, 0])
    assert Image.open(tmp_path / "SegmentationClass/2007_000033.png").mode == "P"
    _, truth = SEGMENTATION_SETS["voc21"].load(tmp_path).read(0)
    assert truth[0, 0] == 5
