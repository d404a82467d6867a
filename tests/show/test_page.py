"""What the page shows, without Gradio or a browser."""

import html
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shown import decoded, ground_of, laid_over, pictures, tags

import flair_jax
from flair_jax.errors import ImageError
from flair_jax.show.maps import explain_picture
from flair_jax.show.page import MAX_CHARACTERS, MAX_SENTENCES, MAX_TEXTS, MEAN, Page, read_upload

SENTENCES = ["the face of a tabby cat", "a <b> & ${1 + 1} {{x}}"]
WORDS = ["the", "face", "of", "a", "tabby", "cat", "a", "b", "1", "1", "x"]  # of the sentences, one after the other
PATCHES = "patches, one by one"


@dataclass
class Hit:
    path: str
    score: float
    global_score: float


@pytest.fixture
def cat(photographs) -> str:
    return str(photographs / "images" / "val2017" / "chelsea.png")


@pytest.mark.parametrize("head", [MEAN, "head 1", "head 8"])
def test_scores_and_maps_are_those_of_the_model(small_model, cat, head: str) -> None:
    page = Page(*small_model)
    assert page.heads == [MEAN, *(f"head {number}" for number in range(1, 9))]
    shown = page.compare(cat, "\n".join(["", *SENTENCES, " "]), head)
    pixels = flair_jax.preprocess(cat, 32)
    found = explain_picture(*small_model, pixels, [*SENTENCES, *WORDS])
    attention = found.attention
    if head == MEAN:
        weights, empty = attention.heads.mean(axis=1), attention.empty.mean(axis=1)
    else:
        weights, empty = attention.heads[:, int(head[-1]) - 1], attention.empty[:, int(head[-1]) - 1]

    scores = re.findall(r"<dd( class=\"best\")?>(.*?)</dd>", shown)
    for number in range(2):
        logit, global_logit, share = scores[3 * number : 3 * number + 3]
        assert logit == (mark(found.logits[:2], number), f"{found.logits[number]:.2f}")
        assert global_logit == (mark(found.global_logits[:2], number), f"{found.global_logits[number]:.2f}")
        assert share == ("", f"{100 * empty[number]:.1f} %")
    assert [each["alt"] for each in tags(shown, "img")] == [
        "the picture as the model sees it",
        *(f"{title} for the sentence: {text}" for text in SENTENCES for title in (f"attention, {head}", PATCHES)),
    ]
    texts = tags(shown, "i", "text")
    words = [texts[int(each["data-text"])] for each in tags(shown, "button", "word")]
    sentences = [texts[int(each["data-text"])] for each in tags(shown, "article", "sentence")]
    assert len(texts) == len(SENTENCES) + len(set(WORDS)), "each word once"
    assert re.findall(r"<button[^>]*>(.*?)</button>", shown) == WORDS
    for number, each in enumerate([*sentences, *words]):
        for kind, maps in (("attention", weights), ("patches", found.patches)):
            drawn = laid_over(ground_of(shown), decoded(each[f"data-{kind}"]))
            # JPEG and two ways of smoothing; measured 2.0 on average.
            assert np.abs(drawn - flair_jax.overlay(pixels, maps[number])).mean() < 3
    for number, each in enumerate(words, start=2):
        assert each["data-score"] == f"{found.logits[number]:.2f}"
        assert each["data-empty"] == f"{100 * empty[number]:.1f} %"
    for sentence, maps in zip(sentences, np.split(np.array(tags(shown, "img", "map")), 2), strict=True):
        assert [sentence["data-attention"], sentence["data-patches"]] == [each["src"] for each in maps]


def test_another_head_of_the_same_is_not_computed_again(small_model, cat, monkeypatch) -> None:
    page, computed = Page(*small_model), []

    def counted(*arguments):
        computed.append(arguments[-1])
        return explain_picture(*arguments)

    monkeypatch.setattr("flair_jax.show.page.explain_picture", counted)
    first = page.compare(cat, "a cat", MEAN)
    assert page.compare(cat, "a cat", "head 2") != first
    assert page.compare(cat, "a cat", MEAN) == first
    assert computed == [("a cat", "a", "cat")]
    page.compare(cat, "a dog", MEAN)
    assert page.compare(cat, "a cat", MEAN) == first
    assert len(computed) == 3


def mark(scores: np.ndarray, number: int) -> str:
    return ' class="best"' if scores[number] == scores.max() else ""


def test_what_has_no_maps_is_said(small_model, cat) -> None:
    page = Page(*small_model)
    many = " ".join(f"word{number}" for number in range(70))
    shown = page.compare(cat, many, MEAN)
    assert len(tags(shown, "button", "word")) == MAX_TEXTS - 1
    assert (
        "7 of 70 words, from \u201cword63\u201d on, have no maps: 64 sentences and words are computed at once" in shown
    )
    assert text_of(shown) == many
    shown = page.compare(cat, "a cat, a cat", MEAN)
    assert len(tags(shown, "button", "word")) == 4
    assert "have no maps" not in shown
    assert "of which the model reads" not in shown
    assert "sentence 2 has 80 tokens, of which the model reads the first 75" in page.compare(
        cat, "a\n" + " ," * 80, MEAN
    )


def text_of(shown: str) -> str:
    """The sentence, as a browser shows it."""
    inside = re.search(r'<div class="words"[^>]*>(.*?)</div>', shown, re.DOTALL)[1]
    return html.unescape(re.sub("<[^>]*>", "", inside))


@pytest.mark.parametrize(
    "sentence",
    [SENTENCES[1], "one", "...", "l'été \u2013 写真, \U0001f408!", "  two  spaces", "x" * 3999, "don't"],
)
def test_sentences_are_shown_as_they_are_written(small_model, cat, sentence: str) -> None:
    assert text_of(Page(*small_model).compare(cat, sentence, MEAN)) == sentence.strip()


def test_nothing_that_a_user_writes_is_markup_or_a_template(small_model, cat) -> None:
    shown = Page(*small_model).compare(cat, '<script>"${x}" {{y}}', MEAN)
    assert "<script>" not in shown
    assert "$" not in shown
    assert "{" not in shown
    assert "<span>&lt;</span>" in shown
    assert text_of(shown) == '<script>"${x}" {{y}}'
    assert tags(shown, "img")[1]["alt"].endswith('<script>"${x}" {{y}}')


def test_what_is_missing_is_asked_for(small_model, cat) -> None:
    page = Page(*small_model)
    assert "Choose a picture" in page.compare(None, "a cat", MEAN)
    shown = page.compare(cat, " \n", MEAN)
    assert "Write sentences" in shown
    assert list(pictures(shown)) == ["the picture as the model sees it"]


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
    captions = re.findall(r"<figcaption><b>(.*?)</b> (.*?)<br>(.*?)</figcaption>", shown)
    assert captions[0] == ("1.", "chelsea.png", "0.510 (global 0.250)")
    assert captions[1] == ("2.", "&lt;gone&gt;.png", "0.500 (global -0.125)")
    assert "gone&gt;.png: no such picture" in shown
    assert list(pictures(shown)) == [cat]
    assert "Write a sentence" in page.find(" ")
    assert "at most 4,000 characters" in page.find("a" * 4001)
    assert len(asked) == 1
    assert "give one with --index" in Page(*small_model).find("a cat")
