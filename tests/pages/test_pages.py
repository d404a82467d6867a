"""What all pages have in common: they are valid, they escape, they load nothing, and their links can be moved."""

import io
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import urlopen

import html5lib
import pytest
from parsed import Page, parse
from PIL import Image

from flair_jax import pages
from flair_jax.errors import FlairError
from flair_jax.search.searcher import Hit

NAMES = (
    "a b.png",
    "c#d.png",
    "e%20f.png",
    "ü ñ.png",
    "q'uo\"te&amp;.png",
    "javascript:alert(1).png",
    "?x=y.png",
    "<b>.png",
    "\udcff.png",
)


def searched(*hits: tuple[str, str], sentence: str = "a dog") -> Page:
    """The page of a search; hits are paths and what they link to."""
    cards = [(Hit(path, 0.5, 0.25), path, path, "data:,", to) for path, to in hits]
    return parse(pages.render("search", "--html", sentence=sentence, cards=cards, indexed="3", root="", linked=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_link_leads_to_its_file_also_after_the_folder_was_moved(tmp_path, name) -> None:
    folder = tmp_path / "here, #1"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / name).touch()
    page = searched((name, pages.link(folder / "pictures" / name, folder / "pages" / "page.html")))
    (to,) = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    shutil.move(folder, tmp_path / "there")
    at = urlsplit(urljoin((tmp_path / "there" / "pages" / "page.html").as_uri(), to))
    assert (at.scheme, at.query, at.fragment) == ("file", "", "")
    assert Path(unquote(at.path, errors="surrogateescape")).samefile(tmp_path / "there" / "pictures" / name)


def test_a_link_does_not_depend_on_the_working_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pages.link("pictures/a.png", Path("page.html")) == "pictures/a.png"
    assert pages.link(tmp_path / "a.png", Path("out/page.html")) == "../a.png"
    assert pages.link("gs://bucket/a.png", Path("page.html")) == "", "a page has no address of it"


@pytest.mark.parametrize("text", ['<script>alert("x")</script>', "{{ 7 * 7 }}", "a &amp; b", "'\"><img src=x>"])
def test_what_users_wrote_stays_text(text) -> None:
    page = searched((text, "x.png"), sentence=text)
    assert page.text.count(text) == 3, "title, heading and caption"
    assert {tag for tag, _ in page.tags} & {"script", "b"} == {"b"}
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [f"hit 1: {text}"]


def test_what_cannot_be_printed_is_written_out() -> None:
    page = searched(("\x1b\udcff\u202e.png", "x.png"), sentence="one\ntwo\ud800")
    assert r"\x1b\udcff\u202e.png" in page.text
    assert page.text.count(r"one\ntwo\ud800") == 2


def test_every_page_suits_phones_dark_rooms_and_paper() -> None:
    page = searched(("a.png", "a.png"))
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert page.styles.count("@media screen and (prefers-color-scheme: dark)") == 1, "paper stays white"
    assert "@media print" in page.styles
    assert "display: table-header-group" in page.styles
    for attributes in (attributes for tag, attributes in page.tags if tag == "html"):
        assert attributes["lang"] == "en"


def test_a_table_names_its_rows_and_columns() -> None:
    groups = [("retrieval: coco", [["R@1", "50.0"]]), ("<i>", [["<b>", "1.0"]])]
    values = {
        "title": "x",
        "failures": [],
        "made": [],
        "columns": ["per cent"],
        "groups": groups,
        "sections": [],
        "terms": {},
    }
    page = parse(pages.render("evaluation", "--report", **values))
    scopes = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert scopes == ["col", "col", "rowgroup", "row", "rowgroup", "row"]
    assert [tag for tag, _ in page.tags].count("td") == 2
    assert "<b>" in page.text


def test_what_a_template_names_must_be_given() -> None:
    with pytest.raises(Exception, match="'sentence' is undefined"):
        pages.render("search", "--html", cards=[], indexed="3", root="", linked=False)


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path) -> None:
    pages.write(tmp_path / "page.html", "old")
    with pytest.raises(UnicodeEncodeError):
        pages.write(tmp_path / "page.html", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "old"


def test_without_jinja_there_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(FlairError, match="--html needs Jinja2: .*pip install .*, or leave --html out"):
        pages.render("search", "--html")


def test_the_parser_finds_what_is_wrong() -> None:
    good = "<!doctype html><html lang=en><title>x</title><p>x"
    parse(good)
    with pytest.raises(html5lib.html5parser.ParseError):
        parse(good + "</div>")
    for loaded in ('<img src="https://x/y.png" alt="">', '<script src="x.js"></script>', "<style>@import 'x'</style>"):
        with pytest.raises(AssertionError):
            parse(good + loaded)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_an_image_and_its_file_become_the_same_url(kind) -> None:
    image, stream = Image.radial_gradient("L").convert("RGB"), io.BytesIO()
    image.save(stream, kind, **({"quality": 90} if kind == "jpeg" else {}))
    url = pages.data_url(image, kind)
    assert url == pages.data_url(stream.getvalue(), kind)
    with urlopen(url) as opened:
        assert opened.headers["Content-Type"] == f"image/{kind}"
        assert opened.read() == stream.getvalue()
