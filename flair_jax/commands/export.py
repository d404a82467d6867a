"""`flair-jax export`."""

from __future__ import annotations

import argparse
from typing import Any

from flair_jax.commands.parser import add_command


def add(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "export",
        _run,
        "write a checkpoint's weights as a file that the PyTorch release loads",
        "examples:\n"
        "  flair-jax export checkpoints/mine mine.safetensors\n"
        "  flair-jax export checkpoints/mine mine.pt\n\n"
        "The file holds the state dict under the PyTorch release's names, bit for bit what `convert` read.\n"
        "Writing .pt needs PyTorch; .safetensors does not.",
    )
    parser.add_argument("source", metavar="SRC", help="a checkpoint's folder")
    parser.add_argument("target", metavar="DST", help=".pt or .safetensors file to write; an older one is replaced")


def _run(options: argparse.Namespace) -> None:
    from flair_jax.convert.transfer import export

    print(f"{options.target}: {export(options.source, options.target)} tensors")
