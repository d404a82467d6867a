"""The tasks of `flair-jax evaluate`: one row each, with the options that only some of them take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from flair_jax.commands.parser import new_folder, positive
from flair_jax.errors import FlairError

if TYPE_CHECKING:
    from flair_jax.evaluate.tasks import Job
    from flair_jax.parallel.processes import Processes


class Row(NamedTuple):
    """A task.

    Attributes:
      name: for `--task`.
      build: (options, processes that share the work) -> the task with its settings.
      takes: which options it takes, of those that not every task takes; see `add_options`.
      sets: () -> for each of its sets the name, the file that marks its folder, and where to get it.
      remark: a sentence about its sets, for the help.
    """

    name: str
    build: Callable[[argparse.Namespace, Processes], Job]
    takes: tuple[str, ...]
    sets: Callable[[], Iterator[tuple[str, str, str]]]
    remark: str = ""


def _retrieval(options: argparse.Namespace, processes: Processes) -> Job:
    from flair_jax.evaluate.retrieval import RetrievalSettings
    from flair_jax.evaluate.retrieval_task import task
    from flair_jax.evaluate.tasks import Job

    mode, top_k = options.mode or "text-conditioned", options.top_k or 128
    if options.top_k and mode != "top-k" and processes.index == 0:
        print(f"--top-k {options.top_k} is not used: it is for --mode top-k, and this is {mode}")
    return Job(task(processes), RetrievalSettings(mode, top_k, options.batch_size, options.skip_broken))


def _retrieval_sets() -> Iterator[tuple[str, str, str]]:
    from flair_jax.data.sets.retrieval import RETRIEVAL_SETS

    for entry in RETRIEVAL_SETS.values():
        yield entry.name, entry.marker, entry.source


def _classify(options: argparse.Namespace, _: Processes) -> Job:
    from flair_jax.data.sets.prompts import read_templates
    from flair_jax.evaluate.classification import CLASSIFICATION_MODES, ClassificationSettings
    from flair_jax.evaluate.classification_task import task
    from flair_jax.evaluate.tasks import Job

    mode = options.mode or "text-conditioned"
    if mode not in CLASSIFICATION_MODES:
        raise FlairError(f"--mode {mode} is not for --task classify; choose {' or '.join(CLASSIFICATION_MODES)}")
    templates = read_templates(options.templates) if options.templates is not None else None
    settings = ClassificationSettings(mode, templates, options.class_names, options.batch_size, options.skip_broken)
    return Job(task(options.class_names), settings)


def _classification_sets() -> Iterator[tuple[str, str, str]]:
    from flair_jax.data.sets.classification import CLASSIFICATION_SETS

    for entry in CLASSIFICATION_SETS.values():
        yield entry.name, " or ".join(mark for mark, _ in entry.layouts) or "CLASS/...", entry.source


def _segment(options: argparse.Namespace, _: Processes) -> Job:
    from flair_jax.evaluate.segmentation import SegmentationSettings
    from flair_jax.evaluate.segmentation_task import task
    from flair_jax.evaluate.tasks import Job

    settings = SegmentationSettings(
        options.segment_by or "patches",
        options.short_side,
        options.background_threshold,
        options.batch_size,
        options.skip_broken,
    )
    if options.save and options.dataset == "all":
        raise FlairError("--save: takes the pictures of one set; name it by --dataset")
    return Job(task(options.templates, options.class_names, options.save), settings)


def _segmentation_sets() -> Iterator[tuple[str, str, str]]:
    from flair_jax.data.sets.segmentation import SEGMENTATION_SETS

    for entry in SEGMENTATION_SETS.values():
        yield entry.name, f"{entry.folder}/{entry.marker}", entry.source


def _point(options: argparse.Namespace, _: Processes) -> Job:
    from flair_jax.evaluate.pointing import PointSettings
    from flair_jax.evaluate.pointing_task import task
    from flair_jax.evaluate.tasks import Job

    return Job(task(), PointSettings(options.batch_size, options.skip_broken))


def _grounding_sets() -> Iterator[tuple[str, str, str]]:
    from flair_jax.data.sets.grounding import GROUNDING_SETS

    for entry in GROUNDING_SETS.values():
        yield entry.name, entry.layouts[0][0], entry.source


def _choose(options: argparse.Namespace, _: Processes) -> Job:
    from flair_jax.evaluate.choosing import ChooseSettings
    from flair_jax.evaluate.choosing_task import task
    from flair_jax.evaluate.tasks import Job

    return Job(task(), ChooseSettings(options.mode, options.batch_size, options.skip_broken))


def _choice_sets() -> Iterator[tuple[str, str, str]]:
    from flair_jax.data.sets.choice import CHOICE_SETS

    for entry in CHOICE_SETS.values():
        yield entry.name, entry.markers[-1], entry.source


ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        Row(
            "retrieval",
            _retrieval,
            ("mode", "top_k", "distributed"),
            _retrieval_sets,
            '`folder` is any folder with one JSON-lines file of {"image": PATH, "caption": TEXT} or {"image": PATH, '
            '"captions": [TEXT, ...]}, paths relative to the folder.',
        ),
        Row(
            "classify",
            _classify,
            ("mode", "templates", "class_names"),
            _classification_sets,
            "`folder` is any folder with a folder of pictures for each class.",
        ),
        Row(
            "segment",
            _segment,
            ("templates", "class_names", "segment_by", "short_side", "background_threshold", "save"),
            _segmentation_sets,
            "--data-dir is the set's folder or one above it.",
        ),
        Row("point", _point, (), _grounding_sets, "docs/pointing.md has other files of RefCOCO."),
        Row("choose", _choose, ("mode",), _choice_sets, "docs/choosing.md has other files."),
    )
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that some tasks do not take; they have no default, so that it shows whether they were given."""
    from flair_jax.data.sets.prompts import template_lists

    parser.add_argument(
        "--mode",
        choices=("text-conditioned", "top-k", "global"),
        help="text-conditioned: all pairs, as published (default); top-k: only the texts that score best globally for "
        "each image are scored so, the others rank below; global: without pooling, as CLIP does (for choose, all ways "
        "that there are if not given)",
    )
    parser.add_argument(
        "--top-k", metavar="K", type=positive, help="texts per image in mode top-k of retrieval (default 128)"
    )
    parser.add_argument(
        "--templates",
        metavar="LIST",
        help="sentences for --task classify and segment: a file with one a line, {} being the class's name, a single "
        f"one, or a list by its name ({', '.join(template_lists())}); the set's own if not given",
    )
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="names for --task classify (JSON object of folder and name, or JSON list or lines in the folders' order) "
        "or words for --task segment (a line a class, alternatives by commas)",
    )
    _add_segmentation(parser)


