"""Sets up a training run: data, model, mesh, the state to resume from, metrics and evaluation."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from flair_jax.buckets import is_for_orbax
from flair_jax.compiling import compiling, on_devices
from flair_jax.data.sources import Source
from flair_jax.errors import ConfigError, plural
from flair_jax.files import expand
from flair_jax.models.attention import describe_choices
from flair_jax.models.flair import Flair
from flair_jax.parallel.processes import connect_devices
from flair_jax.parallel.sharding import check_batch, make_mesh
from flair_jax.settings import TrainSettings
from flair_jax.train.background import Background
from flair_jax.train.checkpoints import RunCheckpoints
from flair_jax.train.evaluation import RunEvaluation, find_evaluations
from flair_jax.train.from_release import resume_release
from flair_jax.train.goodput import EVERY
from flair_jax.train.health import Health
from flair_jax.train.identity import describe_run
from flair_jax.train.initial import initial_params
from flair_jax.train.input import open_input, repeats_pictures
from flair_jax.train.logger import MetricLogger
from flair_jax.train.loop import Run
from flair_jax.train.losses import Loss, make_loss
from flair_jax.train.meter import Meter
from flair_jax.train.objects import Objects, find_sources, make_objects
from flair_jax.train.planned import planned_utilisation
from flair_jax.train.preemption import Preemption
from flair_jax.train.profile import Profiler
from flair_jax.train.startup import Startup
from flair_jax.train.step import TrainState, abstract_state, init_state, make_train_step
from flair_jax.train.surroundings import alone, compilation_cache
from flair_jax.train.trial import try_out


class Outcome(NamedTuple):
    """How far training got: its newest checkpoint, for `flair_jax.load`, and whether it is all that was asked for."""

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
    until: int | None = None,
    accept_changes: bool = False,
    stopped_status: int = 0,
    startup: Startup | None = None,
) -> Outcome:
    """Trains, or resumes training, until the last step or a SIGTERM.

    Four objects may replace our own. A configuration file can make them as well, with functions in `config.factories`,
    so that `flair-jax train` and `flair-jax plan` use them; objects given here take precedence. The run's identity
    includes their qualified names: with others it is another run.

    Args:
      settings: of the run. `settings.extra` is for objects of your own.
      workdir: folder for checkpoints and metrics; a run found there is resumed. Only one run at a time may use it.
      sources: training samples instead of the data sets that `settings.data` names.
      model: instead of the one that `settings.model` names. `dtype`, `remat`, `unroll` and `attention` of its `config`
        must be those of the settings.
      optimizer: instead of `make_optimizer(settings.optimizer, ...)`; its learning rate is not logged. Towers in
        `settings.lock` keep their weights all the same.
      loss: instead of `make_loss(settings.loss, settings.group_size)`.
      until: save after this step and return, if the last is further; the next call goes on from there.
      accept_changes: resume a run even if changed settings make it another run.
      stopped_status: exit status if SIGTERM comes before there is anything to save, and the process is under
        `interrupts.run`.
      startup: measures the time to the first step, if it began before this call.

    Raises:
      ConfigError: if the settings or an object are invalid, or a factory fails.
      DatasetError: if the data is not there, that of the evaluation included.
      CheckpointError: if the folder holds another run, one that is at work or no intact checkpoint, `init` is not a
        checkpoint, or a checkpoint cannot be written.
      StorageError: if the metrics cannot be written.
      TrainingError: if a loss or gradient is not finite.
      WorkerError: if a process that loads data has died.
    """
    workdir, startup = find_workdir(workdir), startup or Startup()
    with startup.phase("devices"):
        mesh = make_mesh(settings.mesh)
    check_batch(settings.batch_size, settings.accumulation_steps, mesh)
    with Preemption(stopped_status) as preemption:
        setup = _set_up(settings, mesh, sources, model, optimizer, loss, startup)
        with (
            alone(workdir),
            compilation_cache(settings.compilation_cache),
            jax.set_mesh(mesh),
            RunCheckpoints(workdir, settings.checkpoint, setup.objects.model, setup.identity) as checkpoints,
        ):
            with startup.phase("restore"):
                state, done = _start(setup, checkpoints, accept_changes)
            last = setup.steps if until is None else min(until, setup.steps)
            done = _train_from(setup, workdir, checkpoints, preemption, startup, state, done, last)
            return Outcome(checkpoints.path(done), finished=done >= last)


def find_workdir(name: str | Path) -> Path:
    """A run's folder; raises ConfigError if Orbax cannot write checkpoints there."""
    workdir = expand(name)
    if not is_for_orbax(workdir):
        raise ConfigError(
            f"{workdir}: checkpoints of a run are written to gs:// and to disks; mount the bucket instead"
        )
    return workdir


