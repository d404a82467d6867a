"""`flair-jax embed`."""

from __future__ import annotations

import argparse

from flair_jax.commands.index import report
from flair_jax.commands.own_model import own_model
from flair_jax.commands.parser import MADE, Commands, add_checkpoint, add_command, add_compute, new_file, path


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "embed",
        _run,
        "write features of pictures or texts to a file",
        "examples:\n"
        "  flair-jax embed ~/pictures kettle.jpg --checkpoint checkpoints/cc3m --output pictures.parquet\n"
        "  flair-jax embed --texts captions.txt --checkpoint checkpoints/cc3m --output captions.npz\n\n"
        "columns or keys: path or text (paths or texts in .npz), global (float32, D numbers) and, with --local,\n"
        "local (float16, L x D numbers). Features are as the model gives them, not normalised. A stopped run resumes.",
    )
    parser.add_argument("pictures", metavar="PICTURE_OR_FOLDER", nargs="*", help="pictures, and folders of them")
    parser.add_argument("--texts", metavar="FILE", type=path, help="embed texts instead: one a line, in UTF-8")
    add_checkpoint(parser)
    parser.add_argument(
        "--output", required=True, metavar="FILE", type=new_file, help=f".npz or .parquet file to write{MADE}"
    )
    parser.add_argument("--local", action="store_true", help="also write the local tokens of pictures")
    add_compute(parser)


def _run(options: argparse.Namespace) -> None:
    from flair_jax.checkpoint import load
    from flair_jax.errors import FlairError, plural, printable
    from flair_jax.search.build import IndexSettings
    from flair_jax.search.export import embed_lines, embed_pictures, writer_of

    if bool(options.pictures) == (options.texts is not None):
        raise FlairError("name pictures or folders, or else --texts FILE")
    if options.texts and options.local:
        raise FlairError("--local is for pictures: a text has no local tokens")
    writer_of(options.output)
    model, params = load(options.checkpoint, model=own_model(options, options.dtype), dtype=options.dtype)
    if options.texts:
        count, cut = embed_lines(options.texts, options.output, model, params, options.batch_size)
        print(f"{printable(options.output)}: {plural(count, 'text')}")
        if cut.texts:
            print(
                f"{cut.texts:,} longer than the {cut.context_length} tokens that the model reads: "
                f"{100 * cut.tokens_share:.1f} % of all tokens are cut off"
            )
        return
    settings = IndexSettings(options.batch_size, with_local=options.local)
    outcome = embed_pictures(options.pictures, options.output, model, params, settings)
    print(f"{printable(options.output)}: {plural(outcome.added, 'picture')}")
    report(outcome)
