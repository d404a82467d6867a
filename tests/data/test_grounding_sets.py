"""Sets of phrases to find in pictures, from small copies of their layouts."""

import re
from pathlib import Path

import numpy as np
import pytest
from made_grounding import (
    CODE,
    SIZE,
    SQUARE,
    coco_form,
    entities_xml,
    make_entities,
    make_folder,
    make_instances,
    make_mdetr,
    make_seqtr,
    write_json,
)
from made_segmentation import write_picture
from PIL import Image

from flair_jax.data.sets.grounding import GROUNDING_SETS
from flair_jax.data.sets.grounding_regions import Region, coco_masks
from flair_jax.errors import DatasetError, FlairError, ImageError

HAT = np.zeros((4, 8), bool)
HAT[0:2, 1:3] = True


def load(name: str, folder: Path):
    return GROUNDING_SETS[name].load(folder)


def test_entities_are_phrases_with_the_boxes_of_their_chain(tmp_path) -> None:
    make_entities(tmp_path)
    data = load("flickr30k-entities-test", tmp_path)
    assert [path.name for path in data.images] == ["10.jpg", "20.jpg"]
    assert data.texts[:3] == ["Two men 's hats", "it", "the men"]
    assert data.kinds[:3] == [("people", "clothing"), ("other",), ("people",)]
    assert data.phrases == [[0, 1, 2], [3, 4, 5]]
    assert data.left_out == {"nothing that is seen": 2, "no box: the whole scene, or not in the picture": 4}
    picture, masks = data.read(0)
    assert (picture.size, picture.mode) == (SIZE, "RGB")
    corner = np.zeros((4, 8), bool)
    corner[3, 6:8] = True  # pixels 7 and 8 of row 4, from 1
    assert [mask.tolist() for mask in masks] == [(HAT | corner).tolist(), corner.tolist(), (HAT | corner).tolist()]
    assert load("flickr30k-entities-val", tmp_path).images == [tmp_path / "flickr30k-images/20.jpg"]


def test_brackets_in_a_caption_and_phrases_without_words(tmp_path) -> None:
    make_entities(tmp_path)
    text = "A sign [ that says ] \u2028 [/EN#1/people a [sic man] and [/EN#2/other ] or [/EN#2 it]"
    (tmp_path / "Sentences/20.txt").write_text(text, encoding="utf-8")
    data = load("flickr30k-entities-val", tmp_path)
    assert (data.texts, data.kinds, data.left_out) == (["a [sic man", "it"], [("people",), ()], {"no words": 1})


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        ("Sentences/10.txt", None, "10.txt: cannot be read (No such file or directory)"),
        ("Annotations/10.xml", None, "10.xml: cannot be read (No such file or directory)"),
        ("Sentences/10.txt", b"[/EN#1/people caf\xe9]", "10.txt: cannot be read as text in UTF-8"),
        ("Sentences/10.txt", b"x\n[/EN#1/people a man\n", "10.txt, line 2: ends within a phrase"),
        ("Annotations/10.xml", entities_xml()[:-20].encode(), "10.xml: is not an annotation of Flickr30k Entities ("),
        ("Annotations/10.xml", b"<annotation/>", "(`width` is missing)"),
        ("Annotations/10.xml", entities_xml().replace("<xmin>2", "<xmin>9").encode(), "(a box from 9, 1 to 3, 2)"),
        ("Annotations/10.xml", entities_xml().replace("<xmin>2", "<xmin>2.5").encode(), "invalid literal"),
        ("Annotations/10.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "10.xml: declares entities"),
        ("test.txt", b"\n", "test.txt: holds no phrases with a region"),
    ],
)
def test_damaged_entities_are_one_sentence(tmp_path, file: str, contents: bytes | None, message: str) -> None:
    make_entities(tmp_path)
    (tmp_path / file).unlink()
    if contents is not None:
        (tmp_path / file).write_bytes(contents)
    with pytest.raises(DatasetError, match=re.escape(message)):
        load("flickr30k-entities-test", tmp_path)


def test_mdetrs_expressions_have_boxes_or_cocos_outlines(tmp_path) -> None:
    make_mdetr(tmp_path)
    boxes = load("refcoco-val", tmp_path)
    assert (boxes.texts, boxes.outlined) == (["left hat", "hat"], 0)
    assert boxes.phrases == [[0, 1]], "two images of the file are one picture"
    box = np.zeros((4, 8), bool)
    box[0:3, 1:3] = True
    assert np.array_equal(boxes.read(0)[1][1], box)
    for place in ("annotations/instances_train2014.json", "refcoco/instances.json"):
        make_instances(tmp_path / place)
        outlined = load("refcoco-val", tmp_path)
        assert outlined.outlined == 2
        assert np.array_equal(outlined.read(0)[1][1], HAT)
        (tmp_path / place).unlink()
    assert outlined.digest() != boxes.digest()


