"""What the commands' parsers share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from flair_jax.commands.own_model import add_config
from flair_jax.errors import ConfigError
from flair_jax.fields import did_you_mean
from flair_jax.files import below_file, expand, no_file, not_writable

# What `add_subparsers` returns; argparse has no public name for it.
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


# Choices that an error lists even if it suggests one.
_FEW = 6

# Of every file that a command writes; a folder is "made if missing".
MADE = ", in a folder that is made if missing"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, like all errors that a user can fix."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(f"{message}{'' if message.endswith('?') else ';'} `{self.prog} --help` explains")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Raises ConfigError for words that the command does not take."""
        option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
        if option is None:
            hint = "; a sentence or name of several words wants quotes"
        else:
            hint = did_you_mean(option, self._option_string_actions)
        self.error(f"unrecognized arguments: {' '.join(words)}{hint}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, but suggests what was meant, if that is like one of the choices."""
        if action.choices is not None and value not in action.choices:
            near = did_you_mean(str(value), map(str, action.choices))
            names = ", ".join(map(str, action.choices))
            listed = "" if near and len(list(action.choices)) > _FEW else f"; choose from {names}"
            raise argparse.ArgumentError(action, f"no {value!r}{listed}{near}")


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int | None], summary: str, details: str
) -> argparse.ArgumentParser:
    """Adds a command: `summary` is its line in the list, and `details` follow its options."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, refuse=parser.refuse)
    return parser


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`, in the forms that `flair_jax.load` takes, and `--config` for its `model`.

    A checkpoint is a string, since a Path would alter hub names.
    """
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="folder made by `convert` or `export`, WORKDIR/checkpoints/STEP of a training run, or WORKDIR for its "
        "newest, a weight file of the PyTorch release, or one of these on the hub: "
        "hf://OWNER/REPOSITORY[@REVISION][/FILE]",
    )
    add_config(parser)


def add_compute(parser: argparse.ArgumentParser, what: str = "pictures, or texts,") -> None:
    """Adds `--dtype` and `--batch-size`, of commands that embed `what`."""
    from flair_jax.models.config import DTYPES

    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="compute dtype (default %(default)s); parameters are float32"
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        default=64,
        help=f"{what} embedded at once over all devices (default %(default)s); changes speed and memory, not results",
    )


def path(text: str) -> Path:
    """A path; `~` is expanded, which shells do not do after `=`. An empty one, the current folder, is an error."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a file or folder")
    try:
        return expand(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def new_file(text: str) -> Path:
    """The path of a file to write; if it cannot be one, that is an error before any work is done."""
    if reason := no_file(path(text)):
        raise argparse.ArgumentTypeError(f"{text} {reason}; name a file")
    return _writable(text, path(text))


def new_page(*endings: str) -> Callable[[str], Path]:
    """`new_file` for pages, whose names must end so: a slip must not replace, say, a picture."""

    def parse(text: str) -> Path:
        if Path(text).suffix not in endings:
            raise argparse.ArgumentTypeError(f"{text}: name a file that ends in {' or '.join(endings)}")
        return new_file(text)

    return parse


def new_folder(text: str) -> Path:
    """The path of a folder to fill; if it cannot be one, that is an error before any work is done."""
    if path(text).exists() and not path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file; name a folder")
    if reason := below_file(path(text)):
        raise argparse.ArgumentTypeError(f"{text} {reason}; name another folder")
    _writable(text, path(text) / "a file")
    return path(text)


def _writable(text: str, target: Path) -> Path:
    """The path of a file to write, which the user named so; raises if the disk says that it may not be written."""
    if reason := not_writable(target):
        raise argparse.ArgumentTypeError(f"{text}: {reason}")
    return target


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)
