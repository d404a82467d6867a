"""What the demonstration's web page does and shows: uploads in, HTML out. `flair_jax.show.app` serves it."""

from __future__ import annotations

import base64
import functools
import html
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from flair_jax.data.image import open_picture, open_rgb, preprocess
from flair_jax.errors import FlairError, ImageError, printable
from flair_jax.models.config import VisionConfig
from flair_jax.models.flair import Flair, Params
from flair_jax.scoring.embedding import unread
from flair_jax.show.draw import overlay
from flair_jax.show.maps import explain_picture

MAX_BYTES, MAX_PIXELS = 20 << 20, 40_000_000
MAX_SENTENCES, MAX_CHARACTERS = 16, 4000
MEAN = "mean of the heads"
_SHOWN = {"shortest": "the centre square", "longest": "the whole, padded", "squash": "the whole, squashed"}

_TOP, _RERANK, _THUMBNAIL = 20, 200, 192

STYLE = """
.flair table, .flair tr {border-collapse: collapse; border: none !important; width: 100%}
.flair td, .flair th {padding: .5em .7em; border: none; border-bottom: 1px solid #8884; text-align: right}
.flair td:first-child, .flair th:first-child {text-align: left; min-width: 9em}
.flair td {vertical-align: middle} .flair th {vertical-align: bottom; font-weight: normal}
.flair img {width: 100%; max-width: 15em; border-radius: 6px; display: block; margin: auto}
.flair .map {width: 12em; min-width: 8em; text-align: center}
.flair .message {border-left: 4px solid #c33; padding: .5em 1em; background: #c331; overflow-wrap: anywhere}
.flair .found {display: grid; grid-template-columns: repeat(auto-fill, minmax(9em, 1fr)); gap: 1em}
.flair figure {margin: 0; max-width: 9em} .flair figcaption {font-size: .85em; overflow-wrap: anywhere}
"""


class SearchHit(Protocol):
    """A picture that a search found."""

    @property
    def path(self) -> str:
        """The picture's file."""

    @property
    def score(self) -> float:
        """Text-conditioned cosine."""

    @property
    def global_score(self) -> float:
        """Cosine of the global features."""


class SearchLike(Protocol):
    """What the search tab needs; `flair_jax.search.Searcher` is one."""

    def search(self, sentence: str, top: int = ..., rerank: int = ...) -> Sequence[SearchHit]:
        """The `top` pictures for a sentence, best first, `rerank` of them scored with the text-conditioned pooling."""


def _or_message(method: Callable[..., str]) -> Callable[..., str]:
    """The method's HTML, or the sentence of the FlairError that it raises."""

    @functools.wraps(method)
    def shown(*arguments: Any) -> str:
        try:
            content = method(*arguments)
        except FlairError as error:
            content = f'<p class="message" role="alert">{_escape(str(error))}</p>'
        return f'<div class="flair">{content}</div>'

    return shown


