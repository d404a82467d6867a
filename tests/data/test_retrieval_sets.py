"""Every set, from a small copy of its layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from flair_jax.data.sets.retrieval import RETRIEVAL_SETS
from flair_jax.errors import DatasetError


def write(path: Path, document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(document, bytes):
        path.write_bytes(document)
    else:
        path.write_text(document if isinstance(document, str) else json.dumps(document))


def annotated(*rows: tuple[str, str, int]) -> dict:
    return {
        "annotations": [
            {"image": image, "image_id": number, "caption": caption, "caption_id": index}
            for index, (image, caption, number) in enumerate(rows)
        ]
    }


def make_coco(root: Path) -> None:
    images = [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}]
    captions = [
        {"image_id": 3, "caption": "one"},
        {"image_id": 7, "caption": "two"},
        {"image_id": 3, "caption": "more"},
    ]
    write(root / "annotations/captions_val2017.json", {"images": images, "annotations": captions})


def make_flickr(root: Path, split: str) -> None:
    rows = [{"image": f"{root.name}/a.jpg", "caption": ["one", "two"]}, {"image": f"{root.name}/b.jpg", "caption": "x"}]
    write(root / f"flickr30k_{split}.json", rows)
    for name in ("a.jpg", "b.jpg"):
        write(root / name, "")


def make_dci(root: Path) -> None:
    base = root / "densely_captioned_images"
    write(base / "splits.json", {"train": ["1.json"], "test": ["2.json"]})
    for number in (1, 2):
        record = {"image": f"{number}.jpg", "short_caption": f"Short {number}.", "extra_caption": "Long.\nText"}
        write(base / f"annotations/{number}.json", record)


def make_sharegpt4v(root: Path) -> None:
    rows = [
        {"image": f"sam/images/{n}.jpg", "conversations": [{"value": "<image>"}, {"value": f"Text {n}.\nMore."}]}
        for n in range(1200)
    ]
    write(root / "share4v_sam_10k.json", rows)


LAYOUTS = {
    "coco": (make_coco, ["images/val2017/a.jpg", "images/val2017/b.jpg"], ["one", "two", "more"], [0, 1, 0]),
    "flickr30k-val": (lambda root: make_flickr(root, "val"), ["a.jpg", "b.jpg"], ["one", "two", "x"], [0, 0, 1]),
    "flickr30k-test": (lambda root: make_flickr(root, "test"), ["a.jpg", "b.jpg"], ["one", "two", "x"], [0, 0, 1]),
    "docci-fg": (
        lambda root: write(
            root / "annotations/test_annotations.json",
            annotated(("t1.jpg", "p", 1), ("t2.jpg", "q", 2), ("t1.jpg", "r", 1)),
        ),
        ["images/t1.jpg", "images/t2.jpg"],
        ["p", "q", "r"],
        [0, 1, 0],
    ),
    "iiw-fg": (
        lambda root: write(
            root / "test_annotations.json", annotated(("dci/1.jpg", "p", 1), ("docci_aar/2.jpg", "q", 2))
        ),
        ["dci/1.jpg", "docci_aar/2.jpg"],
        ["p", "q"],
        [0, 1],
    ),
    "urban-1k": (
        lambda root: write(root / "annotations/annotations.json", annotated(("1.jpg", "p", 1), ("2.jpg", "q", 2))),
        ["images/1.jpg", "images/2.jpg"],
        ["p", "q"],
        [0, 1],
    ),
    "dci": (
        make_dci,
        [f"densely_captioned_images/photos/{n}.jpg" for n in (1, 2)],
        ["Short 1. Long. Text", "Short 2. Long. Text"],
        [0, 1],
    ),
    "sharegpt4v-1k": (
        make_sharegpt4v,
        [f"sam/{n}.jpg" for n in range(1000)],
        [f"Text {n}. More" for n in range(1000)],
        list(range(1000)),
    ),
    "sharegpt4v-10k": (
        make_sharegpt4v,
        [f"sam/{n}.jpg" for n in range(1200)],
        [f"Text {n}. More" for n in range(1200)],
        list(range(1200)),
    ),
    "folder": (
        lambda root: write(
            root / "any.jsonl", '{"image": "a.jpg", "caption": "p"}\n\n{"image": "b.jpg", "captions": ["q", "r"]}\n'
        ),
        ["a.jpg", "b.jpg"],
        ["p", "q", "r"],
        [0, 1, 1],
    ),
}


@pytest.mark.parametrize("name", RETRIEVAL_SETS)
def test_layout(name: str, tmp_path) -> None:
    make, images, texts, image_of_text = LAYOUTS[name]
    root = tmp_path / "pictures"
    root.mkdir()
    make(root)
    data = RETRIEVAL_SETS[name].load(root)
    assert [path.relative_to(root).as_posix() for path in data.images] == images
    assert data.texts == texts
    assert data.image_of_text.tolist() == image_of_text
    for file in (*root.rglob("*.json"), *root.rglob("*.jsonl")):  # as some editors save them, and macOS copies them
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        (file.parent / f"._{file.name}").touch()
    assert RETRIEVAL_SETS[name].load(root).digest() == data.digest()


def test_flickr_in_a_renamed_folder(tmp_path) -> None:
    root = tmp_path / "flickr30k-images"
    make_flickr(root, "val")
    root.rename(tmp_path / "mine")
    data = RETRIEVAL_SETS["flickr30k-val"].load(tmp_path / "mine")
    assert data.images == [tmp_path / "mine" / "a.jpg", tmp_path / "mine" / "b.jpg"]


def test_leaving_out_a_picture_leaves_out_its_captions(tmp_path) -> None:
    make_coco(tmp_path)
    data = RETRIEVAL_SETS["coco"].load(tmp_path).keep_images(np.array([False, True]))
    assert [path.name for path in data.images] == ["b.jpg"]
    assert data.texts == ["two"]
    assert data.image_of_text.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("coco", "annotations/captions_val2017.json", "{", "cannot be read as JSON"),
        ("coco", "annotations/captions_val2017.json", "{}", "`images` is missing"),
        ("coco", "annotations/captions_val2017.json", '{"images": [], "annotations": []}', "holds no captions"),
        (
            "coco",
            "annotations/captions_val2017.json",
            '{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}',
            "record 1: image_id 1 is not among",
        ),
        (
            "flickr30k-val",
            "flickr30k_val.json",
            '[{"image": "a", "caption": [1]}]',
            "record 1: `caption` must be a text",
        ),
        ("flickr30k-val", "flickr30k_val.json", "{}", "expected a list, found dict"),
        (
            "urban-1k",
            "annotations/annotations.json",
            '{"annotations": [{"image": 3}]}',
            "`image` must be a str, found int",
        ),
        ("dci", "densely_captioned_images/splits.json", '{"train": ["gone.json"]}', "gone.json: cannot be read"),
        ("sharegpt4v-1k", "share4v_sam_10k.json", '[{"image": "a", "conversations": []}]', "`1` is missing"),
        ("folder", "a.jsonl", '{"image": "a.jpg", "caption": "x"}\nnot json\n', "a.jsonl, line 2: not JSON in UTF-8"),
        ("folder", "a.jsonl", b'{"image": "a.jpg", "caption": "caf\xe9"}\n', "a.jsonl, line 1: not JSON in UTF-8"),
        ("folder", "a.jsonl", '["a.jpg"]\n', "line 1: `caption` is missing"),
        ("folder", "a.jsonl", "[" * 100_000, "a.jsonl, line 1: not JSON in UTF-8"),
        ("coco", "annotations/captions_val2017.json", "[" * 100_000, "cannot be read as JSON"),
        (
            "folder",
            "a.jsonl",
            r'{"image": "a.jpg", "caption": "x\ud83d"}',
            "a caption of a.jpg has half a surrogate pair; mend it",
        ),
    ],
)
def test_wrong_annotations_say_where(name: str, file: str, content: str, message: str, tmp_path) -> None:
    write(tmp_path / file, content)
    with pytest.raises(DatasetError, match=message):
        RETRIEVAL_SETS[name].load(tmp_path)


def test_wrong_folders(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        RETRIEVAL_SETS["coco"].load(tmp_path / "gone")
    with pytest.raises(DatasetError, match="coco needs exactly one annotations/captions_val2017.json there, found 0"):
        RETRIEVAL_SETS["coco"].load(tmp_path)
    write(tmp_path / "a.jsonl", "")
    write(tmp_path / "b.jsonl", "")
    with pytest.raises(DatasetError, match="found 2"):
        RETRIEVAL_SETS["folder"].load(tmp_path)
