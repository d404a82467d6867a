"""Training from one configuration, on one CPU or a pod.

    python -m flair_jax.train --config=configs/demo.py --workdir=runs/demo

Single fields are changed on the command line (`--config.batch_size=64`). The same command again resumes the run; with
settings that would make it another run, only if --accept-changes is given. With several processes, start it for each
with --distributed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from flair_jax import interrupts
from flair_jax.console import run_command


def main(arguments: Sequence[str]) -> int:
    """The command `python -m flair_jax.train`, and `flair-jax train`.

    Args:
      arguments: the words after the command.

    Returns:
      The exit status: 0 at the end, and after a SIGTERM unless --stopped-status says otherwise.

    Raises:
      FlairError: with the status to exit with: 1 for a dead data worker, else 2.
    """
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return 0
    began = time.time()
    interrupts.say("interrupted; the same command resumes from the last checkpoint")
    from flair_jax.train.flags import parse

    options = parse(arguments)
    from flair_jax.train.from_flags import run_from_flags  # loads JAX

    return run_from_flags(options, began)


if __name__ == "__main__":
    sys.exit(interrupts.run(lambda: run_command(lambda: main(sys.argv[1:]))))