class Page:
    """A model behind the page; each method gives the HTML of a result, or of a message about bad input."""

    def __init__(self, model: Flair, params: Params, searcher: SearchLike | None = None) -> None:
        """A page for a checkpoint.

        Args:
          model: such as `flair_jax.load` gives.
          params: its parameters.
          searcher: for the search tab; without one there is none.
        """
        self._model, self._params, self.searcher = model, params, searcher
        self.heads = [MEAN, *(f"head {number}" for number in range(1, model.config.pooling_heads + 1))]

    @_or_message
    def compare(self, upload: str | None, text: str, head: str) -> str:
        """Scores and maps of an uploaded picture with sentences, one a line, for one of `heads`."""
        if upload is None:
            return "<p>Drop a picture and write sentences, one a line.</p>"
        remarks: list[str] = []
        pixels = read_upload(upload, self._model.config.vision, remarks)
        shown = _SHOWN[self._model.config.vision.resize_mode]
        caption = "<br>".join([f"{shown}, as the model sees it", *map(_escape, remarks)])
        seen = f"<figure>{_image(pixels, 'the picture')}<figcaption>{caption}</figcaption>"
        sentences = [line.strip() for line in (text or "").splitlines() if line.strip()]
        if not sentences:
            return f"{seen}<p>Write sentences, one a line.</p>"
        if len(sentences) > MAX_SENTENCES or len(text) > MAX_CHARACTERS:
            raise FlairError(f"at most {MAX_SENTENCES} sentences and {MAX_CHARACTERS:,} characters at once, please")
        found = explain_picture(self._model, self._params, pixels, sentences)
        heads = slice(None) if head == MEAN else [self.heads.index(head) - 1]
        attention, empty = (np.asarray(each)[:, heads].mean(axis=1) for each in found.attention)
        logits, global_logits, patches = map(np.asarray, (found.logits, found.global_logits, found.patches))
        heading = (seen, "text-<br>conditioned", "global", "nothing<br>matched")
        rows = "".join(
            f"<tr><td>{_escape(sentence)}</td>{_score(logits, n)}{_score(global_logits, n)}"
            f"<td>{100 * empty[n]:.1f} %</td>"
            f"<td class='map'>{_image(overlay(pixels, attention[n]), 'attention: ' + sentence)}</td>"
            f"<td class='map'>{_image(overlay(pixels, patches[n]), 'patches: ' + sentence)}</td></tr>"
            for n, sentence in enumerate(sentences)
        )
        return (
            f"<table><tr>{''.join(f'<th>{name}</th>' for name in heading)}"
            f"<th class='map'>attention, {head}</th><th class='map'>patches, one by one</th></tr>{rows}</table>"
            "<p>Scores are logits, the highest of each column in bold. Yellow is the highest value of its own map.</p>"
            + "".join(f"<p>{_escape(remark)}</p>" for remark in unread(sentences, self._model.config.text))
        )

    @_or_message
    def find(self, sentence: str) -> str:
        """The pictures of the index that fit a sentence best."""
        if self.searcher is None:
            raise FlairError("there is no index to search; give one with --index")
        if not (sentence or "").strip():
            return "<p>Write a sentence.</p>"
        if len(sentence) > MAX_CHARACTERS:
            raise FlairError(f"at most {MAX_CHARACTERS:,} characters, please")
        hits = self.searcher.search(sentence.strip(), top=_TOP, rerank=_RERANK)
        figures = "".join(
            f"<figure>{_thumbnail(hit.path)}<figcaption><b>{rank}.</b> {_escape(Path(hit.path).name)}<br>"
            f"{hit.score:.3f} (global {hit.global_score:.3f})</figcaption></figure>"
            for rank, hit in enumerate(hits, start=1)
        )
        return f"<div class='found'>{figures}</div>"


def read_upload(path: str, vision: int | VisionConfig, remarks: list[str]) -> np.ndarray:
    """An uploaded picture as `preprocess` gives it, [S, S, 3], within the page's bounds.

    Messages do not name the path.

    Raises:
      ImageError: if it is gone, too large, broken, or of a format that is not taken.
    """
    try:
        length = os.path.getsize(path)
        if length > MAX_BYTES:
            raise ImageError(f"the picture: {length / 2**20:.0f} MB; at most {MAX_BYTES >> 20} MB are taken")
        data = Path(path).read_bytes()
    except FileNotFoundError:  # removed to make room for newer ones
        raise ImageError("the picture is not kept any more; drop it again") from None
    return preprocess(open_rgb(open_picture(data, MAX_PIXELS), remarks), vision)


def _score(scores: np.ndarray, number: int) -> str:
    tag = "b" if scores[number] == scores.max() else "span"
    return f"<td><{tag}>{scores[number]:.2f}</{tag}></td>"


def _thumbnail(path: str) -> str:
    try:
        return _image(preprocess(path, _THUMBNAIL), path)
    except ImageError as error:  # gone or damaged since it was indexed
        return f'<p class="message">{_escape(str(error))}</p>'


def _image(pixels: np.ndarray, name: str) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{_escape(name)}" src="data:image/jpeg;base64,{data}">'


def _escape(text: str) -> str:
    """Escapes text for HTML and for Gradio's templates."""
    return html.escape(printable(text)).replace("{", "&#123;").replace("$", "&#36;")
