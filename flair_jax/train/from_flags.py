"""Training as a command line asks for it."""

from __future__ import annotations

import shlex
from pathlib import Path

import jax

from flair_jax.errors import StorageError
from flair_jax.parallel.peers import ending_together
from flair_jax.parallel.processes import join_cluster
from flair_jax.settings import TrainSettings
from flair_jax.train.flags import TrainOptions
from flair_jax.train.logger import METRICS, read_metrics
from flair_jax.train.run import Outcome, train
from flair_jax.train.startup import Startup
from flair_jax.train.surroundings import no_tracebacks_logged


def run_from_flags(options: TrainOptions, began: float) -> int:
    """Runs the training that a command line asks for, and returns the exit status.

    What it prints ends with a line for programs, the path of the newest checkpoint; before it people read how far the
    run got, and what to do with it.

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
    if jax.process_index() == 0:
        _say_what_next(options.workdir, outcome, own_model=settings.factories.model is not None)
    print(outcome.checkpoint)
    return 0 if outcome.finished else options.stopped_status


def _say_what_next(workdir: Path, outcome: Outcome, *, own_model: bool) -> None:
    folder, config = shlex.quote(str(workdir)), " --config=FILE" if own_model else ""
    loss, metrics = "", f"the metrics are in {workdir / METRICS}"
    try:
        if losses := [line["loss"] for line in read_metrics(workdir) if "loss" in line]:
            loss = f", loss {losses[-1]:.3f}"
    except (OSError, StorageError) as error:  # of a run that is done, which stays so
        metrics = f"the metrics cannot be read ({error})"
    print(f"step {int(outcome.checkpoint.name):,} is done and saved{loss}; {metrics}")
    print(
        f"next: flair-jax status {folder}, or "
        f"flair-jax evaluate --checkpoint {folder}{config} --dataset NAME --data-dir DIR"
    )