def test_seqtrs_and_uninexts_files_are_read_and_come_first(tmp_path) -> None:
    make_mdetr(tmp_path)
    make_seqtr(tmp_path)
    (tmp_path / "train2014").rename(tmp_path / "gone")
    data = load("refcoco-val", tmp_path)
    assert (data.texts, data.outlined) == (["left hat", "hat"], 2)
    assert all(np.array_equal(mask, HAT) for mask in data.read(0)[1])
    with pytest.raises(DatasetError, match="holds no phrases"):
        load("refcoco-testA", tmp_path)
    with pytest.raises(DatasetError, match="`testB` is missing"):
        load("refcoco-testB", tmp_path)
    write_json(tmp_path / "annotations/refcoco-unc/instances_testB.json", coco_form(segmentation=SQUARE))
    write_picture(tmp_path / "coco/train2014/a.png", SIZE)
    assert np.array_equal(load("refcoco-testB", tmp_path).read(0)[1][0], HAT)


def test_every_split_has_a_row_and_finds_its_file(tmp_path) -> None:
    rows = [(name, "val", f"{name}-val") for name in ("refcoco", "refcoco+", "refcocog")]
    rows += [(name, split, f"{name}-{split}") for name in ("refcoco", "refcoco+") for split in ("testA", "testB")]
    rows.append(("refcocog", "test", "refcocog-test"))
    for name, split, row in rows:
        make_mdetr(tmp_path / row, name, split)
        assert len(load(row, tmp_path / row).texts) == 2
        assert [each for each, entry in GROUNDING_SETS.items() if entry.find(tmp_path / row)] == [row]


@pytest.mark.parametrize(
    "outline",
    [SQUARE, CODE, {"size": [4, 8], "counts": "4220d0"}, [[*SQUARE[0][:6], 1, 2], [1, 0, 2, 0, 1, 1]]],
)
def test_outlines_are_cocos(tmp_path, outline) -> None:
    """Compressed, the run lengths are 4, 2, 2, 2 - 2, and 22 - 2, which is over 15 and so has two characters."""
    make_folder(tmp_path, segmentation=outline)
    (first, second) = load("folder", tmp_path).read(0)[1]
    assert first is second
    assert np.array_equal(first, HAT)
    whole = coco_masks()
    code = outline if isinstance(outline, dict) else None
    if code and isinstance(code["counts"], str):
        assert np.array_equal(whole.decode({**code, "counts": code["counts"].encode()}), HAT)


