"""`flair-jax evaluate`."""

from __future__ import annotations

import argparse
import textwrap

from flair_jax.commands.evaluate_tasks import ROWS, Row, add_options, choose_tasks
from flair_jax.commands.own_model import own_model
from flair_jax.commands.parser import MADE, Commands, add_checkpoint, add_command, add_compute, new_file, new_page, path
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
        "--task", choices=tuple(ROWS), help="what to score (default: retrieval; with --dataset all, every task)"
    )
    add_checkpoint(parser)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a set's name (below), or all")
    parser.add_argument("--data-dir", required=True, metavar="DIR", type=path, help="the set's folder as downloaded")
    add_options(parser)
    add_compute(parser)
    parser.add_argument(
        "--output", metavar="FILE", type=new_file, help=f"write metrics, settings and versions as JSON{MADE}"
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=new_page(".html", ".md"),
        action="append",
        default=[],
        help="write what was measured as a page, FILE.html with the pictures of the captions that missed theirs the "
        f"most, or FILE.md{MADE}; may be given twice; HTML needs the extra `html`",
    )
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
    return (
        "examples:\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --dataset coco --data-dir ~/coco --output coco.json\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --dataset all --data-dir ~/datasets\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --task classify --dataset imagenet --data-dir ~/imagenet\n"
        "  flair-jax evaluate --checkpoint checkpoints/merged30m --task segment --dataset voc20 --data-dir ~/data\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --task point --dataset refcoco-val --data-dir ~/coco\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --task choose --dataset sugarcrepe --data-dir ~/coco\n\n"
        "`--dataset all` runs every set of the task, or of all tasks if none is named, in DIR and right below it, and\n"
        "puts what they come to into one table. With --output, a run that was stopped resumes where it was when it is\n"
        "started again. On several processes, start the same command for retrieval on each with --distributed; see\n"
        "docs/processes.md.\n\n" + "\n\n".join(map(_list_sets, ROWS.values()))
    )


def _list_sets(row: Row) -> str:
    lines = [f"sets of --task {row.name}, the file that marks the folder, and where to get them:"]
    lines += [f"  {name:<26}{marker}\n{'':<28}{source}" for name, marker, source in row.sets()]
    return "\n".join([*lines, *textwrap.wrap(row.remark, 118)])


def _run(options: argparse.Namespace) -> None:
    from flair_jax.evaluate.tasks import evaluate_checkpoint
    from flair_jax.packages import import_jinja

    rows = choose_tasks(options)
    if any(path.suffix != ".md" for path in options.report):
        import_jinja("--report")  # fails before the work, not after it
    cluster = {name: getattr(options, name) for name, _, _ in CLUSTER_OPTIONS}
    check_cluster(bool(options.distributed), cluster)
    if options.distributed:
        join_cluster(cluster, sigterm_saves=False)
    processes = Processes.all() if options.distributed else ALONE
    with ending_together():
        jobs = [row.build(options, processes) for row in rows]
        evaluate_checkpoint(
            *(options.checkpoint, options.dataset, options.data_dir, *jobs),
            dtype=options.dtype,
            output=options.output,
            reports=options.report,
            model=processes.together(lambda: own_model(options, options.dtype)),
            processes=processes,
        )