class _Setup(NamedTuple):
    """A run that is ready to start.

    `names` are of objects that are not our own; `identity` is from `describe_run`, `attention` from `describe_choices`.
    """

    settings: TrainSettings
    steps: int
    mesh: Mesh
    sources: Sequence[Source]
    objects: Objects
    names: Mapping[str, str]
    identity: dict[str, Any]
    evaluations: tuple[RunEvaluation, ...]
    attention: str


def _set_up(
    settings: TrainSettings,
    mesh: Mesh,
    sources: Sequence[Source],
    model: Flair | None,
    optimizer: optax.GradientTransformation | None,
    loss: Loss | None,
    startup: Startup,
) -> _Setup:
    """Opens the data, and makes the objects that train on it."""
    if loss is None and settings.factories.loss is None:
        make_loss(settings.loss, settings.group_size)  # which may name unknown terms: opening data can take hours
    with startup.phase("data"):
        sources, name_of_sources = find_sources(settings, sources)
    samples = sum(map(len, sources))
    steps = settings.total_steps(samples)
    if (crowded := repeats_pictures(settings.batch_size, samples)) and jax.process_index() == 0:
        logging.warning("%s", crowded)
    objects = make_objects(dataclasses.replace(settings, steps=steps), model=model, optimizer=optimizer, loss=loss)
    with jax.set_mesh(mesh):
        config, own = objects.model.config, objects.model.other_towers
        attention = describe_choices(config, settings.packing.row_tokens, own=own, patches=settings.patches(config))
        try_out(objects, settings)
    names = {**name_of_sources, **objects.names}
    identity = describe_run(settings, samples, objects.model.config, names)
    with startup.phase("data"):
        evaluations = find_evaluations(settings, objects.model)
    return _Setup(settings, steps, mesh, sources, objects, names, identity, evaluations, attention)


def _start(setup: _Setup, checkpoints: RunCheckpoints, accept_changes: bool) -> tuple[TrainState, int]:
    """The state to start or resume from, and the number of steps that are done."""
    model, optimizer, settings = setup.objects.model, setup.objects.optimizer, setup.settings
    ema = settings.optimizer.ema_decay > 0
    connect_devices(setup.mesh)
    target = abstract_state(model, optimizer, setup.mesh, ema=ema)
    resumed = checkpoints.restore(target, optimizer, accept_changes)
    if resumed is not None:
        return resumed
    if settings.resume:
        return resume_release(settings, setup.steps, model, target)
    params = initial_params(settings.init, model, target.params) if settings.init else None
    with compiling(f"the initial state{on_devices(setup.mesh.size)}"):
        return init_state(model, optimizer, setup.mesh, settings.seed, params, ema=ema), 0


def _train_from(
    setup: _Setup,
    workdir: Path,
    checkpoints: RunCheckpoints,
    preemption: Preemption,
    startup: Startup,
    state: TrainState,
    first: int,
    last: int,
) -> int:
    """Trains after `first` steps; returns how many are done at the end, which is `last`, or at a SIGTERM."""
    if first >= last:
        if first == setup.steps and jax.process_index() == 0:
            print(f"finished: all {first:,} steps are done", flush=True)
        return first
    settings, objects = setup.settings, setup.objects
    step = make_train_step(objects.model, objects.optimizer, settings, loss=objects.loss)
    with (
        MetricLogger(
            workdir,
            first_step=first,
            steps=last,
            wandb_project=settings.wandb_project,
            active=jax.process_index() == 0,
        ) as logger,
        Background(EVERY) as background,
        Health(workdir, setup.identity, first, startup, background) as health,
        open_input(settings, objects.model, setup.sources, setup.mesh, first) as stream,
    ):
        background.add("metrics cannot be written", logger.upload)
        startup.show = logger.show
        logger.say(
            f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters, "
            f"{plural(sum(map(len, setup.sources)), 'sample')}, {plural(setup.steps, 'step')} of "
            f"{plural(settings.batch_size, 'image')} on "
            f"{plural(setup.mesh.size, f'{jax.devices()[0].device_kind} device')}"
            + (f"; resuming after step {first:,}" if first else "")
            + (f"; this call stops after step {last:,}" if last < setup.steps else "")
            + ("; evaluations take the average of the parameters" if state.ema is not None else "")
        )
        logger.say(setup.attention)
        if setup.names:
            logger.say("not our own: " + "; ".join(f"{kind} {name}" for kind, name in setup.names.items()))
        planned = planned_utilisation(workdir, setup.identity, setup.mesh, logger)
        meter = Meter(settings, objects.model, objects.loss, objects.schedule, logger, health, planned)
        run = Run(
            settings=settings,
            steps=last,
            mesh=setup.mesh,
            train_step=jax.jit(step, donate_argnums=0),
            meter=meter,
            checkpoints=checkpoints,
            evaluations=setup.evaluations,
            logger=logger,
            preemption=preemption,
            startup=startup,
            profiler=Profiler(settings.profile_steps, workdir, logger, meter.outside),
            background=background,
        )
        return run.train(state, first, stream)
