"""`flair-jax index`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flair_jax.commands.own_model import own_model
from flair_jax.commands.parser import Commands, add_checkpoint, add_command, add_compute, new_folder, path

if TYPE_CHECKING:
    from flair_jax.search.build import IndexUpdate


def add(commands: Commands) -> None:
    """Adds the command."""
    from flair_jax.search.manifest import LOCAL_DTYPES

    parser = add_command(
        commands,
        "index",
        _run,
        "embed a folder of pictures, to search in it",
        "example:\n"
        "  flair-jax index ~/pictures --checkpoint checkpoints/cc3m --output pictures.index\n\n"
        "Started again, it computes only what is new or changed (size or time of the file) and drops what is gone;\n"
        "after a kill too. Pictures that cannot be read are listed and left out. A picture takes L x D x 2 bytes on\n"
        "disk: 0.2 MB with ViT-B/16.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=path, help="pictures, in sub-folders too")
    add_checkpoint(parser)
    parser.add_argument(
        "--output", required=True, metavar="INDEX", type=new_folder, help="folder of the index; made if missing"
    )
    parser.add_argument(
        "--local-dtype",
        choices=LOCAL_DTYPES,
        help="how local tokens are stored (default: what the index has, or else float16)",
    )
    parser.add_argument(
        "--faiss",
        action="store_true",
        help="let FAISS find candidates, which pays from about half a million pictures; needs the extra `faiss`",
    )
    add_compute(parser, "pictures")


def _run(options: argparse.Namespace) -> None:
    from flair_jax.checkpoint import load
    from flair_jax.errors import plural, printable
    from flair_jax.search.build import IndexSettings, add_faiss, update
    from flair_jax.search.candidates import import_faiss
    from flair_jax.search.pictures import find_pictures
    from flair_jax.search.shards import BROKEN
    from flair_jax.weights.locate import locate

    if options.faiss:
        import_faiss()  # fails before the work, not after it
    found = find_pictures(options.folder)
    checkpoint = locate(options.checkpoint)
    model, params = load(checkpoint, model=own_model(options, options.dtype), dtype=options.dtype)
    outcome = update(
        options.output,
        found,
        model,
        params,
        root=_lasting(options.folder),
        checkpoint=_lasting(checkpoint),
        settings=IndexSettings(options.batch_size, options.local_dtype),
    )
    if options.faiss:
        add_faiss(options.output)
    output = printable(options.output)
    print(
        f"{output}: {plural(outcome.added + outcome.kept, 'picture')}, {outcome.added:,} embedded now, "
        f"{outcome.dropped:,} dropped (gone or changed)"
    )
    report(outcome, where=f"; all in {output}/{BROKEN}")


def _lasting(path: Path) -> str:
    """A path that means the same from another folder, and however often it leads up and down."""
    from flair_jax.buckets import is_remote

    return str(path) if is_remote(path) else os.path.abspath(path)


def report(outcome: IndexUpdate, where: str = "") -> None:
    """Reports what is missing from the result or may be useless in it; of many, the first of each kind."""
    from flair_jax.data.image import TOO_DEEP
    from flair_jax.errors import plural, printable

    _list(f"left out {len(outcome.broken):,} that cannot be used:", outcome.broken, where)
    _list(f"{plural(len(outcome.remarks), 'picture')} of {TOO_DEEP}; little may be left to see:", outcome.remarks)
    if outcome.others:
        kinds = ", ".join(f"{count:,} {printable(kind)}" for kind, count in outcome.others.most_common(8))
        more = ", ..." if len(outcome.others) > 8 else ""
        print(f"passed over {outcome.others.total():,} by their names ({kinds}{more})")
    if outcome.repeated:
        print(f"{plural(outcome.repeated, 'picture')} named again; each is written once")


def _list(heading: str, messages: Sequence[str], where: str = "", most: int = 20) -> None:
    if messages:
        print(heading, *messages[:most], sep="\n  ")
    if len(messages) > most:
        print(f"  and {len(messages) - most:,} more{where}")
