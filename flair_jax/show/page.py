"""What the demonstration's web page does and shows: uploads in, HTML out. `flair_jax.show.app` serves it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flair_jax.data.image import open_picture, open_rgb, preprocess
from flair_jax.errors import FlairError, ImageError
from flair_jax.models.config import VisionConfig
from flair_jax.models.flair import Flair, Params
from flair_jax.scoring.embedding import unread
from flair_jax.show.cards import cards, texts
from flair_jax.show.draw import ground
from flair_jax.show.maps import Explanation, explain_picture
from flair_jax.show.render import jpeg, render
from flair_jax.show.words import distinct_words

MAX_BYTES, MAX_PIXELS = 20 << 20, 40_000_000
MAX_SENTENCES, MAX_CHARACTERS = 16, 4000
MAX_TEXTS = 64  # sentences and words
MEAN = "mean of the heads"
_SHOWN = {"shortest": "the centre square", "longest": "the whole, padded", "squash": "the whole, squashed"}

_TOP, _RERANK, _THUMBNAIL = 20, 200, 192


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
            return method(*arguments)
        except FlairError as error:
            return render("message", alert=True, message=str(error))

    return shown


class Page:
    """A model behind the page; each method gives the HTML of a result, or of a message about bad input."""

    def __init__(self, model: Flair, params: Params, searcher: SearchLike | None = None) -> None:
        """A page for a checkpoint.

        Args:
          model: such as `flair_jax.load` gives.
          params: its parameters.
          searcher: for the search tab; without one there is none.

        Raises:
          FlairError: if Jinja2 is missing.
        """
        render("message", alert=False, message="")  # what is missing is said now
        self._model, self._params, self.searcher = model, params, searcher
        self._last: tuple[object, Explanation] | None = None
        self.heads = [MEAN, *(f"head {number}" for number in range(1, model.config.pooling_heads + 1))]

    @_or_message
    def compare(self, upload: str | None, text: str, head: str) -> str:
        """Scores and maps of an uploaded picture with sentences, one a line, and their words, for one of `heads`."""
        if upload is None:
            return render(
                "message", alert=False, message="Choose a picture or an example, and write sentences, one a line."
            )
        remarks: list[str] = []
        pixels = read_upload(upload, self._model.config.vision, remarks)
        caption = f"{_SHOWN[self._model.config.vision.resize_mode]}, as the model sees it"
        seen = {"picture": jpeg(pixels), "caption": caption, "remarks": remarks}
        sentences = [line.strip() for line in (text or "").splitlines() if line.strip()]
        if not sentences:
            return render("result", **seen)
        if len(sentences) > MAX_SENTENCES or len(text) > MAX_CHARACTERS:
            raise FlairError(f"at most {MAX_SENTENCES} sentences and {MAX_CHARACTERS:,} characters at once, please")
        every_word = distinct_words(sentences)
        words = every_word[: MAX_TEXTS - len(sentences)]
        found = self._explained(pixels, (*sentences, *words))
        notes = unread(sentences, self._model.config.text)
        if left := every_word[len(words) :]:
            unshown = f"{len(left)} of {len(every_word)} words, from \u201c{left[0]}\u201d on, have no maps"
            notes.append(f"{unshown}: {MAX_TEXTS} sentences and words are computed at once")
        every_head = range(len(self.heads) - 1)
        heads = every_head if head == MEAN else [self.heads.index(head) - 1]
        return render(
            "result",
            **seen,
            ground=jpeg(ground(pixels)),
            head=head,
            notes=notes,
            texts=texts(found, heads),
            cards=cards(sentences, words, found),
        )

    def _explained(self, pixels: np.ndarray, texts: tuple[str, ...]) -> Explanation:
        """What `explain_picture` gives; the last one is kept, for other heads of it may be asked for."""
        asked, last = (pixels.tobytes(), texts), self._last
        if last is None or last[0] != asked:
            last = self._last = asked, explain_picture(self._model, self._params, pixels, texts)
        return last[1]

    @_or_message
    def find(self, sentence: str) -> str:
        """The pictures of the index that fit a sentence best."""
        if self.searcher is None:
            raise FlairError("there is no index to search; give one with --index")
        if not (sentence or "").strip():
            return render("message", alert=False, message="Write a sentence.")
        if len(sentence) > MAX_CHARACTERS:
            raise FlairError(f"at most {MAX_CHARACTERS:,} characters, please")
        hits = self.searcher.search(sentence.strip(), top=_TOP, rerank=_RERANK)
        return render("found", found=[_found(hit) for hit in hits])


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


def _found(hit: SearchHit) -> dict[str, object]:
    """What the template shows of a picture that was found."""
    picture, message = "", ""
    try:
        picture = jpeg(preprocess(hit.path, _THUMBNAIL))
    except ImageError as error:  # gone or damaged since it was indexed
        message = str(error)
    return {"hit": hit, "name": Path(hit.path).name, "picture": picture, "message": message}