def _add_segmentation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("only with --task segment")
    group.add_argument(
        "--segment-by",
        choices=("patches", "pooled-patches"),
        help="patches: cosine of each patch's local token with the classes' words (default); pooled-patches: each "
        "local token goes through the text-conditioned pooling alone first",
    )
    group.add_argument(
        "--short-side",
        metavar="PIXELS",
        type=positive,
        help="shorter side of the pictures before they are cut into windows, such as 336, 448 or 560 (default: 336, "
        "coco-stuff 448, cityscapes 560, scenes 72; never less than a window)",
    )
    group.add_argument(
        "--background-threshold",
        metavar="COSINE",
        type=_cosine,
        help="background is where no other class has a higher cosine than this, not where its word has the highest",
    )
    group.add_argument(
        "--save",
        metavar="DIR",
        type=new_folder,
        help="write original, truth and prediction of every picture there, with a legend, and a page that lists them; "
        "made if missing",
    )


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from -1 to 1")
    return value


# Options whose meaning or place differs from set to set.
_OF_ONE_SET = ("class_names", "save")


def choose_tasks(options: argparse.Namespace) -> list[Row]:
    """The task that is named, retrieval if none is; with `--dataset all` and none named, all that take the options.

    Those that do not are named on stdout.

    Raises:
      FlairError: if an option was given that the task does not take, or that cannot be meant for all.
    """
    given = [name for name in _some_take() if getattr(options, name) is not None]
    if options.task or options.dataset != "all":
        row = ROWS[options.task or "retrieval"]
        for name in given:
            if name not in row.takes:
                takers = ", ".join(each.name for each in ROWS.values() if name in each.takes)
                raise FlairError(f"{_option(name)}: is for --task {takers} only, not for {row.name}")
        return [row]
    for name in given:
        if name in _OF_ONE_SET:
            raise FlairError(f"{_option(name)}: differs from set to set; name one by --dataset and its --task")
    # These say how a whole run is made, unlike options that only some of its tasks know.
    needed = [name for name in given if name in ("distributed", "top_k")]
    needed += ["top_k"] if options.mode == "top-k" else []
    rows = [row for row in ROWS.values() if set(needed) <= set(row.takes)]
    if without := [row.name for row in ROWS.values() if row not in rows]:
        print(f"left out: {', '.join(without)}, which do not take {' and '.join(map(_option, dict.fromkeys(needed)))}")
    return rows


def _some_take() -> list[str]:
    return list(dict.fromkeys(name for row in ROWS.values() for name in row.takes))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
