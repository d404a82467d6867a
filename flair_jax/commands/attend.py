"""`flair-jax attend`."""

from __future__ import annotations

import argparse

from flair_jax.commands.own_model import own_model
from flair_jax.commands.parser import Commands, add_checkpoint, add_command, new_folder, path


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "attend",
        _run,
        "draw where in a picture a checkpoint looks for sentences",
        "examples:\n"
        '  flair-jax attend puppy.jpg "a puppy" "a red ball" --checkpoint checkpoints/cc3m --output puppy\n'
        '  flair-jax attend puppy.jpg "a puppy" --checkpoint checkpoints/cc3m --kind patches --output puppy\n\n'
        "Needs the extra `demo`. Writes a picture for each sentence, one with all of them, and the arrays (maps.npz);\n"
        "prints the scores. docs/attend.md explains the maps.",
    )
    parser.add_argument("image", metavar="IMAGE", type=path, help="a picture; its centre square is seen")
    parser.add_argument("sentences", metavar="SENTENCE", nargs="+", help="what to look for; quote it")
    add_checkpoint(parser)
    parser.add_argument(
        "--kind",
        choices=("attention", "patches"),
        default="attention",
        help="attention: weights of the pooling, mean of the heads (default); patches: how similar each patch is",
    )
    parser.add_argument("--per-head", action="store_true", help="also draw the attention of each head")
    parser.add_argument(
        "--output", required=True, metavar="DIR", type=new_folder, help="folder to write to; made if missing"
    )


def _run(options: argparse.Namespace) -> None:
    from flair_jax.errors import FlairError
    from flair_jax.show.attend import attend

    if options.per_head and options.kind != "attention":
        raise FlairError("--per-head is for --kind attention: patches are compared after all heads are mixed")
    attend(
        options.checkpoint,
        options.image,
        options.sentences,
        options.output,
        kind=options.kind,
        per_head=options.per_head,
        model=own_model(options),
    )
