"""`flair-jax demo-app`."""

from __future__ import annotations

import argparse

from flair_jax.commands.own_model import own_model
from flair_jax.commands.parser import Commands, add_checkpoint, add_command, path


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "demo-app",
        _run,
        "serve a web page, to this machine alone, that compares pictures with sentences",
        "examples:\n"
        "  flair-jax demo-app --checkpoint checkpoints/cc3m\n"
        "  flair-jax demo-app --checkpoint checkpoints/cc3m --index holidays.index --port 8000\n\n"
        "Needs the extra `app`. Nothing leaves the machine, and uploads are removed when it stops (Ctrl-C);\n"
        "docs/demo-app.md shows the page.",
    )
    add_checkpoint(parser)
    parser.add_argument("--index", metavar="INDEX", type=path, help="made by `index`; adds a tab that searches it")
    parser.add_argument("--port", metavar="N", type=_port, help="port on 127.0.0.1 (default: first free from 7860)")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 1 to 65535")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    from flair_jax.show.app import serve

    serve(options.checkpoint, options.index, options.port, own_model(options))
