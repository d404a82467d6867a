"""Sets of captions to choose from, from small copies of their layouts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_choices import (
    NAMES,
    SPLITS,
    fgovd,
    genome,
    make_fgovd,
    make_genome,
    make_order,
    make_sugarcrepe,
    make_sugarcrepe_pp,
    make_winoground,
    write_json,
)
from made_segmentation import write_picture

from flair_jax.data.sets.choice import CHOICE_SETS
from flair_jax.data.sets.choice_data import ChoiceData
from flair_jax.errors import DatasetError, ImageError


def load(name: str, folder: Path) -> ChoiceData:
    return CHOICE_SETS[name].load(folder)


def questions(data: ChoiceData) -> list[tuple]:
    """(names of the views, captions, owners, kind) of each question."""
    views: dict[int, dict[int, str]] = {}
    texts: dict[int, list[str]] = {}
    for view, rows in zip(data.views, data.rows, strict=True):
        for row in rows:
            views.setdefault(row.question, {})[row.view] = view.path.name
            texts[row.question] = [data.texts[text] for text in row.texts]
    return [
        ([views[number][view] for view in sorted(views[number])], texts[number], owners, kind)
        for number, (owners, kind) in enumerate(zip(data.owners, data.kinds, strict=True))
    ]


@pytest.mark.parametrize("pictures", ["val2017", "images/val2017", "coco/val2017", "images", "."])
def test_sugarcrepe_has_seven_splits_of_one_true_and_one_false_caption(tmp_path, pictures: str) -> None:
    make_sugarcrepe(tmp_path, pictures)
    data = load("sugarcrepe", tmp_path)
    assert questions(data)[:2] == [
        ([NAMES[0]], ["a add_att", "no add_att 0"], (0, -1), "add_att"),
        ([NAMES[1]], ["a add_att", "no add_att 1"], (0, -1), "add_att"),
    ]
    assert data.kinds == [SPLITS[0], *SPLITS]
    assert [view.path for view in data.views] == [tmp_path / pictures / name for name in NAMES]
    assert len(data.rows[0]) == 7, "a picture is there once"
    assert data.read(0)[0].size == (8, 4)
    assert not data.boxed
    assert CHOICE_SETS["sugarcrepe++"].find(tmp_path) is None, "it is SugarCrepe, which has add_att.json"


def test_sugarcrepe_pp_has_two_true_captions(tmp_path) -> None:
    make_sugarcrepe_pp(tmp_path)
    data = load("sugarcrepe++", tmp_path)
    assert questions(data)[0] == ([NAMES[0]], ["a cat", "one cat", "replace_att"], (0, 0, -1), "replace_att")
    assert len(data.owners) == 5
    assert CHOICE_SETS["sugarcrepe"].find(tmp_path) is None


def test_winoground_has_two_pictures_and_two_captions(tmp_path) -> None:
    make_winoground(tmp_path)
    data = load("winoground", tmp_path)
    assert questions(data)[1] == (
        ["ex_1_img_0.png", "ex_1_img_1.png"],
        ["caption 0 of Relation", "caption 1 of Relation"],
        (0, 1),
        "Relation",
    )
    assert len(data.views) == 4


def test_visual_genome_is_cut_to_its_box(tmp_path) -> None:
    make_genome(tmp_path)
    data = load("vg-relation", tmp_path)
    assert questions(data) == [
        (["1.jpg"], ["the cat is on the mat", "the mat is on the cat"], (0, -1), "on"),
    ]
    view, picture, box = data.read(0)
    assert (view.size, picture.size, box) == ((4, 2), (8, 4), (2, 1, 4, 2))
    np.testing.assert_array_equal(view, np.asarray(picture)[1:3, 2:6])
    make_genome(tmp_path, "visual_genome_attribution.json", attributes=["red", "big"], obj1_name="cat")
    assert load("vg-attribution", tmp_path).kinds == ["red_big"]


@pytest.mark.parametrize(
    ("name", "file", "image"),
    [
        ("coco-order", "coco_order", "val2014/COCO_val2014_000000391895.jpg"),
        ("flickr30k-order", "flickr30k_order", "flickr30k-images/1007129816.jpg"),
    ],
)
def test_orders_that_are_as_they_were_are_no_false_captions(tmp_path, name: str, file: str, image: str) -> None:
    make_order(tmp_path, file, image)
    data = load(name, tmp_path)
    assert questions(data)[0][1:3] == (["a cat sat", "sat cat a", "a sat cat", "cat a sat"], (0, -1, -1, -1))
    assert data.left_out == {"false captions that are word for word a true one": 1}


def test_fgovd_has_a_box_with_ten_altered_captions(tmp_path) -> None:
    make_fgovd(tmp_path)
    data = load("fg-ovd-hard", tmp_path)
    ((names, captions, owners, _),) = questions(data)
    assert names == [NAMES[0]]
    assert captions == [f"a cup, altered {number}" for number in (7, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10)]
    assert owners == (0, *[-1] * 10)
    assert data.left_out == {"boxes with fewer than 10 altered captions": 1}
    assert data.boxed
    # From 2.5 to 5.5 and from 0.2 to 2.2, to whole pixels outwards.
    view, _, box = data.read(0)
    assert (view.size, box) == ((4, 3), (2, 0, 4, 3))
    levels = {"hard": "1_attributes", "medium": "2_attributes", "easy": "3_attributes", "trivial": "shuffle_negatives"}
    for level, file in levels.items():
        assert CHOICE_SETS[f"fg-ovd-{level}"].markers[1] == f"benchmarks/{file}.json"


def test_a_set_of_ones_own(tmp_path) -> None:
    records = [{"filename": "a.png", "caption": "a", "negative_caption": ["b", "c"], "bbox": [-3, 1, 5, 90]}]
    write_json(tmp_path / "choices/colour.json", records)
    write_json(tmp_path / "choices/._colour.json", "of another system")
    write_picture(tmp_path / "a.png", (8, 4))
    data = load("folder", tmp_path)
    assert questions(data) == [(["a.png"], ["a", "b", "c"], (0, -1, -1), "colour")]
    assert data.read(0)[2] == (0, 1, 2, 3), "what is outside of the picture is not cut out"
    other = tmp_path / "other"
    write_json(other / "choices/colour.json", [{**records[0], "bbox": [0, 1, 5, 90]}])
    write_picture(other / "a.png", (8, 4))
    assert load("folder", other).digest() != data.digest()


RECORD = {"filename": NAMES[0], "caption": "a", "negative_caption": "b"}
ADD, GENOME, ORDER = "data/add_att.json", "visual_genome_relation.json", "coco_order.json"
BOX = "`bbox` must be [left, top, width, height] in pixels, with an area, found "


@pytest.mark.parametrize(
    ("name", "file", "contents", "message"),
    [
        ("sugarcrepe", "data/swap_obj.json", None, "swap_obj.json: cannot be read as JSON ([Errno 2] No such file"),
        ("sugarcrepe", "data/swap_obj.json", b'{"0": {"filename"', "swap_obj.json: cannot be read as JSON ("),
        ("sugarcrepe", "data/swap_obj.json", b'{"0": "caf\xe9"}', "swap_obj.json: cannot be read as JSON ('utf-8'"),
        ("sugarcrepe", ADD, "text", "add_att.json: expected a list, found str"),
        ("sugarcrepe", ADD, {"0": 1}, "add_att.json, record 1: `filename` is missing"),
        ("sugarcrepe", ADD, {"0": RECORD | {"caption": ["a"]}}, "`caption` must be a str, found list"),
        (
            "sugarcrepe",
            ADD,
            {"0": RECORD | {"negative_caption": 3}},
            "record 1: `negative_caption` must be a text or a list of texts",
        ),
        (
            "sugarcrepe",
            ADD,
            {"0": RECORD | {"caption": " "}},
            "a caption of 000000000001.jpg has no text",
        ),
        (
            "sugarcrepe",
            ADD,
            {"0": RECORD | {"caption": "\ud800"}},
            "has half a surrogate pair; mend it",
        ),
        ("sugarcrepe", ADD, {"0": RECORD | {"bbox": [1, 2, 3]}}, BOX + "[1, 2, 3]"),
        ("sugarcrepe", ADD, None, "sugarcrepe needs add_att.json or data/add_att.json or "),
        ("sugarcrepe++", ADD, [], "there, without add_att.json beside it"),
        ("winoground", "examples.jsonl", b'{"image_0": "a"}', "examples.jsonl, line 1: `image_1` is missing"),
        ("winoground", "examples.jsonl", b"\n\n{", "examples.jsonl, line 3: cannot be read as JSON ("),
        ("winoground", "examples.jsonl", b"\xff", "examples.jsonl: cannot be read as text in UTF-8 ("),
        ("winoground", "examples.jsonl", b"\n", "examples.jsonl: holds no questions"),
        ("vg-relation", GENOME, {}, "expected a list, found dict"),
        ("vg-relation", GENOME, [genome(bbox_w=0)], "with an area, found [2, 1, 0, 2]"),
        (
            "vg-relation",
            GENOME,
            [genome(bbox_x="2")],
            "in pixels, with an area, found ['2', 1, 4",
        ),
        ("vg-relation", GENOME, [genome(relation_name=None)], "`relation_name` must be a str"),
        (
            "coco-order",
            ORDER,
            [{"image": "a.jpg", "caption_options": ["a"]}],
            "a list of two or more texts",
        ),
        (
            "coco-order",
            ORDER,
            [{"image": "a.jpg", "caption_options": ["a", 1]}],
            "list of two or more texts",
        ),
        (
            "coco-order",
            ORDER,
            [{"image": "a.jpg", "caption_options": ["a", "a"]}],
            "holds no questions; left out: false captions that are word for word a true one (1); left out: questions ",
        ),
        ("fg-ovd-hard", "benchmarks/1_attributes.json", [], "1_attributes.json: `categories` is missing"),
        ("fg-ovd-hard", "benchmarks/1_attributes.json", fgovd(image_id=4), "record 1: no image has the id 4"),
        ("fg-ovd-hard", "benchmarks/1_attributes.json", fgovd(category_id=99), "record 1: no category has the id 99"),
        ("fg-ovd-hard", "benchmarks/1_attributes.json", fgovd(bbox=[0, 0, -1, 2]), BOX + "[0, 0, -1, 2]"),
        (
            "fg-ovd-hard",
            "benchmarks/1_attributes.json",
            fgovd(bbox=[0, 0, float("inf"), 2]),
            BOX + "[0, 0, inf, 2]",
        ),
        (
            "fg-ovd-hard",
            "benchmarks/1_attributes.json",
            {**fgovd(), "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            "record 2: its id 1 is another's too",
        ),
        ("fg-ovd-easy", "benchmarks/3_attributes.json", None, "fg-ovd-easy needs 3_attributes.json or benchmarks/3_"),
        ("folder", "choices/a.json", [], "a.json: holds no questions"),
    ],
)
def test_what_is_damaged_or_missing_is_one_sentence(tmp_path, name: str, file: str, contents, message: str) -> None:
    makers = {"sugarcrepe": make_sugarcrepe, "sugarcrepe++": make_sugarcrepe_pp, "winoground": make_winoground}
    makers.get(name, lambda _: None)(tmp_path)
    path = tmp_path / file
    path.unlink(missing_ok=True)
    if contents is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents if isinstance(contents, bytes) else json.dumps(contents).encode())
    with pytest.raises(DatasetError, match=re.escape(message)):
        load(name, tmp_path)


def test_a_box_outside_of_its_picture_is_a_broken_picture(tmp_path) -> None:
    make_genome(tmp_path, bbox_x=8)
    with pytest.raises(ImageError, match=re.escape("1.jpg: no part of its 8x4 pixels is in the box [8.0, 1.0, 4.0,")):
        load("vg-relation", tmp_path).read(0)


def test_a_picture_of_another_size_than_was_annotated_is_broken(tmp_path) -> None:
    make_fgovd(tmp_path)
    write_picture(tmp_path / "coco/val2017" / NAMES[0], (16, 8))
    with pytest.raises(ImageError, match=f"{NAMES[0]}: is 16x8 pixels, and 8x4 were annotated"):
        load("fg-ovd-hard", tmp_path).read(0)


def test_a_folder_that_is_not_there(tmp_path) -> None:
    with pytest.raises(DatasetError, match="gone: no such folder; it must hold winoground's examples"):
        load("winoground", tmp_path / "gone")
