"""Folders of parquet files with pictures in them."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_parquet import write_parquet

from flair_jax.cli import main
from flair_jax.data.sets.retrieval import RETRIEVAL_SETS
from flair_jax.data.sets.retrieval_data import read_picture
from flair_jax.errors import DatasetError, ImageError

PARQUET = RETRIEVAL_SETS["parquet"]


def image(data: bytes | None, path: str | None = None) -> dict:
    return {"bytes": data, "path": path}


def test_pictures_are_read_from_their_rows_in_any_order(tmp_path) -> None:
    """Over more row groups than are kept, and from a second file."""
    images = [image(bytes([65 + number])) for number in range(9)]
    write_parquet(tmp_path / "0.parquet", images[:7], [f"text {number}" for number in range(7)])
    write_parquet(tmp_path / "1.parquet", images[7:], ["text 7", "text 8"], groups=5)
    data = PARQUET.load(tmp_path)
    assert data.texts == [f"text {number}" for number in range(9)]
    assert data.image_of_text.tolist() == list(range(9))
    for number in (8, 0, 6, 3, 7, 1, 0):
        assert read_picture(data.images[number]) == bytes([65 + number])


def test_a_row_without_bytes_names_a_file(tmp_path) -> None:
    write_parquet(
        tmp_path / "0.parquet", [image(None, "p/a.jpg"), image(None, "gone.jpg"), image(None)], ["x", "y", "z"]
    )
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.jpg").write_bytes(b"A")
    first, gone, nothing = PARQUET.load(tmp_path).images
    assert read_picture(first) == b"A"
    with pytest.raises(ImageError, match="gone.jpg: no such picture"):
        read_picture(gone)
    with pytest.raises(ImageError, match="the row holds no picture"):
        read_picture(nothing)


def test_a_picture_of_several_rows_is_one(tmp_path) -> None:
    """If both its path and its bytes are the same: a path alone may be the name of a file in many folders."""
    images = [image(b"A", "0.jpg"), image(b"B", "0.jpg"), image(b"A", "0.jpg"), image(b"A", "1.jpg"), image(b"A")]
    write_parquet(tmp_path / "0.parquet", images, ["p", "q", "r", "s", "t"])
    data = PARQUET.load(tmp_path)
    assert data.image_of_text.tolist() == [0, 1, 0, 2, 3]


@pytest.mark.parametrize("bare", [False, True])
def test_rows_of_equal_bytes_are_one_picture_without_paths_too(tmp_path, bare: bool) -> None:
    """Over row groups and files, as `datasets` writes pictures that came without a name."""
    rows = [data if bare else image(data) for data in (b"A", b"B", b"A", b"C", b"B")]
    write_parquet(tmp_path / "0.parquet", rows[:3], ["p", "q", "r"])
    write_parquet(tmp_path / "1.parquet", rows[3:], ["s", "t"], groups=2)
    data = PARQUET.load(tmp_path)
    assert data.image_of_text.tolist() == [0, 1, 0, 2, 1]
    assert [read_picture(picture) for picture in data.images] == [b"A", b"B", b"C"]


def test_rows_without_bytes_are_one_picture_by_their_path_alone(tmp_path) -> None:
    """And where neither is there, nothing says that they are one."""
    images = [image(None, "a.jpg"), image(None), image(None, "a.jpg"), image(None), None]
    write_parquet(tmp_path / "0.parquet", images, ["p", "q", "r", "s", "t"], groups=2)
    assert PARQUET.load(tmp_path).image_of_text.tolist() == [0, 1, 0, 2, 3]


def test_pictures_of_a_damaged_row_group_are_not_taken_for_one(tmp_path) -> None:
    noise = [bytes([value]) * 3000 + os.urandom(500) for value in b"ABAB"]
    file = tmp_path / "0.parquet"
    write_parquet(file, [noise[0], noise[1], noise[0], noise[1]], ["p", "q", "r", "s"], groups=2)
    start = pq.read_metadata(file).row_group(1).column(0).dictionary_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 64] = bytes(64)
    file.write_bytes(data)
    loaded = PARQUET.load(tmp_path)
    assert loaded.image_of_text.tolist() == [0, 1, 2, 3]
    assert read_picture(loaded.images[0]) == noise[0]
    with pytest.raises(ImageError, match="cannot be read from its file"):
        read_picture(loaded.images[2])


def test_pictures_as_bytes_and_captions_in_lists(tmp_path) -> None:
    write_parquet(tmp_path / "0.parquet", [b"A", b"B"], [["p"], ["q", "r"]], column="captions")
    data = PARQUET.load(tmp_path)
    assert (data.texts, data.image_of_text.tolist()) == (["p", "q", "r"], [0, 1, 1])
    assert read_picture(data.images[1]) == b"B"


def test_what_is_of_another_split_is_named(tmp_path, caplog) -> None:
    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet", [image(b"A")], [split])
    assert PARQUET.load(tmp_path).texts == ["test"]
    assert "passes over 2 files not named test*" in caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"A"], "text": ["x"]}, "needs the columns image and caption, has image, text"),
        ({"image": ["a.jpg"], "caption": ["x"]}, "image must be a struct of bytes and path, or bytes, is string"),
        ({"image": [{"bytes": b"A"}], "caption": ["x"]}, "image must be a struct of bytes and path"),
        ({"image": [b"A"], "caption": [3]}, "row 1: `caption` must be a text or a list of texts"),
        ({"image": [b"A"], "caption": [None]}, "row 1: `caption` must be a text or a list of texts"),
        ({"image": [b"A"], "caption": [[]]}, "row 1: `caption` must be a text or a list of texts"),
        ({"image": [b"A", b"B"], "caption": ["x", " "]}, "row 2: a caption is empty; write it, or take it out"),
        ({"image": [b"A"], "captions": [["x", ""]]}, "row 1: a caption is empty"),
        ({"image": [b"A"], "captions": [["x"]], "caption": ["y"]}, "has both caption and captions; keep one"),
    ],
)
def test_other_columns_say_what_is_wrong(tmp_path, columns: dict, message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=f"a.parquet.*{message}"):
        PARQUET.load(tmp_path)


def test_only_what_seems_to_be_the_set_is_found(tmp_path) -> None:
    """By `--dataset all`; named by the user, it is read, or refused with a reason."""
    assert PARQUET.find(tmp_path) is None
    pq.write_table(pa.table({"image": [b"A"], "label": [3]}), tmp_path / "a.parquet")
    assert PARQUET.find(tmp_path) is None
    write_parquet(tmp_path / "a.parquet", [image(b"A")], ["x"])
    assert PARQUET.find(tmp_path) == tmp_path / "a.parquet"
    folder = RETRIEVAL_SETS["folder"]
    for line, found in (
        ('{"id": 0, "caption_0": "x"}', False),
        ('{"image": "a", "captions": ["x"]}', True),
        ("{", True),
    ):
        (tmp_path / "a.jsonl").write_text(line)
        assert (folder.find(tmp_path) is not None) == found


def test_an_empty_table_and_a_cut_off_file(tmp_path) -> None:
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    with pytest.raises(DatasetError, match="holds no captions"):
        PARQUET.load(tmp_path)
    write_parquet(tmp_path / "a.parquet", [image(b"A")], ["x"])
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(DatasetError, match="a.parquet: cannot be read as parquet"):
        PARQUET.load(tmp_path)


def test_an_evaluation_gives_the_numbers_of_the_same_pictures_in_files(
    small_checkpoint, photographs, tmp_path, capsys
) -> None:
    data = RETRIEVAL_SETS["coco"].load(photographs)
    images = [image(path.read_bytes(), path.name) for path in data.images]
    captions = [
        [text for text, own in zip(data.texts, data.image_of_text, strict=True) if own == number]
        for number in range(len(images))
    ]
    folder = tmp_path / "set"
    write_parquet(folder / "data/test-0.parquet", images, captions, groups=3)
    found = []
    for name, where in (("coco", photographs), ("parquet", folder)):
        output = tmp_path / f"{name}.json"
        words = [
            "evaluate",
            "--checkpoint",
            small_checkpoint,
            "--dataset",
            name,
            "--data-dir",
            where,
            "--output",
            output,
        ]
        assert not main([*map(str, words)])
        found.append(json.loads(output.read_text())["results"][0]["metrics"])
    # The order of the texts differs, which decides nothing without ties.
    assert found[0] == found[1]

    images[1]["bytes"] = images[1]["bytes"][:200]
    write_parquet(folder / "data/test-0.parquet", images, captions, groups=3)
    assert main([*map(str, words)]) == 2
    assert "test-0.parquet, row 2: the picture: cannot be read as a picture" in capsys.readouterr().err