def test_long_run_lengths_are_decompressed_as_by_coco() -> None:
    rng = np.random.default_rng(0)
    whole = coco_masks()
    for share in (0.02, 0.5, 0.98):
        mask = np.repeat(rng.random((70, 30)) < share, 11, axis=1)
        code = whole.encode(np.asfortranarray(mask.astype(np.uint8)))
        region = Region(outlines=({"size": list(mask.shape), "counts": code["counts"].decode()},))
        assert np.array_equal(region.mask((330, 70)), mask)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segmentation": {"size": [8, 4], "counts": [32]}}, "is of a picture of 4x8 pixels"),
        ({"segmentation": {"size": [4, 8], "counts": ""}}, "has a run-length code of other than 32 pixels"),
        ({"segmentation": {"size": [4, 8], "counts": "4"}}, "has a run-length code of other than 32 pixels"),
        ({"segmentation": {"size": [4, 8], "counts": "4220"}}, "has a run-length code of other than 32 pixels"),
        ({"segmentation": {"size": [4, 8], "counts": "422P"}}, "has a run-length code that is cut off"),
        ({"segmentation": {"size": [4, 8], "counts": "o" * 99}}, "has a run-length code that cannot be read"),
        ({"segmentation": {"size": [4, 8], "counts": "~"}}, "has a run-length code that cannot be read"),
        ({"segmentation": [[0, 0, 1e9, 0, 1, 1]]}, "has corners far from the picture"),
    ],
)
def test_a_damaged_outline_is_an_error_about_its_picture(tmp_path, annotation, message: str) -> None:
    make_folder(tmp_path, **annotation)
    with pytest.raises(ImageError, match=re.escape(f"a.png: the outline of a phrase {message}")):
        load("folder", tmp_path).read(0)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"bbox": None}, "record 1: `bbox` must be a list, found NoneType"),
        ({"bbox": [0, 0, 1]}, "record 1: `bbox` must be 4 numbers"),
        ({"bbox": [0, 0, 1, "2"]}, "record 1: `bbox` must be 4 numbers"),
        ({"bbox": [0, 0, 1, float("nan")]}, "record 1: `bbox` must be 4 numbers"),
        ({"bbox": [0, 0, 0, 1]}, "record 1: `bbox` has no area"),
        ({"segmentation": "mask"}, "record 1: `segmentation`: must be a list of polygons or a run-length code"),
        ({"segmentation": [[0, 0, 1, 1]]}, "a polygon must be a list of x and y of at least three corners"),
        ({"segmentation": [[0, 0, 1, 1, 0, None]]}, "`segmentation` must be 6 numbers"),
        ({"segmentation": {"counts": []}}, "`size` is missing"),
        ({"segmentation": {"size": [4, 8], "counts": [30, 1]}}, "`counts` add up to 31 pixels, not 32"),
        ({"segmentation": {"size": [4, 8], "counts": [-1, 33]}}, "`counts` must be a run-length code"),
        ({"image_id": 8}, "record 1: no annotation has image_id 7"),
        ({"image_id": "7"}, "record 1: `image_id` must be a int, found str"),
    ],
)
def test_a_damaged_annotation_is_one_sentence(tmp_path, annotation, message: str) -> None:
    make_folder(tmp_path, **annotation)
    with pytest.raises(DatasetError, match=re.escape(message)):
        load("folder", tmp_path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], "phrases.json: `annotations` is missing"),
        ({"images": 3, "annotations": []}, "`images` must be a list, found int"),
        ({"images": ["x"], "annotations": []}, "record 1: `id` is missing"),
        ({"images": [], "annotations": []}, "phrases.json: holds no phrases with a region"),
        (coco_form() | {"images": [coco_form()["images"][0] | {"expressions": []}]}, "must be a text or a list of"),
        (coco_form() | {"images": [coco_form()["images"][0] | {"caption": ["\ud800"]}]}, "has half a surrogate pair"),
        (
            {
                "images": [coco_form()["images"][0] | {"id": 1}, coco_form()["images"][0] | {"id": 2, "width": 9}],
                "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}, {"image_id": 2, "bbox": [0, 0, 1, 1]}],
            },
            "gives a.png two sizes",
        ),
        (coco_form() | {"images": coco_form()["images"] * 2}, "record 2: no annotation has image_id 7, or an image"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, contents, message: str) -> None:
    write_json(tmp_path / "phrases.json", contents)
    with pytest.raises(DatasetError, match=re.escape(message)):
        load("folder", tmp_path)


def test_pictures_are_those_that_were_annotated(tmp_path) -> None:
    make_folder(tmp_path)
    data = load("folder", tmp_path)
    assert np.array_equal(data.read(0)[1][0], HAT)
    Image.new("RGB", (9, 4)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=re.escape("a.png: is 9x4 pixels, and 8x4 were annotated")):
        data.read(0)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="no such picture"):
        data.read(0)


def test_what_is_missing_is_named(tmp_path, monkeypatch) -> None:
    with pytest.raises(DatasetError, match="no such folder; it must hold folder's phrases.json"):
        load("folder", tmp_path / "gone")
    with pytest.raises(DatasetError, match="needs test.txt and Sentences and Annotations there"):
        load("flickr30k-entities-test", tmp_path)
    with pytest.raises(DatasetError, match="needs annotations/refcoco-unc/instances_val.json or"):
        load("refcoco-val", tmp_path)
    (tmp_path / "phrases.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        load("folder", tmp_path)
    make_mdetr(tmp_path)
    write_json(tmp_path / "refcoco/instances.json", {"annotations": []})
    with pytest.raises(DatasetError, match="its original_id 30 is not in"):
        load("refcoco-val", tmp_path)
    make_folder(tmp_path, segmentation=SQUARE)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    with pytest.raises(FlairError, match='need pycocotools; .*pip install.* "pycocotools'):
        load("folder", tmp_path)


def test_a_box_has_the_pixels_whose_centres_are_in_it() -> None:
    mask = Region(boxes=((0.5, -3, 2.4, 1.6), (3.4, 1, 99, 99))).mask((5, 3))
    assert mask.tolist() == [
        [True, True, False, False, False],
        [True, True, False, True, True],
        [False, False, False, True, True],
    ]
    assert not Region(boxes=((-5, -5, -1, -1), (9, 9, 10, 10))).mask((5, 3)).any()
