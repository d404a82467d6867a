"""Captions into tars at hand: what they belong to, and that nothing else changes."""

import io
import json
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tars import picture, sample, write_tar, write_tars
from test_caption_tables import CAPTIONS, ROWS, SENTENCES, write_table

from flair_jax.cli import main
from flair_jax.data.build.attach import attach
from flair_jax.data.build.caption_tables import ADDRESS
from flair_jax.data.shards import expand_shards
from flair_jax.data.tars import TarSource
from flair_jax.errors import DatasetError


@pytest.fixture
def table(tmp_path) -> Path:
    return write_table(tmp_path / "table.csv")


def test_captions_are_attached_by_url_and_by_key(table, tmp_path, capsys) -> None:
    """Samples 0 to 5 of two tars; 1 and 2 have rows by URL, 0003 by its name; the others have none."""
    pattern = write_tars(tmp_path / "old", 2, 3)
    bare = {"key": "0003", "caption": "alt"}
    write_tar(tmp_path / "old" / "00001.tar", [("0003.png", picture(3)), ("0003.json", json.dumps(bare).encode())])
    command = ["data", "attach", str(table), pattern, "--output", str(tmp_path / "new")]
    assert main(command) == 0
    assert capsys.readouterr().out.split() == ["attached", "4", "left", "out", "0"]
    source = TarSource(f"{tmp_path}/new/*.tar", progress=False)
    assert [source[n].sentences for n in range(4)] == [[f"Raw {n}", *SENTENCES] for n in range(4)]
    assert source[3].image == picture(3)
    with tarfile.open(tmp_path / "new" / "00001.tar") as tar:
        assert tar.getnames() == ["0003.png", "0003.json"]
        assert json.load(io.BytesIO(tar.extractfile("0003.json").read()))["caption"] == "alt"
    assert main(command) == 0
    assert "tars that were there" in capsys.readouterr().out


def test_rows_of_tars_that_were_there_have_their_samples(tmp_path) -> None:
    """A stopped command counts as one that was not: rows whose samples are in the tars it kept, by URL and by key."""
    table = write_table(tmp_path / "table.jsonl", [*ROWS, {**ROWS[0], ADDRESS: "http://nowhere/none.jpg"}])
    shards = expand_shards(write_tars(tmp_path / "old", 2, 2))
    key = ROWS[2][ADDRESS].rpartition("/")[2].partition(".")[0]
    write_tar(Path(shards[1]), [*sample(9), (f"{key}.jpg", picture(2)), (f"{key}.json", b"{}")])
    whole, _ = attach(table, shards, tmp_path / "new")
    assert whole["rows without a sample"] < len(ROWS)
    for kept in (1, 2):
        if kept == 1:
            (tmp_path / "new" / Path(shards[0]).name).unlink()
        again, _ = attach(table, shards, tmp_path / "new")
        assert again["tars that were there"] == kept
        assert again["rows without a sample"] == whole["rows without a sample"]


def test_all_that_is_left_out_is_counted_and_named(tmp_path, capsys) -> None:
    twins = [{**ROWS[0], ADDRESS: f"http://{place}/k.jpg"} for place in "ab"]
    table = write_table(tmp_path / "table.csv", [*ROWS, *twins, ROWS[1]])
    shard = write_tar(
        tmp_path / "a.tar",
        [
            *sample(1),
            *sample(9),
            ("x.jpg", picture(0)),
            ("k.jpg", picture(0)),
            ("k.json", b"{}"),
            ("0002.jpg", picture(0)),
            (f"{1:09}.v2.jpg", picture(0)),
            (f"{1:09}.v2.json", b"{}"),
            ("0002.json", b'{"longIB_captions": 7}'),
        ],
    )
    write_tar(tmp_path / "b.tar", sample(9))
    shards = f"{tmp_path}/{{a,b}}.tar"
    assert main(["data", "attach", str(table), shards, "--output", str(tmp_path / "new")]) == 0
    said = capsys.readouterr()
    for line in (
        f"{table}: {ROWS[1][ADDRESS]}: an address that an earlier row has",
        f"{shard}: x.jpg: no json",
        f"{shard}: k.jpg: several rows have its key as file name, and none its URL",
        f"{shard}: 0002.jpg: longIB_captions is neither a text nor a list of texts",
    ):
        assert f"{line}\n" in said.err
        assert f"  {line.rpartition(': ')[2]}: 1\n" in said.out
    assert all(f"{tmp_path / name}: {9:09}.jpg: no row for it\n" in said.err for name in ("a.tar", "b.tar"))
    assert "  no row for it: 2\n" in said.out
    counts, left_out = attach(table, expand_shards(shards), tmp_path / "again")
    assert counts == {"attached": 1, "rows without a sample": 4, "tars that have none, not written": 1}
    assert left_out.reasons.total() == 8
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["a.tar"]
    new = TarSource(str(tmp_path / "new" / "a.tar"), progress=False)
    assert (len(new), new.damage, new.beside) == (1, [], 1)


