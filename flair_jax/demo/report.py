"""The demonstration's report: tables in the terminal, and a page with maps and tables that a phone shows well."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from flair_jax import pages
from flair_jax.data.sets.scenes import COLUMNS, ROWS, describe_background, describe_object
from flair_jax.data.sets.scenes_builder import LabelledScene
from flair_jax.data.tokenizer import tokenize_for
from flair_jax.demo import evaluation
from flair_jax.demo.chart import chart
from flair_jax.demo.evaluation import ATTRIBUTES, Looking, ScenesResult, words
from flair_jax.demo.recorded import Recorded
from flair_jax.models.flair import Flair, Params
from flair_jax.packages import import_jinja
from flair_jax.show.draw import new_figure, overlay
from flair_jax.show.maps import attention_maps

_EXAMPLES = 6
_SHOWN = 216  # pixels of a picture's side on the page
_NEEDS_JINJA = ("`flair-jax demo`", "demo")
_LEARNED = 60  # per cent of the questions about a kind of word, where 50 is chance


@dataclasses.dataclass(frozen=True)
class Example:
    """A picture, and where the model looks in it.

    Attributes:
      pixels: uint8 [S, S, 3].
      content: what the picture shows, in words.
      maps: sentence and attention [G, G], averaged over heads.
    """

    pixels: np.ndarray
    content: str
    maps: list[tuple[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What there is to report.

    Attributes:
      result: of a model, measured now.
      looking: of the same.
      recorded: what was measured where training was run to the end.
      shipped: whether the model is the one that is shipped.
      parameters: how many it has.
      losses: (step, loss) of the training here, as far as it went.
      examples: pictures with maps.
    """

    result: ScenesResult
    looking: Looking
    recorded: Recorded
    shipped: bool
    parameters: int
    losses: list[tuple[int, float]]
    examples: list[Example]


def examples(model: Flair, params: Params, scenes: Sequence[LabelledScene]) -> list[Example]:
    """The first scenes, with attention maps for two objects, one of them without its colour, and the background."""
    attention, found = jax.jit(functools.partial(attention_maps, model)), []
    for labelled in scenes[:_EXAMPLES]:
        one, other = labelled.scene.objects[:2]
        captions = [
            describe_object(one),
            describe_object(other, {"shape", "place"}),
            describe_background(labelled.scene),
        ]
        tokens = tokenize_for(model.config.text, captions)
        maps = np.asarray(attention(params, model.normalize(labelled.pixels[None]), tokens).heads[0].mean(axis=1))
        content = ", ".join(map(describe_object, labelled.scene.objects)) + f"; {captions[-1]}"
        found.append(Example(labelled.pixels, content, list(zip(captions, maps, strict=True))))
    return found


# The figures that are shown: title of a table, and its metrics.
_TABLES: dict[str, tuple[str, ...]] = {
    "Finding the right image, or the right caption": (evaluation.SENTENCE, *evaluation.LONG.values()),
    "Telling a true sentence from one with a word changed": tuple(map(words, ATTRIBUTES)),
    "Looking at the object that a sentence names": tuple(
        name + how
        for how in ("", evaluation.BY_SHAPE_AND_PLACE)
        for name in (evaluation.POINTING, evaluation.MOST, evaluation.IOU)
    ),
}
HEADING = ("per cent", "chance", "control", "FLAIR, global", "FLAIR, text-conditioned")


class Cell(NamedTuple):
    """A figure of a table.

    Attributes:
      text: the figure, or "-" where there is none.
      range: of several trainings, or "".
      best: whether no other of the row is higher, as they are written.
    """

    text: str
    range: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.range}".rstrip()


def tables(result: ScenesResult, recorded: Recorded) -> Iterator[tuple[str, list[tuple[str, list[Cell]]]]]:
    """Title and rows of each table, a row being a name and cells; `HEADING` is the heading of all.

    First the model's own figures, beside the mean of the controls, then means over seeds, with the range.
    """
    controls, models = recorded.controls, recorded.models
    for title, names in _TABLES.items():
        rows = []
        for name in names:
            control = _over_seeds(controls, name, global_first=True)
            values = (result.chance.get(name), result.by_global.get(name), result.text_conditioned[name])
            chance, by_global, conditioned = (_cell(value) for value in values)
            rows.append((name, _with_best([chance, Cell(control.text), by_global, conditioned])))
        yield title, rows
    rows = []
    for name in (name for names in _TABLES.values() for name in names):
        by_global = _over_seeds(models, name, global_first=True) if name in result.by_global else _cell(None)
        control, conditioned = (
            _over_seeds(results, name, global_first=first) for results, first in ((controls, True), (models, False))
        )
        rows.append((name, _with_best([_cell(result.chance.get(name)), control, by_global, conditioned])))
    yield f"Means of {len(models)} trainings with different seeds, and their ranges", rows


def _cell(value: float | None) -> Cell:
    return Cell("-" if value is None else f"{value:.1f}")


def _with_best(cells: list[Cell]) -> list[Cell]:
    highest = max(float(cell.text) for cell in cells if cell.text != "-")
    return [cell._replace(best=cell.text != "-" and float(cell.text) == highest) for cell in cells]


