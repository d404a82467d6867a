"""The page of thumbnails: whole in itself, and nothing in a name becomes markup."""

import base64
import io
import re
import sys
from pathlib import Path

import pytest
from made_pictures import draw
from parsed import parse
from PIL import Image

from flair_jax.errors import FlairError
from flair_jax.search.page import write_page
from flair_jax.search.searcher import Hit


def test_page(tmp_path) -> None:
    names = ["plain.png", "<img src=x onerror=alert(1)>&amp;\"'.png", "{{ 7 * 7 }}.png"]
    for number, name in enumerate(names):
        draw(tmp_path / name, number)
    hits = [Hit(str(tmp_path / name), 0.5 - 0.1 * n, 0.25) for n, name in enumerate([*names, "gone.png"])]
    sentence = 'a <script>alert("x")</script> & a dog'
    write_page(tmp_path / "page.html", sentence, hits, 1234)

    page = parse((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert sum(tag == "a" for tag, _ in page.tags) == 3, "nor does it lead anywhere"
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3, "the one that is gone has none"
    for attributes in pictures:
        assert set(attributes) == {"src", "alt"}
        data = re.fullmatch(r"data:image/jpeg;base64,(.*)", attributes["src"])
        assert Image.open(io.BytesIO(base64.b64decode(data[1]))).size == (40, 36)
    for hit in hits:
        assert hit.path in page.text
    assert page.text.count(sentence) == 2, "title and heading"
    assert "1. 0.5000 (0.2500)" in page.text
    assert "4 of 1,234 pictures" in page.text
    assert "cannot be read any more" in page.text


def test_pictures_are_named_within_their_folder_and_broken_at_separators(tmp_path) -> None:
    hits = [Hit(f"{tmp_path}/in/a/b.png", 0.1, 0.1), Hit(f"{tmp_path}/inner/c.png", 0.1, 0.1)]
    write_page(tmp_path / "page.html", "x", hits, 2, str(tmp_path / "in"))
    text = (tmp_path / "page.html").read_text()
    assert f'2 of 2 pictures in <span title="{tmp_path}/in">' in " ".join(text.split())
    assert f'<span title="{hits[0].path}">a/<wbr>b.png</span>' in text
    assert f'<span title="{hits[1].path}">{hits[1].path.replace("/", "/<wbr>")}</span>' in text, "is in another"


def test_what_cannot_be_written_is_escaped(tmp_path) -> None:
    write_page(tmp_path / "page.html", "a\ud800", [Hit("/x\udcff/\x1b.png", 0.1, 0.1)], 1)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>a\\ud800</h1>" in text
    assert "/<wbr>x\\udcff/<wbr>\\x1b.png" in text


def test_thumbnails_are_small(tmp_path) -> None:
    Image.effect_noise((1500, 1000), 60).save(tmp_path / "large.png")
    write_page(tmp_path / "page.html", "noise", [Hit(str(tmp_path / "large.png"), 0.1, 0.1)], 1)
    assert (tmp_path / "page.html").stat().st_size < 40_000


def test_messages(tmp_path, monkeypatch) -> None:
    with pytest.raises(FlairError, match="--html .*: is a folder; name a file"):
        write_page(tmp_path, "x", [], 0)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(FlairError, match='--html needs Jinja2: .*pip install.* "jinja2>=3.1"'):
        write_page(Path(tmp_path / "page.html"), "x", [], 0)
