"""Training as a command line asks for it."""

from __future__ import annotations

from flair_jax.parallel.peers import ending_together
from flair_jax.parallel.processes import join_cluster
from flair_jax.settings import TrainSettings
from flair_jax.train.flags import TrainOptions
from flair_jax.train.run import train
from flair_jax.train.startup import Startup
from flair_jax.train.surroundings import no_tracebacks_logged


def run_from_flags(options: TrainOptions, began: float) -> int:
    """Runs the training that a command line asks for, prints its newest checkpoint, and returns the exit status.

    Args:
      options: the command line.
      began: when the command did, by `time.time()`.

    Raises:
      FlairError: with the status to exit with: 1 for a dead data worker, else 2.
    """
    startup = Startup(began)
    settings = TrainSettings.from_config(options.config)
    if options.distributed:
        with startup.phase("devices"):
            join_cluster(options.cluster, sigterm_saves=True)
    with ending_together(), no_tracebacks_logged():
        outcome = train(
            settings,
            options.workdir,
            accept_changes=options.accept_changes,
            stopped_status=options.stopped_status,
            startup=startup,
        )
    print(outcome.checkpoint)
    return 0 if outcome.finished else options.stopped_status
