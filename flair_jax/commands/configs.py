"""`flair-jax configs`."""

from __future__ import annotations

import argparse

from flair_jax.commands.parser import Commands, add_command


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "configs",
        _run,
        "list the configurations of training that are shipped, or print one to make your own from",
        "examples:\n"
        "  flair-jax configs                         their names, with a line about each\n"
        "  flair-jax configs default                 every field, with its unit and meaning\n"
        "  flair-jax configs cc3m_recap > mine.py    then: flair-jax train --config=mine.py --workdir=runs/mine\n\n"
        "--config takes such a name from any folder, or the path of a file; if a name is both, the file.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one's file instead of the list")


def _run(options: argparse.Namespace) -> None:
    from flair_jax.train.config_files import print_config, shipped_configs, summary_of

    if options.name is not None:
        print_config(options.name)
        return
    shipped = shipped_configs()
    width = max(map(len, shipped))
    for name, file in shipped.items():
        print(f"{name:{width}}  {summary_of(file)}")
