"""The console command `flair-jax`. Each subcommand loads what it needs when it runs, so that help is instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flair_jax import __version__, interrupts
from flair_jax.console import run_command

if TYPE_CHECKING:
    import argparse
    from types import ModuleType


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
      arguments: words after `flair-jax`. By default those of the process, which then serves this command alone, and
        Ctrl-C ends it as `flair_jax.interrupts` says. Otherwise the process is left as it was; see `run_command`.

    Returns:
      The exit status: 0, or 2 for bad input, which is explained in one sentence on stderr; 130 if interrupted.
    """
    if arguments is None:
        return interrupts.run(lambda: main(sys.argv[1:]))
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int | None:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # What more a command takes, for absl's flags or Apache Beam's options, begins so; "" is how any word begins.
    prefix = getattr(options, "takes_more", None)
    options.words = [word for word in rest if prefix is not None and word.startswith(prefix)]
    if unknown := [word for word in rest if word not in options.words]:
        options.refuse(unknown)
    return options.run(options)


def _commands() -> tuple[ModuleType, ...]:
    """The commands in the order of the help. Imported only once Ctrl-C is handled."""
    from flair_jax.commands import (
        attend,
        configs,
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
        status,
        train,
    )

    return convert, export, evaluate, attend, index, search, embed, train, configs, status, plan, data, demo, demo_app


def _parser() -> argparse.ArgumentParser:
    from flair_jax.commands.parser import Parser

    parser = Parser(
        prog="flair-jax",
        description="FLAIR in JAX: import the released checkpoints, train, and score pictures with texts.",
        epilog="`flair-jax COMMAND --help` explains a command and shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"flair-jax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _commands():
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