NAME_ALPHABETS = st.sampled_from(["ab", "äé日本😀", "\udce9\udcff", "a -_'\\\n\t\x1b#%"])


@st.composite
def keys(draw) -> str:
    """Paths without dots, of any length and alphabet, and bytes that are not UTF-8."""
    alphabet = draw(NAME_ALPHABETS)
    part = st.text(alphabet, min_size=1, max_size=3).map(lambda text: text * draw(st.sampled_from([1, 30, 70])))
    return "/".join(draw(st.lists(part, min_size=1, max_size=3)))


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(keys(), min_size=1, max_size=4, unique=True),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.booleans(),
)
def test_names_of_any_length_and_alphabet_survive(names: list[str], kind: int, with_global_header: bool) -> None:
    """And what stands beside a sample, with its header."""
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "old.tar", Path(folder) / "new" / "old.tar"
        members = {}
        with tarfile.open(
            old,
            "w",
            format=kind,
            encoding="utf-8",
            errors="surrogateescape",
            pax_headers={"comment": "made"} if with_global_header else {},
        ) as tar:
            for number, name in enumerate(names):
                for ending, data in (("jpg", picture(number)), ("json", b'{"url": "u%d"}' % number), ("txt", b"text")):
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size, member.mtime, member.mode, member.uname = len(data), 1234567, 0o640, "someone"
                    tar.addfile(member, io.BytesIO(data))
                    members[member.name] = data
        table = write_table(Path(folder) / "t.jsonl", [{**ROWS[0], ADDRESS: f"u{n}"} for n in range(len(names))])
        counts, left_out = attach(table, [str(old)], new.parent)
        assert counts == {"attached": len(names)}
        assert not left_out.reasons
        with tarfile.open(new, encoding="utf-8", errors="surrogateescape") as tar:
            found = {member.name: (member, tar.extractfile(member).read()) for member in tar}
        assert list(found) == list(members)
        for name, (member, data) in found.items():
            assert data == members[name] or name.endswith(".json")
            assert (member.mtime, member.mode, member.uname) == (1234567, 0o640, "someone")
        source = TarSource(str(new), processes=1, progress=False)
        assert not source.damage
        assert [source.member(number) for number in range(len(source))] == [f"{name}.jpg" for name in names]
        assert source[0].sentences == ["Raw 0", *[text for texts in CAPTIONS.values() for text in texts]]


def test_where_it_cannot_be_attached(table, tmp_path) -> None:
    write_tars(tmp_path / "x", 1, 1)
    write_tars(tmp_path / "y", 1, 1)
    with pytest.raises(DatasetError, match="several tars have the same name"):
        attach(table, expand_shards("{x,y}/00000.tar", tmp_path), tmp_path / "new")
    with pytest.raises(DatasetError, match="the tars lie in it themselves"):
        attach(table, expand_shards("x/*.tar", tmp_path), tmp_path / "y" / ".." / "x")
    (tmp_path / "bare.csv").write_text("Image Path,raw_caption\n")
    with pytest.raises(DatasetError, match="no row can be used"):
        attach(tmp_path / "bare.csv", expand_shards("x/*.tar", tmp_path), tmp_path / "new")
    assert not (tmp_path / "new").exists()
