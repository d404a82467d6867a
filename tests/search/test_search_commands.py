"""`flair-jax index`, `search` and `embed`, as users call them."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flair_jax.cli import main
from flair_jax.search import SearchIndex
from flair_jax.search.manifest import Manifest


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_index_and_search(small_checkpoint, pictures, tmp_path, capsys) -> None:
    index, page = tmp_path / "index", tmp_path / "page.html"
    assert run("index", pictures, "--checkpoint", small_checkpoint, "--output", index, "--batch-size", 4) == 0
    printed = capsys.readouterr()
    assert f"{index}: 11 pictures, 11 embedded now, 0 dropped (gone or changed)" in printed.out
    assert "left out 3 that cannot be used:\n  " in printed.out
    assert "nowhere.webp: a link to nothing" in printed.out
    assert "pictures/s" in printed.err

    assert run("search", index, "a red kettle", "--top", 3, "--rerank", 5, "--html", page) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["text-conditioned", "global", "picture"]
    assert len(lines) == 4
    assert lines[3] == f"written: {page}"
    scores = []
    for line in lines[:3]:
        score, _, path = re.fullmatch(r" *(-?\d\.\d{4}) +(-?\d\.\d{4})  (.*)", line).groups()
        scores.append(float(score))
        assert Path(path).is_file()
        assert path in page.read_text()
    assert scores == sorted(scores, reverse=True)
    assert run("search", index, "a kettle" + " ," * 80) == 0
    assert "flair-jax: sentence 1 has 82 tokens, of which the model reads the first 75" in capsys.readouterr().err

    assert run("index", pictures, "--checkpoint", small_checkpoint, "--output", index, "--faiss") == 0
    assert "11 pictures, 0 embedded now" in capsys.readouterr().out
    assert run("search", index, "a red kettle", "--top", 3, "--rerank", 5) == 0
    assert capsys.readouterr().out.splitlines() == [head, *lines[:3]]


def test_search_of_an_unfinished_index(make_index, small_checkpoint, drawn, tmp_path, capsys, monkeypatch) -> None:
    index = tmp_path / "index"
    make_index(drawn, index)
    dataclasses.replace(Manifest.read(index), complete=False, faiss=True).write(index)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert run("search", index, "a dog") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + 11
    assert "is unfinished, with 11 pictures so far; `flair-jax index` resumes it" in printed.err
    assert "FAISS is not installed; comparing with every picture instead" in printed.err
    assert "Traceback" not in printed.err


def test_names_are_printed_escaped_and_kept_as_they_are(small_checkpoint, pictures, golden, tmp_path, capsys) -> None:
    name = "c\x1b]0;title\x07\nd.png"
    folder = Path(shutil.copytree(pictures / "a", tmp_path / os.fsdecode(b"\xff\x1b[2J")))
    shutil.move(folder / "00.png", folder / name)
    shutil.copy(folder / "03-broken.png", folder / "e\x1b.png")
    shutil.copy(golden / "images" / "gray_16bit.png", folder / "deep.png")
    index, page = tmp_path / "index", tmp_path / "page.html"
    assert run("index", folder, "--checkpoint", small_checkpoint, "--output", index) == 0
    printed = capsys.readouterr().out
    assert "e\\x1b.png: cannot be read as a picture" in printed
    assert "1 picture of more than 8 bits a channel, which the conversion to RGB cuts off at 255" in printed
    assert "deep.png: more than 8 bits a channel" in printed
    assert "passed over 1 by their names (1 hidden)" in printed
    assert run("search", index, "a dog", "--html", page) == 0
    printed += capsys.readouterr().out
    assert "c\\x1b]0;title\\x07\\nd.png" in printed
    assert "c\\x1b]0;title\\x07\\nd.png" in page.read_text(encoding="utf-8")
    printed.encode()
    assert not {"\x1b", "\x07"} & set(printed)
    assert any(SearchIndex.open(index).picture(row).endswith(f"/{name}") for row in range(7))
    assert run("search", index, "a d\udcffg") == 2
    assert 'the sentence "a d\\udcffg" is not in UTF-8; write it in that encoding' in capsys.readouterr().err
    for words in (("index", pictures), ("embed", pictures)):
        assert run(*words, "--checkpoint", small_checkpoint, "--output", folder / "x.npz") == 2
        assert "must be UTF-8, with the folders above it; choose another" in capsys.readouterr().err
    assert run("embed", folder, "--checkpoint", small_checkpoint, "--output", tmp_path / "x.npz") == 2
    assert "the file's name is not UTF-8; rename it" in capsys.readouterr().err


def test_wrong_input(make_index, small_model, small_checkpoint, drawn, tmp_path, capsys) -> None:
    from flair_jax import checkpoint

    index = tmp_path / "index"
    make_index(drawn, index)
    model, params = small_model
    other = tmp_path / "other"
    checkpoint.save(other, model, {**params, "logit_bias": params["logit_bias"] + 1}, {})
    moved = Path(shutil.copytree(index, tmp_path / "moved"))
    dataclasses.replace(Manifest.read(index), checkpoint="/gone").write(moved)
    capsys.readouterr()
    for words, message in (
        (("search", index, "a dog", "--checkpoint", other), "was made by another checkpoint than the one at hand"),
        (("search", tmp_path, "a dog"), "no search index here"),
        (("search", index, " "), "the sentence is empty"),
        (("search", index, "a dog", "--html", drawn / "b" / "03.png"), "03.png: name a file that ends in .html"),
        (("search", index, "a dog", "--checkpoint", tmp_path), "no checkpoint here"),
        (("index", tmp_path / "no", "--checkpoint", other, "--output", index), "No such file or directory"),
        (("index", drawn, "--checkpoint", other, "--output", index), "was made by another checkpoint"),
        (("embed", "--checkpoint", other, "--output", "x.npz"), "name pictures or folders, or else --texts FILE"),
        (("embed", drawn, "--texts", "y", "--checkpoint", other, "--output", "x.npz"), "or else --texts FILE"),
        (("embed", "--local", "--texts", "y", "--checkpoint", other, "--output", "x.npz"), "--local is for pictures"),
        (("embed", drawn, "--checkpoint", other, "--output", "x.csv"), "ends in .npz or .parquet"),
        (("search", moved, "a dog"), "its checkpoint, /gone, is gone; name it by --checkpoint DIR"),
    ):
        assert run(*words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error


def test_embed(small_checkpoint, pictures, tmp_path, capsys) -> None:
    common = ("--checkpoint", small_checkpoint, "--output")
    assert run("embed", pictures / "a", pictures / "b" / "01.png", *common, tmp_path / "x.npz", "--local") == 0
    assert f"{tmp_path / 'x.npz'}: 7 pictures\nleft out 1 that cannot be used" in capsys.readouterr().out
    assert np.load(tmp_path / "x.npz")["local"].shape == (7, 4, 16)
    one, other = pictures / "b" / "01.png", pictures / "a" / "00.png"
    assert run("embed", one, other, one, *common, tmp_path / "y.npz") == 0
    assert capsys.readouterr().out.endswith("y.npz: 2 pictures\n1 picture named again; each is written once\n")
    assert np.load(tmp_path / "y.npz")["paths"].tolist() == [str(one), str(other)]
    (tmp_path / "texts.txt").write_text("a dog\na cat\n")
    assert run("embed", "--texts", tmp_path / "texts.txt", *common, tmp_path / "t.parquet") == 0
    assert capsys.readouterr().out == f"{tmp_path / 't.parquet'}: 2 texts\n"
    (tmp_path / "texts.txt").write_text(f"a dog\n{'a ' * 98}\n")
    assert run("embed", "--texts", tmp_path / "texts.txt", *common, tmp_path / "long.npz") == 0
    assert "1 longer than the 77 tokens that the model reads: 23.0 % of all tokens are cut" in capsys.readouterr().out


def test_the_parsers_and_an_open_index_load_no_jax(make_index, drawn, tmp_path) -> None:
    make_index(drawn, tmp_path / "index")
    script = (
        "import sys, flair_jax.cli; flair_jax.cli._parser()\n"
        "from flair_jax.search import SearchIndex\n"
        "print(len(SearchIndex.open(sys.argv[1])), 'jax' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "index")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "11 False\n"


def test_public_names() -> None:
    import flair_jax.search

    assert {"Hit", "SearchIndex", "Searcher"} <= set(flair_jax.search.__all__)
    assert flair_jax.search.SearchIndex is SearchIndex
    with pytest.raises(AttributeError, match="no attribute 'find'"):
        flair_jax.search.find  # noqa: B018
