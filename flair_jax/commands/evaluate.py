"""`flair-jax evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flair_jax.commands.parser import add_command, positive
from flair_jax.hosts import ALONE, CLUSTER_OPTIONS, Hosts, check_cluster, join_cluster


def add(commands: Any) -> None:
    """Adds the command."""
    from flair_jax.data.retrieval_sets import RETRIEVAL_SETS
    from flair_jax.models.config import DTYPES

    layouts = "\n".join(f"  {entry.name:<16}{entry.annotations:<40}{entry.source}" for entry in RETRIEVAL_SETS.values())
    parser = add_command(
        commands,
        "evaluate",
        _run,
        "score a checkpoint",
        "examples:\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --dataset coco --data-dir ~/coco --output coco.json\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --dataset all --data-dir ~/datasets\n\n"
        f"sets, the file that marks the folder, and where to get them:\n{layouts}\n\n"
        '`folder` is any folder with one JSON-lines file of {"image": PATH, "caption": TEXT} or {"image": PATH,\n'
        '"captions": [TEXT, ...]}, paths relative to the folder. `all` runs every set in DIR and right below it.\n\n'
        "With --output, a run that was stopped goes on where it was when it is started again.\n\n"
        "On several hosts, start the same command on each with --distributed; see docs/pods.md.",
    )
    parser.add_argument(
        "--task", choices=tuple(_TASKS), default="retrieval", help="what to score (default %(default)s)"
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", type=Path, help="folder made by `convert`")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a set's name (below), or all")
    parser.add_argument("--data-dir", required=True, metavar="DIR", type=Path, help="the set's folder as downloaded")
    parser.add_argument(
        "--mode",
        choices=("text-conditioned", "top-k", "global"),
        default="text-conditioned",
        help="text-conditioned: all pairs, as published (default); top-k: only the texts that score best globally for "
        "each image are scored so, the others rank below; global: without pooling, as CLIP does",
    )
    parser.add_argument(
        "--top-k", metavar="K", type=positive, default=128, help="texts per image in mode top-k (default %(default)s)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="compute dtype (default %(default)s); parameters are float32"
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        default=64,
        help="images embedded at once over all devices (default %(default)s); changes speed and memory, not results",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="write metrics, settings and versions as JSON")
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out pictures that cannot be read, with their captions, and report them, instead of failing",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="run as several processes that share the work; TPU pods, SLURM and Kubernetes are recognised, elsewhere "
        "add the next three",
    )
    for name, kind, meaning in CLUSTER_OPTIONS:
        parser.add_argument(f"--{name}", metavar="HOST:PORT" if kind is str else "N", type=kind, help=meaning)


def _run(options: argparse.Namespace) -> None:
    _TASKS[options.task](options)


def _retrieval(options: argparse.Namespace) -> None:
    from flair_jax.evaluate.command import run
    from flair_jax.evaluate.run import Settings

    cluster = {name: getattr(options, name) for name, _, _ in CLUSTER_OPTIONS}
    check_cluster(options.distributed, cluster)
    if options.distributed:
        join_cluster(cluster, sigterm_saves=False)
    settings = Settings(options.mode, options.top_k, options.batch_size, options.skip_broken)
    run(
        *(options.checkpoint, options.dataset, options.data_dir, settings),
        dtype=options.dtype,
        output=options.output,
        hosts=Hosts.all() if options.distributed else ALONE,
    )


_TASKS = {"retrieval": _retrieval}