def _over_seeds(results: Sequence[ScenesResult], name: str, *, global_first: bool) -> Cell:
    """The mean of a metric, and its range; by global features if asked for, where they can answer."""
    values = [
        result.by_global[name] if global_first and name in result.by_global else result.text_conditioned[name]
        for result in results
    ]
    return Cell(f"{np.mean(values):.1f}", f"({min(values):.1f} to {max(values):.1f})")


def not_learned(result: ScenesResult, controls: Sequence[ScenesResult]) -> str:
    """A sentence about the kinds of words that the model did not learn, or learned little of.

    Args:
      result: of the model.
      controls: beside which it is seen.
    """
    values = {name: result.text_conditioned[words(name)] for name in ATTRIBUTES}
    missing = [f"{name} ({value:.0f} %)" for name, value in values.items() if value < _LEARNED]
    if missing:
        return (
            f"Not learned: {', '.join(missing)}, where 50 % is chance. What looks like understanding of these words in "
            "the maps is not."
        )
    weakest = min(values, key=lambda name: values[name])
    control = _over_seeds(controls, words(weakest), global_first=True)
    beside = "is better there, with" if float(control.text) > values[weakest] else "has"
    return (
        f"Learned least: {weakest}, {values[weakest]:.1f} % where 50 % is chance; the control {beside} "
        f"{control.text} % {control.range}."
    )


def looked(looking: Looking) -> str:
    """Sentences about what the maps show that the words beside them do not name."""
    less = looking.on_background < looking.background
    return (
        f"Sentences about the background put {looking.on_background:.0f} % of their attention on it, which covers "
        f"{looking.background:.0f} % of a picture{':' if less else '.'} "
        + ("their spots do not say where it is. " if less else "")
        + f"Named by shape and place, an object has {looking.named:.0f} % of the attention, and the white object "
        f"{looking.landmark:.0f} %, though it is not asked for; each further object has {looking.other:.0f} %."
    )


def repeated(report: Report) -> str:
    """A sentence that compares the training here with what was recorded, as far as it went."""
    step, loss = report.losses[-1]
    known = dict(report.recorded.losses)
    beside = f"; {known[step]:.4f} was recorded" if step in known else ""
    return f"Training here: loss {loss:.4f} after {step:,} of {report.recorded.losses[-1][0]:,} steps{beside}."


def _learned(report: Report) -> str:
    return not_learned(report.result, report.recorded.controls)


def facts(report: Report) -> list[str]:
    """Sentences about the model, the machine and the command."""
    recorded = report.recorded
    minutes, of_control = recorded.minutes
    return [
        f"The model has {report.parameters:,} parameters, nearly all of them CLIP's word table, of which the sentences "
        "need few rows. "
        + (
            f"It is shipped with the code: `{recorded.command}` trained it with seed 0, in {minutes:.0f} minutes on "
            f"{recorded.machine}; the control took {of_control:.0f}."
            if report.shipped
            else "It was trained here, from the beginning to the end, by this command."
        ),
        repeated(report),
        f"This was made by `flair-jax demo{'' if report.shipped else ' --full'}` on {os.cpu_count()} cores "
        f"({platform.machine()}), with JAX on {jax.default_backend()}.",
    ]


def print_tables(report: Report) -> None:
    """Prints all tables, as wide as they need to be, and what else there is to say."""
    for title, rows in tables(report.result, report.recorded):
        texts = [list(HEADING), *([name, *map(str, cells)] for name, cells in rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        print(f"\n{title}")
        for name, *cells in texts:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            print("  " + "  ".join([name.ljust(widths[0]), *padded]))
    print("", _learned(report), looked(report.looking), *facts(report), sep="\n")


def write_report(path: Path, report: Report) -> None:
    """Writes the page, with its pictures inside.

    Raises:
      FlairError: if matplotlib or Jinja2 is missing.
    """
    shown = [
        (
            _png(each.pixels),
            each.content,
            [(caption, _where_most(map_), _png(overlay(each.pixels, map_))) for caption, map_ in each.maps],
        )
        for each in report.examples
    ]
    text = pages.render(
        "demo",
        *_NEEDS_JINJA,
        scenes=report.result.scenes,
        heading=HEADING,
        tables=[
            (title, [[name, *cells] for name, cells in rows]) for title, rows in tables(report.result, report.recorded)
        ],
        examples=shown,
        looked=looked(report.looking),
        learned=_learned(report),
        facts=facts(report),
        chart=chart({"recorded": report.recorded.losses, "here": report.losses}),
        controls=len(report.recorded.controls),
    )
    pages.write(path, text)


def check_packages() -> None:
    """Raises FlairError if a package is missing that the page needs, before the work and not after it."""
    import_jinja(*_NEEDS_JINJA)
    new_figure(1, 1)


def _where_most(attention: np.ndarray) -> str:
    """The place of a picture, in the sentences' words, where a map [G, G] is highest."""
    row, column = np.unravel_index(int(attention.argmax()), attention.shape)
    size, names = attention.shape[0], (ROWS, COLUMNS)
    return " ".join(name[3 * int(at) // size] for name, at in zip(names, (row, column), strict=True))


def _png(pixels: np.ndarray) -> str:
    """A picture of 216 pixels a side, as a data URL."""
    picture = Image.fromarray(pixels)
    small = picture.width < _SHOWN
    side = (_SHOWN, _SHOWN * picture.height // picture.width)
    shown = picture.resize(side, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    return pages.data_url(shown, "png")
