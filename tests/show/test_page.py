"""What the page shows, without Gradio or a browser."""

import base64
import html
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flair_jax
from flair_jax.errors import ImageError
from flair_jax.show.maps import explain_picture
from flair_jax.show.page import MAX_CHARACTERS, MAX_SENTENCES, MEAN, Page, read_upload

SENTENCES = ["the face of a tabby cat", "a <b> & ${1 + 1} {{x}}"]


@dataclass
class Hit:
    path: str
    score: float
    global_score: float


@pytest.fixture
def cat(photographs) -> str:
    return str(photographs / "images" / "val2017" / "chelsea.png")


def pictures(shown: str) -> dict[str, np.ndarray]:
    """What the page's images show, by name."""
    found = re.findall(r'<img alt="([^"]*)" src="data:image/jpeg;base64,([^"]*)">', shown)
    return {html.unescape(name): np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for name, data in found}


@pytest.mark.parametrize("head", [MEAN, "head 1", "head 8"])
def test_scores_and_maps_are_those_of_the_model(small_model, cat, head: str) -> None:
    page = Page(*small_model)
    assert page.heads == [MEAN, *(f"head {number}" for number in range(1, 9))]
    shown = page.compare(cat, "\n".join(["", *SENTENCES, " "]), head)
    pixels = flair_jax.preprocess(cat, 32)
    found = explain_picture(*small_model, pixels, SENTENCES)
    attention = found.attention
    if head == MEAN:
        weights, empty = attention.heads.mean(axis=1), attention.empty.mean(axis=1)
    else:
        weights, empty = attention.heads[:, int(head[-1]) - 1], attention.empty[:, int(head[-1]) - 1]

    def numbers(column: np.ndarray) -> list[str]:
        return [f"{value:.2f}" for value in column]

    rows = re.findall(r"<tr><td>(.*?)</td><td><\w+>(.*?)</\w+></td><td><\w+>(.*?)</\w+></td><td>(.*?) %</td>", shown)
    assert [html.unescape(row[0]) for row in rows] == SENTENCES
    assert [row[1] for row in rows] == numbers(found.logits)
    assert [row[2] for row in rows] == numbers(found.global_logits)
    assert [row[3] for row in rows] == [f"{100 * value:.1f}" for value in empty]
    assert "of which the model reads" not in shown
    assert "sentence 2 has 80 tokens, of which the model reads the first 75" in page.compare(
        cat, "a\n" + " ," * 80, head
    )
    assert shown.count("<b>") == 2, "the highest of both columns"
    drawn = pictures(shown)
    assert len(drawn) == 5
    for number, sentence in enumerate(SENTENCES):
        for kind, maps in (("attention", weights), ("patches", found.patches)):
            expected = flair_jax.overlay(pixels, maps[number]).astype(int)
            # JPEG; measured 0.8 on average.
            assert np.abs(drawn[f"{kind}: {sentence}"] - expected).mean() < 3


def test_nothing_that_a_user_writes_is_markup_or_a_template(small_model, cat) -> None:
    shown = Page(*small_model).compare(cat, '<script>"${x}" {{y}}', MEAN)
    assert "<script>" not in shown
    assert "$" not in shown
    assert "{" not in shown
    assert "&lt;script&gt;&quot;&#36;&#123;x}&quot; &#123;&#123;y}}" in shown


def test_what_is_missing_is_asked_for(small_model, cat) -> None:
    page = Page(*small_model)
    assert "Drop a picture" in page.compare(None, "a cat", MEAN)
    shown = page.compare(cat, " \n", MEAN)
    assert "Write sentences" in shown
    assert list(pictures(shown)) == ["the picture"]


def test_too_many_sentences_are_refused(small_model, cat) -> None:
    page = Page(*small_model)
    message = "at most 16 sentences and 4,000 characters at once"
    assert message in page.compare(cat, "a\n" * (MAX_SENTENCES + 1), MEAN)
    assert message in page.compare(cat, "a" * (MAX_CHARACTERS + 1), MEAN)


def test_bad_uploads_say_what_is_wrong_and_not_where_they_lie(small_model, cat, tmp_path, monkeypatch) -> None:
    page = Page(*small_model)

    def message(data: bytes) -> str:
        (tmp_path / "upload.png").write_bytes(data)
        shown = page.compare(str(tmp_path / "upload.png"), "a cat", MEAN)
        assert str(tmp_path) not in shown
        assert "<img" not in shown
        return re.search('<p class="message" role="alert">(.*)</p>', shown)[1]

    assert "the format is none of JPEG, PNG, WebP, GIF, BMP, TIFF, PPM" in message(b"not a picture")
    assert "the file is empty" in message(b"")
    assert "the format is none of" in message(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "cannot be read as a picture" in message(Path(cat).read_bytes()[:9000])
    large = io.BytesIO()
    Image.new("1", (7000, 7000)).save(large, "PNG")
    assert "a picture of 7000x7000 pixels, over the limit of 40,000,000; make it smaller" in message(large.getvalue())
    monkeypatch.setattr("flair_jax.show.page.MAX_BYTES", 1 << 20)
    assert "the picture: 2 MB; at most 1 MB are taken" in message(bytes(2 << 20))


def test_an_upload_becomes_what_evaluation_sees(cat) -> None:
    np.testing.assert_array_equal(read_upload(cat, 32, []), flair_jax.preprocess(cat, 32))
    with pytest.raises(ImageError):
        read_upload(__file__, 32, [])
    with pytest.raises(ImageError, match="the picture is not kept any more; drop it again"):
        read_upload(f"{cat}.gone", 32, [])


def test_a_picture_of_more_than_8_bits_is_shown_with_a_remark(small_model, golden) -> None:
    shown = Page(*small_model).compare(str(golden / "images" / "gray_16bit.png"), "a cat", MEAN)
    assert "more than 8 bits a channel" in shown


def test_search_shows_what_is_found_in_its_order(small_model, cat, tmp_path) -> None:
    asked = []

    class StandIn:
        def search(self, sentence: str, top: int = 20, rerank: int = 200) -> list[Hit]:
            asked.append((sentence, top, rerank))
            return [Hit(cat, 0.51, 0.25), Hit(str(tmp_path / "<gone>.png"), 0.5, -0.125)]

    page = Page(*small_model, StandIn())
    shown = page.find("  a cat ")
    assert asked == [("a cat", 20, 200)]
    assert re.search(r"<b>1.</b> chelsea.png<br>0.510 \(global 0.250\).*<b>2.</b> &lt;gone&gt;.png<br>0.500", shown)
    assert "gone&gt;.png: no such picture" in shown
    assert list(pictures(shown)) == [cat]
    assert "Write a sentence" in page.find(" ")
    assert "at most 4,000 characters" in page.find("a" * 4001)
    assert len(asked) == 1
    assert "give one with --index" in Page(*small_model).find("a cat")
