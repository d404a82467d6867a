"""The demonstration's report: tables in the terminal, and a page with curves, tables and attention maps."""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flair_jax.data.sets.scenes import describe_object
from flair_jax.data.sets.scenes_builder import LabelledScene
from flair_jax.data.tokenizer import tokenize_for
from flair_jax.demo.evaluation import ScenesResult
from flair_jax.files import replace_when_complete
from flair_jax.models.flair import Flair, Params
from flair_jax.show.draw import new_figure, overlay
from flair_jax.show.maps import attention_maps

_EXAMPLES = 6


@dataclasses.dataclass(frozen=True)
class Control:
    """The model trained with the multi-positive loss alone.

    Attributes:
      by: how its figures were obtained.
      result: the figures.
    """

    by: str
    result: ScenesResult


@dataclasses.dataclass(frozen=True)
class Example:
    """A picture, and where the model looks for two of its objects.

    Attributes:
      pixels: uint8 [S, S, 3].
      maps: caption and attention [G, G], averaged over heads.
    """

    pixels: np.ndarray
    maps: list[tuple[str, np.ndarray]]


def examples(model: Flair, params: Params, scenes: Sequence[LabelledScene]) -> list[Example]:
    """The first scenes whose two or more objects all differ in colour, with attention maps for two objects each."""
    chosen = [each for each in scenes if len({item.colour for item in each.scene.objects}) == len(each.scene.objects)]
    attention, found = jax.jit(functools.partial(attention_maps, model)), []
    for labelled in chosen[:_EXAMPLES]:
        captions = [describe_object(item) for item in labelled.scene.objects[:2]]
        tokens = tokenize_for(model.config.text, captions)
        maps = np.asarray(attention(params, model.normalize(labelled.pixels[None]), tokens).heads[0].mean(axis=1))
        found.append(Example(labelled.pixels, list(zip(captions, maps, strict=True))))
    return found


def tables(result: ScenesResult, control: Control) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, heading and rows of each table."""
    chance, other = result.chance, control.result
    rows = []
    for direction, name in (("text_to_image", "text to image"), ("image_to_text", "image to text")):
        for k in ("R@1", "R@5"):
            key = f"{direction}_{k}"
            rows.append(
                [f"{name}, {k}", f"{chance[k]:.1f}"]
                + [f"{100 * result.retrieval[mode][key]:.1f}" for mode in ("text-conditioned", "top-k", "global")]
                + [f"{100 * other.retrieval['global'][key]:.1f}"]
            )
    heading = ["per cent", "chance", "FLAIR, text-conditioned", "FLAIR, top-k", "FLAIR, global", "MPS alone, global"]
    yield "Retrieval by a long caption", heading, rows

    yield (
        "Images that fit a sentence about one object (mean average precision)",
        ["per cent", "chance", "FLAIR, text-conditioned", "FLAIR, global", "MPS alone, global"],
        [
            ["mAP", f"{chance['sub-captions']:.1f}"]
            + [f"{result.sub_captions[mode]:.1f}" for mode in ("text-conditioned", "global")]
            + [f"{other.sub_captions['global']:.1f}"]
        ],
    )
    yield (
        "Where attention falls, for the full description of one object",
        ["per cent", "chance", "FLAIR", "MPS alone (its pooling is untrained)"],
        [
            [name, f"{chance[name]:.1f}" if name in chance else "-", f"{value:.1f}", f"{other.localization[name]:.1f}"]
            for name, value in result.localization.items()
        ],
    )
    yield (
        "How often a true sentence beats the same with one word changed",
        ["per cent", "chance", "FLAIR, text-conditioned", "MPS alone, global"],
        [
            [name, f"{chance['words']:.0f}", f"{value:.1f}", f"{other.words[name]:.1f}"]
            for name, value in result.words.items()
        ],
    )


def not_learned(result: ScenesResult, threshold: float = 60) -> str:
    """A sentence about the words that the model did not learn."""
    missing = [name for name, value in result.words.items() if value < threshold]
    if not missing:
        return f"Every kind of word beats its replacement in more than {threshold:.0f} % of the cases."
    return (
        f"Not learned in this short training: {', '.join(missing)} (below {threshold:.0f} %, where 50 % is chance). "
        "What looks like understanding of these words in the images is not."
    )


def print_tables(result: ScenesResult, control: Control) -> None:
    """Prints all tables, as wide as they need to be."""
    for title, heading, rows in tables(result, control):
        widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
        print(f"\n{title}")
        for row in [heading, *rows]:
            cells = [
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  " + "  ".join(cells))
    print(f"\n{not_learned(result)}\nMPS alone: {control.by}.")


def write_report(
    path: Path, result: ScenesResult, control: Control, metrics: list[dict[str, Any]], shown: Sequence[Example]
) -> None:
    """Writes the page, with its pictures inside.

    Raises:
      FlairError: if matplotlib is missing.
    """
    body = ["<h1>FLAIR on scenes</h1>", "<h2>Training</h2>", _picture(_curves(new_figure(10, 3), metrics))]
    body += ["<h2>Attention</h2>", "<p>Mean over the heads of the pooling, for two sentences an image.</p>"]
    body.append(_picture(_maps(new_figure(12, 2.4 * (len(shown) // 2 + len(shown) % 2)), shown)))
    body.append(f"<h2>On {result.scenes} held-out scenes</h2>")
    for title, heading, rows in tables(result, control):
        body.append(f"<h3>{html.escape(title)}</h3><table>")
        for tag, cells in [("th", heading), *(("td", row) for row in rows)]:
            body.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>")
        body.append("</table>")
    body.append(f"<p><b>{html.escape(not_learned(result))}</b></p><p>MPS alone: {html.escape(control.by)}.</p>")
    style = (
        "body{font:16px sans-serif;margin:2em auto;max-width:70em} table{border-collapse:collapse} "
        "td,th{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:right} "
        "td:first-child,th:first-child{text-align:left} img{max-width:100%}"
    )
    with replace_when_complete(path) as partial:
        partial.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>FLAIR on scenes</title>'
            f"<style>{style}</style><body>{''.join(body)}</body></html>\n",
            encoding="utf-8",
        )


def _curves(figure: Any, metrics: list[dict[str, Any]]) -> Any:
    steps = [line["step"] for line in metrics]
    for axes, names in zip(
        figure.subplots(1, 3), (("loss", "tcs", "mps"), ("grad_norm",), ("logit_scale",)), strict=True
    ):
        for name in names:
            axes.plot(steps, [line.get(name, np.nan) for line in metrics], label=name)
        axes.set_xlabel("step")
        axes.legend()
    figure.tight_layout()
    return figure


def _maps(figure: Any, shown: Sequence[Example]) -> Any:
    grid = figure.subplots(max(1, (len(shown) + 1) // 2), 6, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for number, example in enumerate(shown):
        row, left = divmod(number, 2)
        grid[row][3 * left].imshow(example.pixels)
        for column, (caption, attention) in enumerate(example.maps, start=1):
            axes = grid[row][3 * left + column]
            axes.imshow(overlay(example.pixels, attention))
            axes.set_title(caption.replace(" in the ", "\nin the "), fontsize=7)
    figure.tight_layout()
    return figure


def _picture(figure: Any) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return f'<img src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
