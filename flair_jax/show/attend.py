"""Maps of where FLAIR looks in a picture for sentences: drawn, and as arrays in a file."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import flair_jax
from flair_jax.checkpoint import read_description
from flair_jax.compiling import compiling
from flair_jax.data.image import open_rgb, preprocess
from flair_jax.errors import printable
from flair_jax.files import keep_inputs, replace_when_complete
from flair_jax.models.flair import Flair
from flair_jax.scoring.embedding import unread
from flair_jax.show.draw import contact_sheet, new_figure, overlay
from flair_jax.show.lettering import plain, write_below
from flair_jax.show.maps import Explanation, explain_picture
from flair_jax.weights.origin import check_pooling

Kind = Literal["attention", "patches"]
_HEADINGS = {
    "attention": "attention of the text-conditioned pooling, mean of the heads; yellow is the highest",
    "patches": "similarity of single patches with the sentence; yellow is the highest",
}
_ARRAYS = "maps.npz"
_MEANING = (
    "Logits: above 0 text-conditioned, the model holds a match for likelier than not; global ones have an order alone."
)


def attend(
    checkpoint: str | Path,
    image: Path,
    sentences: Sequence[str],
    output: Path,
    *,
    kind: Kind = "attention",
    per_head: bool,
    model: Flair | None = None,
) -> None:
    """Draws a map for each sentence into `output`, with a contact sheet and the arrays, and prints the scores.

    Args:
      checkpoint: the model's folder.
      image: a picture of any size; its centre square is seen.
      sentences: at least one.
      output: folder to write to; files of the same names are replaced, others left.
      kind: which maps are drawn; the arrays of both are written.
      per_head: also draw each head's attention.
      model: the checkpoint's model, if it has modules of its own; see `flair_jax.load`.

    Raises:
      FlairError: if something cannot be read, a sentence is empty, the model's pooling has no attention weights,
        matplotlib is missing, or the picture itself would be replaced.
    """
    new_figure(1, 1)  # a missing library is an error before the work
    check_pooling(
        checkpoint, read_description(checkpoint).get("source", {}), "its maps would show noise; train it first"
    )
    names = [f"{kind}_{number}_{_short(sentence)}" for number, sentence in enumerate(sentences, start=1)]
    of_heads = [path.name for name in names if per_head for path in output.glob(f"{name}_head_*.png")]
    for file in (*(f"{name}.png" for name in (kind, *names)), *of_heads, _ARRAYS):
        keep_inputs(output / file, [image])
    model, params = flair_jax.load(checkpoint, model=model)
    pixels = preprocess(image, model.config.vision)
    with compiling("the maps"):
        found = explain_picture(model, params, pixels, sentences)
    print("\n".join([report(sentences, found), _MEANING, *unread(sentences, model.config.text)]))
    output.mkdir(parents=True, exist_ok=True)
    maps = found.attention.heads.mean(axis=1) if kind == "attention" else found.patches
    for number, (name, sentence, shown) in enumerate(zip(names, sentences, maps, strict=True)):
        _save(output / f"{name}.png", overlay(pixels, shown), sentence)
        if per_head:
            heads = found.attention.heads[number]
            for head, weights in enumerate(heads, start=1):
                note = f"attention of head {head} of {len(heads)}"
                _save(output / f"{name}_head_{head}.png", overlay(pixels, weights), sentence, note)
    titles = _titles(sentences, found, kind)
    stream = io.BytesIO()
    contact_sheet(pixels, titles, list(maps), _HEADINGS[kind]).savefig(stream, dpi=90)
    with replace_when_complete(output / f"{kind}.png") as partial:
        # A palette halves the file, and the eye sees no difference if small areas keep their colours, others dithered.
        drawn = open_rgb(stream.getvalue())
        palette = drawn.quantize(256, method=Image.Quantize.MAXCOVERAGE)
        drawn.quantize(palette=palette).save(partial, optimize=True, pnginfo=_described(*sentences))
    write_arrays(output / _ARRAYS, pixels, sentences, found)
    shown = printable(output)
    print(f"\nwritten: {shown}/{kind}.png, a picture for each sentence, {shown}/{_ARRAYS}")


def report(sentences: Sequence[str], found: Explanation) -> str:
    """Scores in both modes, and the share of attention on the empty slot, as a table."""
    rows = [("text-conditioned", "global", "empty slot", "sentence")] + [
        (f"{logit:.2f}", f"{global_logit:.2f}", f"{100 * empty:.1f} %", printable(sentence))
        for sentence, logit, global_logit, empty in zip(
            sentences, found.logits, found.global_logits, found.attention.empty.mean(axis=1), strict=True
        )
    ]
    return "\n".join(f"{a:>16}  {b:>8}  {c:>15}  {d}" for a, b, c, d in rows)


def write_arrays(path: Path, pixels: np.ndarray, sentences: Sequence[str], found: Explanation) -> None:
    """Writes the arrays as they are, N sentences by H heads by G x G patches.

    Keys: `sentences` [N], `pixels` uint8 [S, S, 3], `attention` [N, H, G, G] and `empty` [N, H], which add up to 1 for
    each sentence and head, `patches` [N, G, G] (cosines, negative ones too), `logits` [N], `global_logits` [N].
    """
    with replace_when_complete(path) as partial:
        np.savez_compressed(
            partial,
            sentences=np.array(sentences),
            pixels=pixels,
            attention=found.attention.heads,
            empty=found.attention.empty,
            patches=found.patches,
            logits=found.logits,
            global_logits=found.global_logits,
        )


def _titles(sentences: Sequence[str], found: Explanation, kind: Kind) -> list[str]:
    """What stands above each map of the contact sheet."""
    return [
        (plain(sentence) or f"sentence {number}, written below its own picture")
        + (f"\nempty slot: {100 * empty:.1f} %" if kind == "attention" else "")
        for number, sentence, empty in zip(
            itertools.count(1), sentences, found.attention.empty.mean(axis=1), strict=False
        )
    ]


def _save(path: Path, pixels: np.ndarray, sentence: str, note: str = "") -> None:
    """A picture with its sentence below it, and in the file's own description."""
    with replace_when_complete(path) as partial:
        Image.fromarray(write_below(pixels, sentence, note)).save(partial, pnginfo=_described(sentence))


def _described(*sentences: str) -> PngInfo:
    """PNG's own description of a picture: the sentences, one a line; in UTF-8 where Latin-1 does not do."""
    described = PngInfo()
    described.add_text("Description", "\n".join(sentences))
    return described


def _short(sentence: str) -> str:
    """A sentence's words as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", sentence.lower()).strip("-")[:40].strip("-") or "sentence"
