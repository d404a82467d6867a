import json
import re

import pytest
from made_tars import picture, sample, write_tar
from test_tars import broken_pictures

from flair_jax.cli import main
from flair_jax.data.build.survey import survey
from flair_jax.data.sources import Record, TfdsSource
from flair_jax.errors import DatasetError


def damaged(folder) -> str:
    """Three good samples, of which one repeats another, and every kind of broken picture."""
    twin = [("twin.jpg", picture(0)), ("twin.json", dict(sample(0))[f"{0:09}.json"])]
    members = [*sample(0), *sample(90), *twin, ("lone.json", b"{}")]
    for name, data in broken_pictures().items():
        members += [(f"{name}.png", data), (f"{name}.json", b'{"caption": "one. two"}')]
    return str(write_tar(folder / "0.tar", members))


def test_check_finds_all_damage_and_fails(tmp_path, capsys) -> None:
    shard = damaged(tmp_path)
    assert main(["data", "check", shard, "--processes=1", "--json", str(tmp_path / "found.json")]) == 1
    captured = capsys.readouterr()
    for name in ("lone.json: no picture", *(f"{name}.png" for name in broken_pictures())):
        assert f"{shard}: {name}" in captured.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["samples"] == 3
    assert found["same_url"] == found["same_picture"] == 1
    assert found["left_out"] == {
        "picture is broken": 1,
        "picture is of another format": 1,
        "no picture": 1,
        "picture is too small": 1,
        "picture is too large": 1,
    }
    assert found["sentences"] == [0, 0, 0, 3, 0, 0, 0, 0]
    assert sum(found["tokens"]) == 15
    assert "  picture is broken: 1\n" in captured.out


def test_what_no_terminal_shows(tmp_path, capsys) -> None:
    """Names that are not UTF-8, of the tar and in it, escape sequences in them, and URLs with half a surrogate pair."""
    url = b'{"url": "http://x/\\ud83d.jpg", "caption": "one"}'
    members = [("caf\udce9.jpg", picture(1)), ("caf\udce9.json", url), ("\x1b[2J.jpg", b"x"), ("\x1b[2J.json", url)]
    shard = write_tar(tmp_path / "t\udcff.tar", [*members, ("l\udce9.json", b"{}")])
    assert main(["data", "stats", str(shard), "--processes=1"]) == 0
    assert "samples                                      2\n" in capsys.readouterr().out
    assert main(["data", "check", str(shard), "--processes=1", "--json", str(tmp_path / "f\udce9.json")]) == 1
    said = capsys.readouterr()
    assert f"{tmp_path}/t\\udcff.tar: l\\udce9.json: no picture\n" in said.err
    assert f"{tmp_path}/t\\udcff.tar: \\x1b[2J.jpg: the picture: cannot be read" in said.err
    assert "\x1b" not in said.out + said.err
    assert main(["data", "index", str(shard), "--index-dir", str(tmp_path / "i\udce9")]) == 0


class Records:
    """A source whose second record has no captions, and whose third cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Record:
        if index == 2:
            raise DatasetError(f"{self.where(index)}: a caption has bytes that are not UTF-8")
        return Record(picture(index), ["one"] if index == 0 else [])

    def where(self, index: int) -> str:
        return f"record {index}"


@pytest.mark.golden
def test_pictures_that_lose_what_they_show_are_counted(tmp_path, golden, capsys) -> None:
    deep = (golden / "images" / "gray_16bit.png").read_bytes()
    text = b'{"caption": "one"}'
    shard = write_tar(tmp_path / "t.tar", [("a.png", deep), ("a.json", text), ("b.jpg", picture(1)), ("b.json", text)])
    assert main(["data", "check", str(shard), "--processes=1"]) == 0, "they are used"
    said = capsys.readouterr()
    assert re.search(r"with more than 8 bits a channel +1\n", said.out)
    assert f"{shard}: a.png: the picture: more than 8 bits a channel" in said.err


def test_records_without_captions_are_left_out() -> None:
    found = survey(Records(), decode=False, processes=1, progress=False)
    assert found.samples == 1
    assert found.damage == ["record 1: no caption", "record 2: a caption has bytes that are not UTF-8"]
    assert found.left_out == {"the record has no captions, or cannot be read": 2}


def test_records_that_are_not_utf8() -> None:
    source = object.__new__(TfdsSource)
    source._name, source._captions, source._has = "set", "captions", {"url", "key"}
    source._data = [{"image": b"", "captions": [b"caf\xe9"], "url": b"\xe9", "key": b"k\xe9"}]
    with pytest.raises(DatasetError, match=r"set: record 0 \(k\\xe9\): a caption has bytes that are not UTF-8"):
        source[0]
    source._data[0]["captions"] = ["café".encode()]
    assert source[0].sentences == ["café"]


def test_packed_tars(capsys) -> None:
    assert main(["data", "stats", "cc3m/{000..331}.tar.gz"]) == 2
    assert "cc3m/{000..331}.tar.gz: tars are read by number, so they must not be compressed" in capsys.readouterr().err


def test_stats_does_not_decode(tmp_path, capsys) -> None:
    assert main(["data", "stats", damaged(tmp_path), "--processes=1"]) == 0
    assert "samples                                      7\n" in capsys.readouterr().out


def test_check_passes_what_is_whole(tmp_path, capsys) -> None:
    shard = write_tar(tmp_path / "0.tar", [*sample(0), *sample(1)])
    assert main(["data", "check", str(shard), "--processes=2"]) == 0
    captured = capsys.readouterr()
    assert "left out                                     0" in captured.out
    assert shard.name not in captured.err


def test_index(tmp_path, capsys) -> None:
    write_tar(tmp_path / "0.tar", [*sample(0), *sample(1), ("k.jpg", picture(1))])
    command = ["data", "index", str(tmp_path / "*.tar"), "--index-dir", str(tmp_path / "index"), "--processes=1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "2 samples in 1 tar\n" in out
    assert "  no json: 1\n" in out
    assert main(["data", "index", str(tmp_path / "x.tar")]) == 2
    assert "cannot be opened" in capsys.readouterr().err


def test_figures_do_not_replace_the_tar(tmp_path, capsys) -> None:
    shard = write_tar(tmp_path / "0.tar", sample(0))
    before = shard.read_bytes()
    assert main(["data", "stats", str(shard), "--json", str(shard)]) == 2
    assert "0.tar: is read by this command" in capsys.readouterr().err
    assert shard.read_bytes() == before


def test_the_bar_counts_samples(tmp_path, capsys) -> None:
    shard = write_tar(tmp_path / "0.tar", [*sample(0), *sample(1), *sample(2)])
    assert main(["data", "stats", str(shard)]) == 0
    assert "read: 100%|██████████| 3/3 samples [" in capsys.readouterr().err
