import csv
import gzip
import json
import os

import pyarrow.parquet
import pytest

from flair_jax.cli import main
from flair_jax.data.build.caption_tables import ADDRESS, read_table, sentences_in, write_url_table
from flair_jax.data.captions import CAPTION_LISTS
from flair_jax.data.damage import Damage
from flair_jax.errors import ConfigError, DatasetError

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
CAPTIONS = {
    "shortIB_captions": SENTENCES[:2],
    "longSV_captions": SENTENCES[2:5],
    "longLLA_captions": SENTENCES[5:],
}
HEADER = b"Image Path,raw_caption,longSV_captions\n"


def write_table(path, rows=ROWS, encoding="utf-8"):
    kind = path.suffixes[0]
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", encoding=encoding) as stream:
        if kind == ".jsonl":
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def write_bytes(tmp_path, data: bytes, name: str = "t.csv"):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def left_out(path) -> list[tuple[str, str]]:
    return [(row.place, row.reason) for row in read_table(path) if isinstance(row, Damage)]


def addresses(path) -> list[str]:
    return [row[0] for row in read_table(path) if not isinstance(row, Damage)]


def raw_captions(path) -> list[list[str]]:
    return [row[1]["raw_caption"] for row in read_table(path) if not isinstance(row, Damage)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_every_kind_of_file_holds_the_same(tmp_path, kind: str) -> None:
    path = write_table(tmp_path / f"table.{kind}")
    assert list(read_table(path)) == [
        (row["Image Path"], {"raw_caption": [row["raw_caption"]], **CAPTIONS}) for row in ROWS
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_that_are_not_read_are_named(tmp_path, caplog, kind: str) -> None:
    path = write_table(tmp_path / f"t.{kind}", [{**row, "longSV_caption": "one", "width": "3"} for row in ROWS])
    assert len(list(read_table(path))) == len(ROWS)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: does not read 2 columns: longSV_caption, width"
    ]
    caplog.clear()
    list(read_table(write_table(tmp_path / f"all.{kind}")))
    assert not caplog.records


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_other_encodings_of_unicode(tmp_path, kind: str, encoding: str) -> None:
    path = write_table(tmp_path / f"table.{kind}", [{**row, "raw_caption": "Café 😀"} for row in ROWS], encoding)
    assert raw_captions(path) == [["Café 😀"]] * 4


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_texts_stay_texts_whatever_they_look_like(tmp_path, kind: str) -> None:
    texts = ["NA", "null", "nan", "2020-01-01", "true", "0017", "1e5", "12:30", "None", "-", " #N/A", "[1, 2]", "[]x"]
    path = write_table(
        tmp_path / f"t.{kind}", [{ADDRESS: f"u{n}", "raw_caption": text} for n, text in enumerate(texts)]
    )
    assert [each for (each,) in raw_captions(path)] == [text.strip() for text in texts]


@pytest.mark.parametrize(
    ("cell", "sentences"),
    [
        (None, []),
        (" a. b ", ["a", "b"]),
        ([" a ", "", None, "b. c"], ["a", "b", "c"]),
        ("['it''s', \"it's\"]", ["its", "it's"]),
        ('["a", null, "\\ud83d\\ude00"]', ["a", "😀"]),
        ("['caf\\xe9']", ["café"]),
        ("[]", []),
        ("[1, 2]", ["[1, 2]"]),
        ("[" * 100_000, ["[" * 100_000]),
    ],
)
def test_cells(cell, sentences: list[str]) -> None:
    assert sentences_in(cell) == sentences


def test_one_bad_byte_costs_one_row(tmp_path) -> None:
    """Every kind of bad row among a thousand."""
    rows = [f"u{n},a caption {n},\n".encode() for n in range(1000)]
    rows[5] = b"u5,caf\xe9,\n"
    rows[7] = b'u7,"never closed,\n'
    rows[9] = b'u9,"closed" and more,\n'
    rows[11] = b"u11,a\0b,\n"
    rows[13] = b"u13\n"
    rows[15] = b"u15,a,b,c\n"
    rows[17] = b",a caption,\n"
    rows[19] = b'u19,," "\n'
    rows[21] = b'u21,"two\nlines",\n'
    rows[23] = b"\r\n"
    path = write_bytes(tmp_path, HEADER + b"".join(rows))
    bad = {5, 7, 9, 11, 13, 15, 17, 19, 23}
    assert addresses(path) == [f"u{n}" for n in range(1000) if n not in bad]
    assert left_out(path) == [
        ("row 6 (line 7), raw_caption", "bytes that are not UTF-8"),
        ("row 8 (line 9)", "quotes that do not balance"),
        ("row 10 (line 11)", "quotes that do not balance"),
        ("row 12 (line 13), raw_caption", "a NUL"),
        ("row 14 (line 15)", "too few fields"),
        ("row 16 (line 17)", "too many fields"),
        ("row 18 (line 19), Image Path", "no address"),
        ("row 20 (line 21)", "no caption"),
    ]


def test_a_list_that_begins_empty_for_long(tmp_path) -> None:
    """Beyond the first block of any reader."""
    rows = b"".join(b"u%d,%s,\n" % (n, b"word " * 40) for n in range(6000)) + b"last,a,\"['b', 'c']\"\n"
    path = write_bytes(tmp_path, HEADER + rows)
    assert list(read_table(path))[-1] == ("last", {"raw_caption": ["a"], "longSV_captions": ["b", "c"]})


def test_bad_lines_of_json(tmp_path) -> None:
    lines = [
        b'\xef\xbb\xbf{"Image Path": "u1", "raw_caption": "a"}',
        b'{"Image Path": "u2", "raw_caption": "\\ud83d"}',
        b'{"Image Path": "u3", "raw_caption": "\xe9"}',
        b'{"Image Path": "u4", "raw_caption": 3}',
        b'{"Image Path": "u5", "raw_caption": [["a"]]}',
        b'{"Image Path": 6, "raw_caption": "a"}',
        b'{"Image Path": "u7", "raw_ca',
        b"[1]",
        b"[" * 100_000,
        b"",
        b'{"raw_caption": "a"}',
    ]
    path = write_bytes(tmp_path, b"\n".join(lines), "t.jsonl")
    assert addresses(path) == ["u1"]
    assert left_out(path) == [
        ("line 2, raw_caption", "half a surrogate pair"),
        ("line 3, raw_caption", "bytes that are not UTF-8"),
        ("line 4, raw_caption", "neither a text nor a list of texts"),
        ("line 5, raw_caption", "neither a text nor a list of texts"),
        ("line 6, Image Path", "not a text"),
        ("line 7", "not JSON"),
        ("line 8", "JSON is not an object"),
        ("line 9", "not JSON"),
        ("line 11, Image Path", "no address"),
    ]


def test_parquet_of_every_type_of_text(tmp_path) -> None:
    texts = pyarrow.array([b"a", b"caf\xe9", None])
    lists = pyarrow.array([["b", "c"], ["d"], None])
    bad = pyarrow.Array.from_buffers(pyarrow.string(), 3, texts.buffers())
    columns = {
        ADDRESS: pyarrow.array(["u1", "u2", "u3"]),
        "raw_caption": bad,
        "shortIB_captions": pyarrow.array(["x", "y", "x"]).dictionary_encode(),
        "longIB_captions": lists.cast(pyarrow.large_list(pyarrow.large_string())),
        "shortSV_captions": pyarrow.nulls(3),
        "longSV_captions": lists,
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet")) == [
        (
            "u1",
            {
                "raw_caption": ["a"],
                "shortIB_captions": ["x"],
                "longIB_captions": ["b", "c"],
                "longSV_captions": ["b", "c"],
            },
        ),
        Damage(str(tmp_path / "t.parquet"), "row 2, raw_caption", "bytes that are not UTF-8"),
        ("u3", {"shortIB_captions": ["x"]}),
    ]
    pyarrow.parquet.write_table(pyarrow.table({ADDRESS: ["u"], "raw_caption": [1.5]}), tmp_path / "n.parquet")
    with pytest.raises(DatasetError, match="the column raw_caption holds double, not texts"):
        list(read_table(tmp_path / "n.parquet"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_url_table(tmp_path, capsys, kind: str) -> None:
    bad = {**ROWS[0], **dict.fromkeys(ROWS[0], ""), ADDRESS: "http://pictures.example/empty\x1b.jpg"}
    table = write_table(tmp_path / f"table.{kind}", [*ROWS, bad, ROWS[0]])
    assert main(["data", "urls", str(table), str(tmp_path / "urls.parquet")]) == 0
    rows = pyarrow.parquet.read_table(tmp_path / "urls.parquet").to_pylist()
    assert [row["url"] for row in rows] == [row["Image Path"] for row in [*ROWS, ROWS[0]]]
    assert rows[2]["shortIB_captions"] == ["A short one", "Of two sentences"]
    assert rows[2]["longIB_captions"] is None
    said = capsys.readouterr()
    assert said.out.split() == (
        f"{tmp_path}/urls.parquet: 5 rows with an address seen before 1 left out 1 no caption: 1".split()
    )
    assert f"{table}: row 5{' (line 6)' if kind == 'csv' else ''}: no caption" in said.err


def test_only_so_many_names_are_printed(tmp_path, capsys) -> None:
    path = write_bytes(tmp_path, HEADER + b"u,a,\n" + b"u\n" * 1500)
    assert main(["data", "urls", str(path), str(tmp_path / "urls.parquet")]) == 0
    said = capsys.readouterr()
    assert "left out                                 1,500\n  too few fields: 1,500\n" in said.out
    assert said.err.count("too few fields") == 1000
    assert "... and 500 more\n" in said.err


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"url,raw_caption\nx,y\n", "no column Image Path; there are url, raw_caption"),
        ("t.csv", b"Image Path,text\nx,y\n", f"no column {', '.join(CAPTION_LISTS)}; there are Image Path, text"),
        ("t.csv", b"Image Path,raw_caption,raw_caption\nx,y,z\n", "the column raw_caption is there twice"),
        ("t.csv", HEADER, r"no row can be used \(it has none\)"),
        ("t.csv", HEADER + b"u\nv,,\n", r"no row can be used \(too few fields: 1; no caption: 1\)"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b'"Image Path,raw_caption\nx,y\n', "its first line cannot be read: quotes that do not balance"),
        ("t.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"no column Image Path; there are \\udc89PNG"),
        ("t.csv", HEADER.decode().encode("utf-16")[:-1], "cannot be read"),
        ("t.csv.gz", gzip.compress(HEADER * 99, mtime=0)[:-20], "cannot be read"),
        ("t.csv.gz", HEADER, "cannot be read"),
        ("t.parquet", b"nothing", "cannot be read"),
        ("t.xls", b"", r"a caption table is \.csv, \.tsv, \.jsonl \(also as \.gz\) or \.parquet"),
    ],
)
def test_bad_tables(tmp_path, name: str, data: bytes, message: str) -> None:
    path = write_bytes(tmp_path, data, name)
    with pytest.raises(DatasetError, match=f"{name}: {message}"):
        write_url_table(path, tmp_path / "out.parquet")
    assert sorted(each.name for each in tmp_path.iterdir()) == [name]


def test_what_is_no_table(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        list(read_table(tmp_path / "d.csv"))
    (tmp_path / "e.csv").mkdir()
    os.mkfifo(tmp_path / "f.csv")
    for name in "ef":
        with pytest.raises(DatasetError, match=rf"{name}\.csv: is not a file"):
            list(read_table(tmp_path / f"{name}.csv"))
    with pytest.raises(DatasetError, match=r"must end in \.parquet"):
        write_url_table(tmp_path / "a.csv", tmp_path / "out.csv")


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_a_line_that_is_too_long_is_one_row(tmp_path, kind: str) -> None:
    long = b"x " * 2**23 + b"y"
    path = tmp_path / f"t{kind}"
    if kind == ".csv":
        path.write_bytes(b"Image Path,raw_caption\na," + long + b'\nb,"' + long + b'"\nc,kept\n')
    else:
        path.write_bytes(b'{"Image Path": "a", "raw_caption": "%s"}\n' % long * 2)
        with path.open("ab") as stream:
            stream.write(b'{"Image Path": "c", "raw_caption": "kept"}\n')
    *lost, row = read_table(path)
    assert row == ("c", {"raw_caption": ["kept"]})
    assert [harm.reason for harm in lost] == ["a line of more than 16,777,216 characters"] * 2


def test_the_url_table_does_not_replace_its_own(tmp_path) -> None:
    table = write_table(tmp_path / "t.parquet")
    before = table.read_bytes()
    with pytest.raises(ConfigError, match=r"t\.parquet: is read by this command"):
        write_url_table(table, tmp_path / "." / "t.parquet")
    assert table.read_bytes() == before
