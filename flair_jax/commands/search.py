"""`flair-jax search`."""

from __future__ import annotations

import argparse
import os
import sys

from flair_jax.commands.own_model import add_config, own_model
from flair_jax.commands.parser import MADE, Commands, add_command, new_page, path, positive


def add(commands: Commands) -> None:
    """Adds the command."""
    from flair_jax.models.config import DTYPES

    parser = add_command(
        commands,
        "search",
        _run,
        "find pictures in an index by a sentence",
        "example:\n"
        '  flair-jax search pictures.index "a red kettle on a gas stove, steam at its spout" --html kettle.html\n\n'
        "Candidates are found by global similarity and ordered by text-conditioned similarity. Printed are both\n"
        "cosines and the path.",
    )
    parser.add_argument("index", metavar="INDEX", type=path, help="folder made by `index`")
    parser.add_argument("sentence", metavar="SENTENCE", help="what the picture shows, in detail; quote it")
    parser.add_argument("--top", metavar="N", type=positive, default=20, help="hits to print (default %(default)s)")
    parser.add_argument(
        "--rerank",
        metavar="N",
        type=positive,
        default=200,
        help="candidates that are scored with text-conditioned pooling (default %(default)s; at least --top)",
    )
    parser.add_argument(
        "--html",
        metavar="FILE.html",
        type=new_page(".html"),
        help=f"also write a page of thumbnails{MADE}; needs the extra `html`",
    )
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="the index's checkpoint, if it was moved since (default: there)"
    )
    add_config(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="compute dtype (default %(default)s)")


def _run(options: argparse.Namespace) -> None:
    from flair_jax.packages import import_jinja
    from flair_jax.search.page import write_page
    from flair_jax.search.store import SearchIndex

    if options.html:
        import_jinja("--html")  # fails before the work, not after it
    index = SearchIndex.open(options.index)

    from flair_jax.checkpoint import load, read_description
    from flair_jax.errors import SearchIndexError, printable
    from flair_jax.scoring.embedding import unread
    from flair_jax.search.searcher import Searcher
    from flair_jax.weights.origin import check_pooling

    if not options.checkpoint and not os.path.exists(index.manifest.checkpoint):
        raise SearchIndexError(
            f"{options.index}: its checkpoint, {index.manifest.checkpoint}, is gone; name it by --checkpoint DIR"
        )
    checkpoint = options.checkpoint or index.manifest.checkpoint
    check_pooling(
        checkpoint, read_description(checkpoint).get("source", {}), "search re-ranks with it, so train it first"
    )
    model = own_model(options, options.dtype)
    model, params = load(checkpoint, model=model, dtype=options.dtype)
    searcher = Searcher(index, model, params)
    if not index.complete:
        print(
            f"flair-jax: {printable(options.index)} is unfinished, with {len(index):,} pictures so far; "
            "`flair-jax index` resumes it",
            file=sys.stderr,
        )
    if index.manifest.faiss and searcher.exact:
        print("flair-jax: FAISS is not installed; comparing with every picture instead", file=sys.stderr)
    for remark in unread([options.sentence], model.config.text):
        print(f"flair-jax: {remark}", file=sys.stderr)
    hits = searcher.search(options.sentence, top=options.top, rerank=options.rerank)
    print("text-conditioned    global  picture (cosines, from -1 to 1: what counts is their order)")
    for hit in hits:
        print(f"{hit.score:16.4f}  {hit.global_score:8.4f}  {printable(hit.path)}")
    if options.html:
        write_page(options.html, options.sentence, hits, len(index), index.manifest.root)
        print(f"written: {printable(options.html)}")
