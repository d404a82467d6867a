import csv
import io
import json
import tarfile

import pyarrow.parquet
import pytest
from made_tars import picture, sample, write_tar, write_tars

from flair_jax.cli import main
from flair_jax.data.caption_tables import attach, captions_of_row, read_table, write_url_table
from flair_jax.data.shards import expand_shards
from flair_jax.data.tars import TarSource
from flair_jax.errors import DatasetError

ROWS = [
    {
        "Image Path": f"http://pictures.example/{number:04}.jpg",
        "raw_caption": f"Raw {number}",
        "shortIB_captions": "A short one. Of two sentences",
        "longSV_captions": "['Listed as text', 'and so. on']",
        "longLLA_captions": "[not a list]",
    }
    for number in range(4)
]
SENTENCES = ["A short one", "Of two sentences", "Listed as text", "and so", "on", "[not a list]"]


@pytest.fixture(params=["csv", "parquet"])
def table(request, tmp_path):
    path = tmp_path / f"table.{request.param}"
    if request.param == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def test_captions_of_a_row() -> None:
    found = captions_of_row(ROWS[1])
    assert list(found) == ["raw_caption", "shortIB_captions", "longSV_captions", "longLLA_captions"]
    assert [text for texts in found.values() for text in texts] == ["Raw 1", *SENTENCES]
    assert captions_of_row({"raw_caption": None, "shortIB_captions": [" a ", "", None, "b. c"]}) == {
        "shortIB_captions": ["a", "b", "c"]
    }


def test_the_url_table(table, tmp_path) -> None:
    assert main(["data", "urls", str(table), str(tmp_path / "urls.parquet")]) == 0
    rows = pyarrow.parquet.read_table(tmp_path / "urls.parquet").to_pylist()
    assert [row["url"] for row in rows] == [row["Image Path"] for row in ROWS]
    assert rows[2]["shortIB_captions"] == ["A short one", "Of two sentences"]
    assert rows[2]["longIB_captions"] is None


def test_captions_are_attached_by_url_and_by_key(table, tmp_path, capsys) -> None:
    """Samples 0 to 5 of two tars; 1 and 2 have rows by URL, 0003 by its name; the others have none."""
    pattern = write_tars(tmp_path / "old", 2, 3)
    bare = {"key": "0003", "caption": "alt"}
    write_tar(tmp_path / "old" / "00001.tar", [("0003.png", picture(3)), ("0003.json", json.dumps(bare).encode())])
    command = ["data", "attach", str(table), pattern, "--output", str(tmp_path / "new")]
    assert main(command) == 0
    assert capsys.readouterr().out.split() == ["attached", "4"]
    source = TarSource(f"{tmp_path}/new/*.tar", progress=False)
    assert [source[n].sentences for n in range(4)] == [[f"Raw {n}", *SENTENCES] for n in range(4)]
    assert source[3].image == picture(3)
    with tarfile.open(tmp_path / "new" / "00001.tar") as tar:
        assert tar.getnames() == ["0003.png", "0003.json"]
        assert json.load(io.BytesIO(tar.extractfile("0003.json").read()))["caption"] == "alt"
    assert main(command) == 0
    assert "tars that were there" in capsys.readouterr().out


def test_samples_without_captions_and_damage_are_counted(table, tmp_path) -> None:
    write_tar(tmp_path / "a.tar", [*sample(1), *sample(9), ("k.jpg", picture(0))])
    counts = attach(table, expand_shards(str(tmp_path / "a.tar")), tmp_path / "new")
    assert counts == {"attached": 1, "no captions": 1, "damaged": 1}


def test_bad_tables(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("url,raw_caption\nx,y\n")
    with pytest.raises(DatasetError, match="no column Image Path; there are url, raw_caption"):
        list(read_table(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text("Image Path,text\nx,y\n")
    with pytest.raises(DatasetError, match="no column raw_caption, short"):
        list(read_table(tmp_path / "b.csv"))
    (tmp_path / "c.parquet").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"c\.parquet: cannot be read"):
        list(read_table(tmp_path / "c.parquet"))
    with pytest.raises(DatasetError, match="no such file"):
        list(read_table(tmp_path / "d.csv"))
    with pytest.raises(DatasetError, match=r"is \.csv or \.parquet"):
        list(read_table(tmp_path / "e.xls"))
    with pytest.raises(DatasetError, match=r"must end in \.parquet"):
        write_url_table(tmp_path / "a.csv", tmp_path / "out.csv")
    write_tars(tmp_path / "x", 1, 1)
    write_tars(tmp_path / "y", 1, 1)
    with pytest.raises(DatasetError, match="several tars have the same name"):
        attach(tmp_path / "a.csv", expand_shards("{x,y}/00000.tar", tmp_path), tmp_path / "new")
