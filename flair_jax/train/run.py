"""Sets up a training run: data, model, mesh, the state to resume from, and what watches over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from flair_jax import checkpoint
from flair_jax.data.pipeline import LocalBatch, SampleSettings, batches
from flair_jax.data.sources import Source
from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.errors import ConfigError
from flair_jax.files import expand
from flair_jax.models.description import config_to_json
from flair_jax.models.flair import Flair, Params
from flair_jax.parallel.processes import Processes, join_cluster
from flair_jax.parallel.sharding import check_batch, make_mesh
from flair_jax.settings import TrainSettings
from flair_jax.train.checkpoints import RunCheckpoints
from flair_jax.train.evaluation import RetrievalEvaluation
from flair_jax.train.flags import TrainOptions
from flair_jax.train.identity import describe
from flair_jax.train.logger import MetricLogger
from flair_jax.train.loop import Run
from flair_jax.train.losses import Loss
from flair_jax.train.meter import Meter
from flair_jax.train.objects import Objects, find_sources, make_objects
from flair_jax.train.preemption import Preemption
from flair_jax.train.step import TrainState, abstract_state, init_state, make_train_step
from flair_jax.train.surroundings import alone, compilation_cache, no_tracebacks_logged
from flair_jax.weights.locate import locate


class Outcome(NamedTuple):
    """How far training came: the folder of its newest checkpoint, which `flair_jax.load` reads, and whether that is of
    the last step.
    """

    checkpoint: Path
    finished: bool


def train(
    settings: TrainSettings,
    workdir: str | Path,
    *,
    sources: Sequence[Source] = (),
    model: Flair | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss | None = None,
    accept_changes: bool = False,
    stopped_status: int = 0,
) -> Outcome:
    """Trains, or goes on training, until the last step or a SIGTERM.

    Four objects may take the place of our own. A configuration file can make them as well, with functions in
    `config.factories`, so that `flair-jax train` and `flair-jax plan` work for it; what is given here goes before
    those. The run's identity has their qualified names: with others it is another run.

    Args:
      settings: of the run. `settings.extra` is for objects of your own.
      workdir: folder for checkpoints and metrics; a run found there goes on. One run at a time has it.
      sources: training samples instead of the data sets that `settings.data` names.
      model: instead of the one that `settings.model` names. `dtype`, `remat` and `unroll` of its `config` must be those
        of the settings.
      optimizer: instead of `make_optimizer(settings.optimizer, ...)`; its learning rate is not logged. Towers in
        `settings.lock` keep their weights all the same.
      loss: instead of `make_loss(settings.loss, settings.group_size)`.
      accept_changes: go on with a run even if its settings were others that make it another run.
      stopped_status: with which the process ends if SIGTERM comes before there is anything to save, and the process is
        one of `interrupts.run`.

    Raises:
      ConfigError: if the settings or an object cannot be, or a factory fails.
      DatasetError: if the data is not there, that of the evaluation included.
      CheckpointError: if the folder holds another run, one that is at work or no checkpoint that is whole, `init` is no
        checkpoint, or one cannot be written.
      StorageError: if the metrics cannot be written.
      TrainingError: if a loss or gradient is not finite.
      WorkerError: if a process that loads data has died.
    """
    workdir = expand(workdir)
    mesh = make_mesh(settings.mesh)
    check_batch(settings.batch_size, settings.accumulation_steps, mesh)
    with Preemption(stopped_status) as preemption:
        sources, name_of_sources = find_sources(settings, sources)
        samples = sum(map(len, sources))
        whole = dataclasses.replace(settings, steps=settings.total_steps(samples))
        objects = make_objects(whole, model=model, optimizer=optimizer, loss=loss)
        evaluation = (
            RetrievalEvaluation.from_settings(settings.evaluation, objects.model)
            if settings.evaluation.every_steps
            else None
        )
        names = {**name_of_sources, **objects.names}
        identity = describe(settings, samples, objects.model.config, names)
        with (
            alone(workdir),
            compilation_cache(settings.compilation_cache),
            jax.set_mesh(mesh),
            RunCheckpoints(workdir, settings.checkpoint, objects.model, identity) as checkpoints,
        ):
            setup = _Setup(whole, mesh, sources, objects, names, evaluation, checkpoints, preemption)
            state, first = _start(setup, accept_changes)
            if first == whole.steps:
                if jax.process_index() == 0:
                    print(f"finished: all {whole.steps:,} steps are done", flush=True)
                return Outcome(checkpoints.path(first), finished=True)
            done = _go_on(setup, workdir, state, first)
            return Outcome(checkpoints.path(done), finished=done == whole.steps)


class _Setup(NamedTuple):
    """A run that is ready to start; the settings say how many steps it has, `names` what is not our own."""

    settings: TrainSettings
    mesh: Mesh
    sources: Sequence[Source]
    objects: Objects
    names: Mapping[str, str]
    evaluation: RetrievalEvaluation | None
    checkpoints: RunCheckpoints
    preemption: Preemption


def _start(setup: _Setup, accept_changes: bool) -> tuple[TrainState, int]:
    """The state to go on from, and the steps that it has behind it."""
    model, optimizer, settings = setup.objects.model, setup.objects.optimizer, setup.settings
    ema = settings.optimizer.ema_decay > 0
    target = abstract_state(model, optimizer, setup.mesh, ema=ema)
    resumed = setup.checkpoints.restore(target, optimizer, accept_changes)
    if resumed is not None:
        return resumed
    params = _initial_params(settings.init, model, target.params) if settings.init else None
    return init_state(model, optimizer, setup.mesh, settings.seed, params, ema=ema), 0


def _go_on(setup: _Setup, workdir: Path, state: TrainState, first: int) -> int:
    """Trains after `first` steps; returns how many are done at the end, or at a SIGTERM."""
    settings, objects = setup.settings, setup.objects
    step = make_train_step(objects.model, objects.optimizer, settings, objects.loss)
    with (
        MetricLogger(
            workdir,
            first_step=first,
            steps=settings.steps,
            wandb_project=settings.wandb_project,
            active=jax.process_index() == 0,
        ) as logger,
        _input(setup.sources, objects.model, settings, first) as stream,
    ):
        logger.say(
            f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters, "
            f"{sum(map(len, setup.sources)):,} samples, {settings.steps:,} steps of {settings.batch_size} images on "
            f"{setup.mesh.size} {jax.devices()[0].device_kind} device(s)"
            + (f"; going on after step {first:,}" if first else "")
            + ("; evaluations take the average of the parameters" if state.ema is not None else "")
        )
        if setup.names:
            logger.say("not our own: " + "; ".join(f"{kind} {name}" for kind, name in setup.names.items()))
        run = Run(
            settings=settings,
            steps=settings.steps,
            mesh=setup.mesh,
            train_step=jax.jit(step, donate_argnums=0),
            meter=Meter(settings, objects.model, objects.loss, objects.schedule, logger),
            checkpoints=setup.checkpoints,
            evaluation=setup.evaluation,
            logger=logger,
            preemption=setup.preemption,
        )
        return run.go_on(state, first, stream)


def _initial_params(name: str, model: Flair, target: Params) -> Params:
    """Parameters of another run or a converted checkpoint, which must be of the same model."""
    processes = Processes.all()
    path = processes.together(lambda: locate(name))
    processes.agree(path.name, f"config.init={name}: the newest checkpoints")
    config = processes.together(lambda: checkpoint.read_model_config(path))
    found, wanted = config_to_json(config), config_to_json(model.config)
    names = dict.fromkeys((*wanted, *found))  # `quick_gelu` is only in descriptions where it is true
    wrong = [name for name in names if found.get(name) != wanted.get(name) and not name.startswith("init_")]
    if wrong:
        raise ConfigError(f"config.init={path}: is not the model config.model names; they differ in {', '.join(wrong)}")
    return checkpoint.restore_params(path, target, processes)


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


def run_from_flags(options: TrainOptions) -> int:
    """Runs what a command line names, prints its newest checkpoint, and returns the exit status.

    Raises:
      FlairError: with the status to exit with: 1 for a dead data worker, else 2.
    """
    settings = TrainSettings.from_config(options.config)
    if options.distributed:
        join_cluster(options.cluster, sigterm_saves=True)
    with no_tracebacks_logged():
        outcome = train(
            settings,
            options.workdir,
            accept_changes=options.accept_changes,
            stopped_status=options.stopped_status,
        )
    print(outcome.checkpoint)
    return 0 if outcome.finished else options.stopped_status
