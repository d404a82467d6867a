"""`flair-jax evaluate`."""

from __future__ import annotations

import argparse
import math

from flair_jax.commands.own_model import own_model
from flair_jax.commands.parser import Commands, add_checkpoint, add_command, add_compute, new_file, path, positive
from flair_jax.errors import FlairError
from flair_jax.parallel.peers import ending_together
from flair_jax.parallel.processes import ALONE, CLUSTER_OPTIONS, Processes, check_cluster, join_cluster


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "evaluate",
        _run,
        "score a checkpoint",
        _details(),
    )
    parser.add_argument(
        "--task", choices=tuple(_TASKS), default="retrieval", help="what to score (default %(default)s)"
    )
    add_checkpoint(parser)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a set's name (below), or all")
    parser.add_argument("--data-dir", required=True, metavar="DIR", type=path, help="the set's folder as downloaded")
    parser.add_argument(
        "--mode",
        choices=("text-conditioned", "top-k", "global"),
        help="text-conditioned: all pairs, as published (default); top-k: only the texts that score best globally for "
        "each image are scored so, the others rank below; global: without pooling, as CLIP does",
    )
    parser.add_argument(
        "--top-k", metavar="K", type=positive, help="texts per image in mode top-k of retrieval (default 128)"
    )
    _add_texts(parser)
    _add_segmentation(parser)
    add_compute(parser)
    parser.add_argument("--output", metavar="FILE", type=new_file, help="write metrics, settings and versions as JSON")
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out pictures that cannot be read, with their captions, and report them, instead of failing",
    )
    parser.add_argument(
        "--distributed",
        action="store_const",
        const=True,
        help="run as several processes that share the work; TPU pods, SLURM and Kubernetes are recognised, elsewhere "
        "add the next three",
    )
    for name, kind, meaning in CLUSTER_OPTIONS:
        parser.add_argument(f"--{name}", metavar="HOST:PORT" if kind is str else "N", type=kind, help=meaning)


def _details() -> str:
    """Examples, and the sets with their layouts."""
    from flair_jax.data.sets.classification import CLASSIFICATION_SETS
    from flair_jax.data.sets.grounding import GROUNDING_SETS
    from flair_jax.data.sets.retrieval import RETRIEVAL_SETS
    from flair_jax.data.sets.segmentation import SEGMENTATION_SETS

    segmentation = "\n".join(
        f"  {entry.name:<16}{f'{entry.folder}/{entry.marker}':<58}{entry.source}"
        for entry in SEGMENTATION_SETS.values()
    )
    layouts = "\n".join(f"  {entry.name:<16}{entry.annotations:<40}{entry.source}" for entry in RETRIEVAL_SETS.values())
    labelled = "\n".join(
        f"  {entry.name:<10}{' or '.join(mark for mark, _ in entry.layouts) or 'CLASS/...'}\n{'':<12}{entry.source}"
        for entry in CLASSIFICATION_SETS.values()
    )
    phrases = "\n".join(
        f"  {entry.name:<24}{entry.layouts[0][0]}\n{'':<26}{entry.source}" for entry in GROUNDING_SETS.values()
    )
    return (
        "examples:\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --dataset coco --data-dir ~/coco --output coco.json\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --dataset all --data-dir ~/datasets\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --task classify --dataset imagenet --data-dir ~/imagenet\n"
        "  flair-jax evaluate --checkpoint checkpoints/merged30m --task segment --dataset voc20 --data-dir ~/data\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --task point --dataset refcoco-val --data-dir ~/coco\n"
        f"\nsets, the file that marks the folder, and where to get them:\n{layouts}\n\n"
        '`folder` is any folder with one JSON-lines file of {"image": PATH, "caption": TEXT} or {"image": PATH,\n'
        '"captions": [TEXT, ...]}, paths relative to the folder. `all` runs every set in DIR and right below it.\n\n'
        f"sets of --task classify, the files of which one marks the folder, and where to get them:\n{labelled}\n\n"
        "Here `folder` is any folder with a folder of pictures for each class.\n\n"
        f"sets of --task segment, whose --data-dir is the set's folder or one above it:\n{segmentation}\n\n"
        "sets of --task point, a file that marks the folder (docs/pointing.md has others of RefCOCO), and where to get "
        f"them:\n{phrases}\n\n"
        "With --output, a run that was stopped resumes where it was when it is started again.\n\n"
        "On several processes, start the same command for retrieval on each with --distributed; see docs/processes.md."
    )


