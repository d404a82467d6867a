"""`flair-jax train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flair_jax.commands.parser import Commands, add_command, new_page
from flair_jax.errors import ConfigError


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "train",
        _run,
        "train from one configuration file, on one CPU or a pod",
        "examples:\n"
        "  flair-jax train --config=demo --config.data.dir=demo/data --workdir=runs/demo\n"
        "  flair-jax train --config=cc3m_recap --config.batch_size=512 --workdir=runs/cc3m\n\n"
        "--config=NAME|FILE      an ml_collections configuration: a file, or the name of one that is shipped, such as\n"
        "                        demo or cc3m_recap; `flair-jax configs default` explains every field\n"
        "--config.FIELD=VALUE    changes a field\n"
        "--workdir=DIR           checkpoints and metrics; a run found there is resumed\n"
        "--accept-changes        resume even if other settings make it another run; what changed is printed\n"
        "--distributed           several processes: start it on each. TPU pods, SLURM and Kubernetes are recognised;\n"
        "                        elsewhere add --coordinator=HOST:PORT --process=NUMBER --processes=COUNT\n"
        "--stopped-status=143    exit status of a run that SIGTERM stopped before its last step; 0 if not given\n\n"
        "--dry-run looks at all that the run needs, its data, checkpoints and memory, names everything that training\n"
        "would fail of, and exits with 0 or 1; nothing is trained, nor written into the workdir.\n\n"
        "SIGTERM finishes the step, saves and exits with 0; before the first step it ends at once. Ctrl-C exits with\n"
        "130, what a person must mend with 2, a dead data worker with 1. The same as `python -m flair_jax.train`.",
    )
    # absl's flags take most of it, which argparse does not know.
    parser.usage = (
        "flair-jax train --config=NAME|FILE --workdir=DIR [--config.FIELD=VALUE ...]\n"
        "       [--accept-changes] [--distributed] [--stopped-status=STATUS] [--dry-run]\n"
        "       [--contact-sheet FILE.html] [-h]"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, and show the first batch, instead")
    parser.add_argument(
        "--contact-sheet",
        metavar="FILE.html",
        type=new_page(".html"),
        help="of --dry-run: where to show the batch, with a .png of the same name beside it (default: dry-run.html)",
    )
    parser.set_defaults(takes_more="")


def _run(options: argparse.Namespace) -> int:
    if options.dry_run:
        return _dry_run(options.words, options.contact_sheet or Path("dry-run.html"))
    if options.contact_sheet:
        raise ConfigError("--contact-sheet is for --dry-run")
    from flair_jax.train.__main__ import main

    return main(options.words)


def _dry_run(words: Sequence[str], sheet: Path) -> int:
    from flair_jax.dry_run.findings import Findings
    from flair_jax.train.flags import parse

    found, given = Findings(), None
    with found.checking("config"):
        given = parse(words)
    if given is not None and given.distributed:
        raise ConfigError("--dry-run looks at one process: leave --distributed out")
    if given is not None:
        from flair_jax.dry_run.run import dry_run  # loads JAX

        dry_run(given, sheet, found)
    return found.end()
