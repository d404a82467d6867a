"""The console command `flair-jax`. Each subcommand loads what it needs when it runs, so that help is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flair_jax import __version__
from flair_jax.commands import (
    attend,
    convert,
    data,
    demo,
    demo_app,
    embed,
    evaluate,
    export,
    index,
    plan,
    search,
    train,
)
from flair_jax.console import run_command

# In the order of the help.
_COMMANDS = (convert, export, evaluate, attend, index, search, embed, train, plan, data, demo, demo_app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
      arguments: words after `flair-jax`; the process's own if not given, and then the process is for this command
        alone. Else it is afterwards as it was before; see `run_command`.

    Returns:
      The exit status: 0, or 2 for bad input, which is explained in one sentence on stderr; 130 if interrupted.
    """
    if arguments is None:
        # For good: reads that another one's failure made useless can end after the command.
        sys.unraisablehook = _ignore_orphaned_reads(sys.unraisablehook)
        return main(sys.argv[1:])
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int | None:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if getattr(options, "takes_more", False):
        options.words = rest  # for absl's flags, or Apache Beam's options
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options.run(options)


def _ignore_orphaned_reads(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Silences reads under way when another read of a damaged checkpoint failed; that failure is reported."""

    def filtered(unraisable: Any) -> None:
        words = ("Event loop is closed", "Encountered error while reading array index")
        if not any(word in str(unraisable.exc_value) for word in words):
            hook(unraisable)

    return filtered


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flair-jax",
        description="FLAIR in JAX: import the released checkpoints, train, and score pictures with texts.",
        epilog="`flair-jax COMMAND --help` explains a command and shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"flair-jax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