def _add_texts(parser: argparse.ArgumentParser) -> None:
    from flair_jax.data.sets.prompts import template_lists

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
        "coco-stuff 448, cityscapes 560, scenes 64; never less than a window)",
    )
    group.add_argument(
        "--background-threshold",
        metavar="COSINE",
        type=_cosine,
        help="background is where no other class has a higher cosine than this, not where its word has the highest",
    )
    group.add_argument(
        "--save", metavar="DIR", type=path, help="write original, truth and prediction of every picture there"
    )


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from -1 to 1")
    return value


def _run(options: argparse.Namespace) -> None:
    for name, tasks in _TAKEN_BY.items():
        if getattr(options, name) is not None and options.task not in tasks:
            option = f"--{name.replace('_', '-')}"
            raise FlairError(f"{option}: is for --task {' and '.join(tasks)} only, not for {options.task}")
    _TASKS[options.task](options)


def _retrieval(options: argparse.Namespace) -> None:
    from flair_jax.evaluate.retrieval import RetrievalSettings
    from flair_jax.evaluate.tasks import evaluate_checkpoint

    cluster = {name: getattr(options, name) for name, _, _ in CLUSTER_OPTIONS}
    check_cluster(bool(options.distributed), cluster)
    if options.distributed:
        join_cluster(cluster, sigterm_saves=False)
    mode, top_k = options.mode or "text-conditioned", options.top_k or 128
    settings = RetrievalSettings(mode, top_k, options.batch_size, options.skip_broken)
    processes = Processes.all() if options.distributed else ALONE
    with ending_together():
        evaluate_checkpoint(
            *(options.checkpoint, options.dataset, options.data_dir, settings),
            dtype=options.dtype,
            output=options.output,
            model=processes.together(lambda: own_model(options, options.dtype)),
            processes=processes,
        )


def _classify(options: argparse.Namespace) -> None:
    from flair_jax.data.sets.prompts import read_templates
    from flair_jax.evaluate.classification import CLASSIFICATION_MODES, ClassificationSettings
    from flair_jax.evaluate.classification_task import task
    from flair_jax.evaluate.tasks import evaluate_checkpoint

    mode = options.mode or "text-conditioned"
    if mode not in CLASSIFICATION_MODES:
        raise FlairError(f"--mode {mode} is not for --task classify; choose {' or '.join(CLASSIFICATION_MODES)}")
    settings = ClassificationSettings(
        mode,
        read_templates(options.templates) if options.templates is not None else None,
        options.class_names,
        options.batch_size,
        options.skip_broken,
    )
    evaluate_checkpoint(
        options.checkpoint,
        options.dataset,
        options.data_dir,
        settings,
        dtype=options.dtype,
        output=options.output,
        task=task(options.class_names),
        model=own_model(options, options.dtype),
    )


def _segment(options: argparse.Namespace) -> None:
    from flair_jax.evaluate.segmentation import SegmentationSettings
    from flair_jax.evaluate.segmentation_task import segment_checkpoint

    settings = SegmentationSettings(
        options.segment_by or "patches",
        options.short_side,
        options.background_threshold,
        options.batch_size,
        options.skip_broken,
    )
    segment_checkpoint(
        options.checkpoint,
        options.dataset,
        options.data_dir,
        settings,
        dtype=options.dtype,
        output=options.output,
        model=own_model(options, options.dtype),
        templates=options.templates,
        class_names=options.class_names,
        save=options.save,
    )


def _point(options: argparse.Namespace) -> None:
    from flair_jax.evaluate.pointing import PointSettings
    from flair_jax.evaluate.pointing_task import task
    from flair_jax.evaluate.tasks import evaluate_checkpoint

    evaluate_checkpoint(
        options.checkpoint,
        options.dataset,
        options.data_dir,
        PointSettings(options.batch_size, options.skip_broken),
        dtype=options.dtype,
        output=options.output,
        task=task(),
        model=own_model(options, options.dtype),
    )


_TASKS = {"retrieval": _retrieval, "classify": _classify, "segment": _segment, "point": _point}
# Options that some tasks do not take; they have no default, so that it shows whether they were given.
_TAKEN_BY = {
    "mode": ("retrieval", "classify"),
    "top_k": ("retrieval",),
    "distributed": ("retrieval",),
    "templates": ("classify", "segment"),
    "class_names": ("classify", "segment"),
    "segment_by": ("segment",),
    "short_side": ("segment",),
    "background_threshold": ("segment",),
    "save": ("segment",),
}
