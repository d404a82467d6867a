"""Every set, from a small copy of its layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_parquet import write_parquet

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


def make_karpathy(root: Path, name: str) -> None:
    """As COCO's file and Flickr30k's are, the second without `filepath`; pictures of other splits are not named."""
    coco = name.startswith("coco")
    rows = []
    for number, split in enumerate(("train", "test", "restval", "val", "test", "val")):
        folder = {"filepath": "train2014" if split == "restval" else "val2014", "cocoid": number} if coco else {}
        sentences = [{"raw": f"{split} {number}", "tokens": [split], "imgid": number, "sentid": number}] * 2
        rows.append({**folder, "filename": f"{number}.jpg", "split": split, "imgid": number, "sentences": sentences})
        write(root / "images" / folder.get("filepath", "") / f"{number}.jpg", "")
    file = "karpathy/dataset_coco.json" if coco else "dataset_flickr30k.json"
    write(root / file, {"images": rows, "dataset": "coco" if coco else "flickr30k"})


def make_docci(root: Path) -> None:
    rows = [
        {
            "example_id": f"{split}_{n}",
            "split": split,
            "image_file": f"{split}_{n}.jpg",
            "description": f"Long {n}.\nMore",
        }
        for split in ("train", "test", "qual_dev")
        for n in (1, 2)
    ]
    write(root / "docci_descriptions.jsonlines", "\n".join(map(json.dumps, rows)))


def make_iiw(root: Path) -> None:
    write(root / "IIW-400/data.jsonl", json.dumps({"image/key": "aar_1", "IIW": "p", "IIW-P5B": "no", "objects": []}))
    write(root / "DOCCI_Test/data.jsonl", json.dumps({"image": "test_1.jpg", "IIW": "q", "DOCCI": "no"}) + "\n")
    write(root / "DCI_TEST/data.jsonl", json.dumps({"image": "sa_1.jpg", "ex_id": "1.json", "IIW": "r"}))


def make_summaries(root: Path) -> None:
    make_dci(root)
    base = root / "densely_captioned_images/complete"
    for number, summary in ((1, "short"), (2, ["one", "two"])):
        write(base / f"{number}.json", {"image": f"{number}.jpg", "summaries": {"base": summary, "0": "a part"}})


def make_parquet(root: Path) -> None:
    """As `datasets` writes them: one file with lists of captions, and one of another split."""
    images = [{"bytes": b"A", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}]
    write_parquet(root / "data/test-00000-of-00001.parquet", images, [["p", "q"], ["r"]])
    write_parquet(root / "data/train-00000-of-00001.parquet", images, [["no"], ["no"]])


BARE = '{"images": [{"split": "val", "filename": "a.jpg", "sentences": [{"tokens": []}]}]}'
PARQUET = "data/test-00000-of-00001.parquet"
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
    "coco-karpathy-test": (
        lambda root: make_karpathy(root, "coco"),
        ["images/val2014/1.jpg", "images/val2014/4.jpg"],
        ["test 1", "test 1", "test 4", "test 4"],
        [0, 0, 1, 1],
    ),
    "coco-karpathy-val": (
        lambda root: make_karpathy(root, "coco"),
        ["images/val2014/3.jpg", "images/val2014/5.jpg"],
        ["val 3", "val 3", "val 5", "val 5"],
        [0, 0, 1, 1],
    ),
    "flickr30k-karpathy-test": (
        lambda root: make_karpathy(root, "flickr30k"),
        ["images/1.jpg", "images/4.jpg"],
        ["test 1", "test 1", "test 4", "test 4"],
        [0, 0, 1, 1],
    ),
    "flickr30k-karpathy-val": (
        lambda root: make_karpathy(root, "flickr30k"),
        ["images/3.jpg", "images/5.jpg"],
        ["val 3", "val 3", "val 5", "val 5"],
        [0, 0, 1, 1],
    ),
    "docci": (make_docci, ["images/test_1.jpg", "images/test_2.jpg"], ["Long 1.\nMore", "Long 2.\nMore"], [0, 1]),
    "iiw": (make_iiw, ["docci/test_1.jpg", "docci_aar/aar_1.jpg", "dci/sa_1.jpg"], ["q", "p", "r"], [0, 1, 2]),
    "iiw-400": (make_iiw, ["docci_aar/aar_1.jpg"], ["p"], [0]),
    "dci-summaries": (
        make_summaries,
        [f"densely_captioned_images/photos/{n}.jpg" for n in (1, 2)],
        ["short", "one", "two"],
        [0, 1, 1],
    ),
    "parquet": (make_parquet, [f"{PARQUET}, row 1", f"{PARQUET}, row 2"], ["p", "q", "r"], [0, 0, 1]),
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
    assert [str(path).removeprefix(f"{root}/") for path in data.images] == images
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
        ("folder", "a.jsonl", '["a.jpg"]\n', "line 1: expected an object such as {.* PATH, .* TEXT}, found list"),
        (
            "folder",
            "a.jsonl",
            '{"image": "a", "caption": "x"}\n{"file_name": "a", "text": "x"}',
            "a.jsonl, line 2: needs the keys image and caption, or image and captions; has file_name, text",
        ),
        ("folder", "a.jsonl", '{"caption": "x"}', "line 1: needs the keys image and .*; has caption"),
        ("folder", "a.jsonl", "{}", "line 1: needs the keys image and .*; has none"),
        (
            "folder",
            "a.jsonl",
            '{"image": "a", "caption": "x", "captions": ["y"]}',
            "line 1: has both caption and captions; keep one",
        ),
        ("folder", "a.jsonl", '{"image": "a", "caption": ""}', "line 1: a caption is empty; write it, or take it out"),
        ("folder", "a.jsonl", '{"image": "a", "captions": ["x", " \\t"]}', "line 1: a caption is empty"),
        ("folder", "a.jsonl", "[" * 100_000, "a.jsonl, line 1: not JSON in UTF-8"),
        ("coco", "annotations/captions_val2017.json", "[" * 100_000, "cannot be read as JSON"),
        ("coco-karpathy-test", "dataset_coco.json", '{"images": [3]}', "record 1: `split` is missing"),
        ("flickr30k-karpathy-val", "dataset_flickr30k.json", BARE, "record 1: `raw` is missing"),
        ("docci", "docci_descriptions.jsonlines", '{"split": "test", "image_file": 3}', "line 1: `image_file` must be"),
        ("iiw-400", "IIW-400/data.jsonl", '{"image/key": "a", "IIW-P5B": "x"}', "line 1: `IIW` is missing"),
        ("parquet", "a.parquet", "PAR1 no", "a.parquet: cannot be read as parquet"),
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
    with pytest.raises(
        DatasetError, match="gone: no such folder; it must hold coco's annotations/captions_val2017.json"
    ):
        RETRIEVAL_SETS["coco"].load(tmp_path / "gone")
    with pytest.raises(DatasetError, match="coco needs exactly one annotations/captions_val2017.json there, found 0"):
        RETRIEVAL_SETS["coco"].load(tmp_path)
    make_iiw(tmp_path)
    (tmp_path / "DCI_TEST/data.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"iiw needs IIW-400/data.jsonl and DOCCI_T.* there, found 0"):
        RETRIEVAL_SETS["iiw"].load(tmp_path)
    write(tmp_path / "a.jsonl", "")
    write(tmp_path / "b.jsonl", "")
    with pytest.raises(DatasetError, match="found 2"):
        RETRIEVAL_SETS["folder"].load(tmp_path)
