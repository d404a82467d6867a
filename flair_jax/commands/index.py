"""`flair-jax index`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from flair_jax.commands.parser import add_checkpoint, add_command, add_compute


def add(commands: Any) -> None:
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
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="pictures, in sub-folders too")
    add_checkpoint(parser)
    parser.add_argument("--output", required=True, metavar="INDEX", type=Path, help="folder of the index")
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
    add_compute(parser)


def _run(options: argparse.Namespace) -> None:
    from flair_jax.checkpoint import load, locate
    from flair_jax.search.build import Settings, add_faiss, update
    from flair_jax.search.candidates import import_faiss
    from flair_jax.search.pictures import find_pictures
    from flair_jax.search.shards import BROKEN

    if options.faiss:
        import_faiss()  # before the work, not after it
    pictures, unusable = find_pictures(options.folder)
    checkpoint = locate(options.checkpoint)
    model, params = load(checkpoint, dtype=options.dtype)
    outcome = update(
        options.output,
        pictures,
        model,
        params,
        root=os.path.abspath(options.folder),
        checkpoint=os.path.abspath(checkpoint),
        settings=Settings(options.batch_size, options.local_dtype),
        unusable=unusable,
    )
    if options.faiss:
        add_faiss(options.output)
    print(
        f"{options.output}: {outcome.added + outcome.kept:,} pictures, {outcome.added:,} embedded now, "
        f"{outcome.dropped:,} dropped (gone or changed)"
    )
    report_broken(outcome.broken, f"; all in {options.output / BROKEN}")


def report_broken(broken: list[str], where: str = "", most: int = 20) -> None:
    """Lists pictures that cannot be read, the first of them if there are many."""
    if broken:
        print(f"left out {len(broken):,} picture(s) that cannot be read:", *broken[:most], sep="\n  ")
    if len(broken) > most:
        print(f"  and {len(broken) - most:,} more{where}")
