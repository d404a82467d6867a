import json

from made_tars import picture, sample, write_tar
from test_tars import broken_pictures

from flair_jax.cli import main


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
    assert "picture is broken                    1\n" in captured.out


def test_stats_does_not_decode(tmp_path, capsys) -> None:
    assert main(["data", "stats", damaged(tmp_path), "--processes=1"]) == 0
    assert "samples                                7\n" in capsys.readouterr().out


def test_check_passes_what_is_whole(tmp_path, capsys) -> None:
    shard = write_tar(tmp_path / "0.tar", [*sample(0), *sample(1)])
    assert main(["data", "check", str(shard), "--processes=2"]) == 0
    captured = capsys.readouterr()
    assert "left out                               0" in captured.out
    assert shard.name not in captured.err


def test_index(tmp_path, capsys) -> None:
    write_tar(tmp_path / "0.tar", [*sample(0), *sample(1), ("k.jpg", picture(1))])
    command = ["data", "index", str(tmp_path / "*.tar"), "--index-dir", str(tmp_path / "index"), "--processes=1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "2 samples in 1 tars" in out
    assert "1 members or tars are damaged" in out
    assert main(["data", "index", str(tmp_path / "x.tar")]) == 2
    assert "cannot be opened" in capsys.readouterr().err
