"""`flair-jax train`."""

from __future__ import annotations

import argparse

from flair_jax.commands.parser import Commands, add_command


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
        "SIGTERM finishes the step, saves and exits with 0; before the first step it ends at once. Ctrl-C exits with\n"
        "130, what a person must mend with 2, a dead data worker with 1. The same as `python -m flair_jax.train`.",
    )
    parser.set_defaults(takes_more="")


def _run(options: argparse.Namespace) -> int:
    from flair_jax.train.__main__ import main

    return main(options.words)
