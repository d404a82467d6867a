"""Sets up a training run: data, model, mesh, the state to resume from, and what watches over it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from flair_jax import checkpoint
from flair_jax.data.pipeline import LocalBatch, SampleSettings, batches
from flair_jax.data.sets.training import open_sets
from flair_jax.data.sources import Source
from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.errors import CheckpointError, ConfigError
from flair_jax.files import expand, locked
from flair_jax.models.description import config_to_json
from flair_jax.models.flair import Flair
from flair_jax.parallel.processes import Processes, join_cluster
from flair_jax.parallel.sharding import check_batch, make_mesh
from flair_jax.settings import TrainSettings
from flair_jax.train.checkpoints import RunCheckpoints
from flair_jax.train.evaluation import RetrievalEvaluation
from flair_jax.train.flags import TrainOptions
from flair_jax.train.identity import describe
from flair_jax.train.logger import MetricLogger
from flair_jax.train.loop import Run
from flair_jax.train.meter import Meter
from flair_jax.train.optim import make_optimizer, make_schedule
from flair_jax.train.preemption import Preemption
from flair_jax.train.step import TrainState, abstract_state, init_state, make_train_step


class Outcome(NamedTuple):
    """How far training came: the folder of its newest checkpoint, which `flair_jax.load` reads, and whether that is of
    the last step.
    """

    checkpoint: Path
    finished: bool


def train(
    settings: TrainSettings,
    workdir: Path,
    sources: Sequence[Source] = (),
    *,
    accept_changes: bool = False,
    stopped_status: int = 0,
) -> Outcome:
    """Trains, or goes on training, until the last step or a SIGTERM.

    Args:
      settings: of the run.
      workdir: folder for checkpoints and metrics; a run found there goes on. One run at a time has it.
      sources: training samples, instead of the data sets that the settings name.
      accept_changes: go on with a run even if its settings were others that make it another run.
      stopped_status: with which the process ends if SIGTERM comes before there is anything to save, and the process is
        one of `interrupts.run`.

    Raises:
      ConfigError: if the settings cannot be.
      DatasetError: if the data is not there, that of the evaluation included.
      CheckpointError: if the folder holds another run, one that is at work or no checkpoint that is whole, `init` is no
        checkpoint, or one cannot be written.
      StorageError: if the metrics cannot be written.
      TrainingError: if a loss or gradient is not finite.
      WorkerError: if a process that loads data has died.
    """
    mesh = make_mesh(settings.mesh)
    check_batch(settings.batch_size, settings.accumulation_steps, mesh)
    with Preemption(stopped_status) as preemption:
        sources = sources or open_sets(settings.data)
        samples = sum(map(len, sources))
        model = Flair(settings.model_config())
        evaluation = (
            RetrievalEvaluation.from_settings(settings.evaluation, model) if settings.evaluation.every_steps else None
        )
        with _alone(workdir), _compilation_cache(settings.compilation_cache), jax.set_mesh(mesh):
            return _train(settings, workdir, mesh, sources, samples, model, evaluation, preemption, accept_changes)


def _train(
    settings: TrainSettings,
    workdir: Path,
    mesh: Mesh,
    sources: Sequence[Source],
    samples: int,
    model: Flair,
    evaluation: RetrievalEvaluation | None,
    preemption: Preemption,
    accept_changes: bool,
) -> Outcome:
    steps = settings.total_steps(samples)
    schedule = make_schedule(settings.optimizer, steps)
    optimizer = make_optimizer(settings.optimizer, schedule, settings.lock)
    with RunCheckpoints(workdir, settings.checkpoint, model, describe(settings, samples)) as checkpoints:
        state, first = _start(model, optimizer, mesh, settings, checkpoints, accept_changes)
        if first == steps:
            if jax.process_index() == 0:
                print(f"finished: all {steps:,} steps are done", flush=True)
            return Outcome(checkpoints.path(steps), finished=True)
        train_step = jax.jit(make_train_step(model, optimizer, settings), donate_argnums=0)
        with (
            MetricLogger(
                workdir,
                first_step=first,
                steps=steps,
                wandb_project=settings.wandb_project,
                active=jax.process_index() == 0,
            ) as logger,
            _input(sources, model, settings, first) as stream,
        ):
            logger.say(
                f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters, {samples:,} samples, "
                f"{steps:,} steps of {settings.batch_size} images on {mesh.size} "
                f"{jax.devices()[0].device_kind} device(s)" + (f"; going on after step {first:,}" if first else "")
            )
            meter = Meter(settings, model, schedule, logger)
            run = Run(settings, steps, mesh, train_step, meter, checkpoints, evaluation, logger, preemption)
            done = run.go_on(state, first, stream)
            return Outcome(checkpoints.path(done), finished=done == steps)


@contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of the folder, which the processes of this one share."""
    busy = CheckpointError(f"{workdir}: another run is at work in this folder; wait for it to end, or choose another")
    with ExitStack() as stack:
        Processes.all().first_does(lambda: stack.enter_context(locked(workdir, busy)))
        yield


def _start(
    model: Flair,
    optimizer: Any,
    mesh: Mesh,
    settings: TrainSettings,
    checkpoints: RunCheckpoints,
    accept_changes: bool,
) -> tuple[TrainState, int]:
    """The state to go on from, and the steps that it has behind it."""
    target = abstract_state(model, optimizer, mesh)
    resumed = checkpoints.restore(target, accept_changes)
    if resumed is not None:
        return resumed
    params = _initial_params(settings.init, model, target.params) if settings.init else None
    return init_state(model, optimizer, mesh, settings.seed, params), 0


def _initial_params(name: str, model: Flair, target: Any) -> Any:
    """Parameters of another run or a converted checkpoint, which must be of the same model."""
    processes = Processes.all()
    path = processes.together(lambda: checkpoint.locate(name))
    processes.agree(path.name, f"config.init={name}: the newest checkpoints")
    config = processes.together(lambda: checkpoint.read_model_config(path))
    found, wanted = config_to_json(config), config_to_json(model.config)
    names = dict.fromkeys((*wanted, *found))  # `quick_gelu` is only in descriptions where it is true
    wrong = [name for name in names if found.get(name) != wanted.get(name) and not name.startswith("init_")]
    if wrong:
        raise ConfigError(f"config.init={path}: is not the model config.model names; they differ in {', '.join(wrong)}")
    return checkpoint.restore_params(path, target, processes)


@contextmanager
def _compilation_cache(folder: str) -> Iterator[None]:
    """Keeps compiled programs in a folder until the end of the block; "": nowhere."""
    before = jax.config.values["jax_compilation_cache_dir"]
    if folder:
        try:
            jax.config.update("jax_compilation_cache_dir", str(expand(folder)))
        except ConfigError as error:
            print(f"flair-jax: compiled programs are not kept: config.compilation_cache={error}", file=sys.stderr)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@contextmanager
def _input(
    sources: Sequence[Source], model: Flair, settings: TrainSettings, first: int
) -> Iterator[Iterator[LocalBatch]]:
    """This process's batches from number `first` on; closed, with its workers, at the end."""
    stream = batches(
        sources,
        SampleSettings(
            seed=settings.seed,
            image_size=model.config.vision.image_size,
            context_length=model.config.text.context_length,
            captions_per_image=settings.captions_per_image,
            merged_sentences=settings.data.merged_sentences,
            crop_scale=settings.data.crop_scale,
            tokenizer=find_tokenizer(model.config.text.tokenizer),
        ),
        settings.batch_size,
        first=first,
        process=jax.process_index(),
        processes=jax.process_count(),
        weights=settings.data.weights,
        workers=settings.data.workers,
    )
    try:
        yield stream
    finally:
        stream.close()


@contextmanager
def _no_tracebacks_logged() -> Iterator[None]:
    """Orbax logs what fails in the background, in hundreds of lines, before it raises it."""

    def short(record: logging.LogRecord) -> bool:
        return not record.exc_info

    logger = logging.getLogger("absl")
    logger.addFilter(short)
    try:
        yield
    finally:
        logger.removeFilter(short)


def run_from_flags(options: TrainOptions) -> int:
    """Runs what a command line names, prints its newest checkpoint, and returns the exit status.

    Raises:
      FlairError: with the status to exit with: 1 for a dead data worker, else 2.
    """
    settings = TrainSettings.from_config(options.config)
    if options.distributed:
        join_cluster(options.cluster, sigterm_saves=True)
    with _no_tracebacks_logged():
        outcome = train(
            settings,
            options.workdir,
            accept_changes=options.accept_changes,
            stopped_status=options.stopped_status,
        )
    print(outcome.checkpoint)
    return 0 if outcome.finished else options.stopped_status
