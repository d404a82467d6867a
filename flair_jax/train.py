"""Training from one configuration, on one CPU or a pod.

    python -m flair_jax.train --config=configs/demo.py --workdir=runs/demo

Single fields are changed on the command line (`--config.batch_size=64`). The same command again goes on where the run
was; with settings that would make it another run, only if --accept-changes is given. On several hosts, start it on each
with --distributed.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from flair_jax import checkpoint
from flair_jax.console import run_command
from flair_jax.data.pipeline import HostBatch, SampleSettings, batches
from flair_jax.data.sources import Source
from flair_jax.data.training_sets import open_sets
from flair_jax.errors import ConfigError, FlairError
from flair_jax.files import expand
from flair_jax.hosts import Hosts, join_cluster
from flair_jax.metric_logger import MetricLogger
from flair_jax.models.config import config_to_json
from flair_jax.models.flair import Flair
from flair_jax.optim import make_optimizer, make_schedule
from flair_jax.performance import peak_flops, step_flops
from flair_jax.run_checkpoints import RunCheckpoints
from flair_jax.run_identity import describe
from flair_jax.settings import TrainSettings
from flair_jax.sharding import check_batch, global_batch, make_mesh
from flair_jax.train_evaluation import RetrievalEvaluation
from flair_jax.train_state import Batch, StepMetrics, TrainState, abstract_state, init_state, make_train_step


class TrainingError(FlairError):
    """A run that cannot go on, such as one whose loss is not finite."""


class Outcome(NamedTuple):
    """How far training came: the folder of its newest checkpoint, which `flair_jax.load` reads, and whether that is of
    the last step.
    """

    checkpoint: Path
    finished: bool


def train(
    settings: TrainSettings, workdir: Path, sources: Sequence[Source] = (), *, accept_changes: bool = False
) -> Outcome:
    """Trains, or goes on training, until the last step or a SIGTERM.

    Args:
      settings: of the run.
      workdir: folder for checkpoints and metrics; a run found there goes on.
      sources: training samples, instead of the data sets that the settings name.
      accept_changes: go on with a run even if its settings were others that make it another run.

    Raises:
      ConfigError: if the settings cannot be.
      DatasetError: if the data is not there.
      CheckpointError: if the folder holds another run or no checkpoint that is whole, or `init` none.
      TrainingError: if a loss or gradient is not finite.
    """
    mesh = make_mesh(settings.mesh)
    check_batch(settings.batch_size, settings.accumulation_steps, mesh)
    sources = sources or open_sets(settings.data)
    samples = sum(map(len, sources))
    steps = settings.total_steps(samples)
    model = Flair(settings.model_config())
    schedule = make_schedule(settings.optimizer, steps)
    optimizer = make_optimizer(settings.optimizer, schedule, settings.lock)
    evaluation = (
        RetrievalEvaluation.from_settings(settings.evaluation, model) if settings.evaluation.every_steps else None
    )
    workdir.mkdir(parents=True, exist_ok=True)
    with (
        _compilation_cache(settings.compilation_cache),
        jax.set_mesh(mesh),
        _preemption_notice() as preempted,
        RunCheckpoints(workdir, settings.checkpoint, model.config, describe(settings, samples)) as checkpoints,
    ):
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
            meter = _Meter(settings, model, schedule, logger)
            logger.say(
                f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters, {samples:,} samples, "
                f"{steps:,} steps of {settings.batch_size} images on {mesh.size} "
                f"{jax.devices()[0].device_kind} device(s)" + (f"; going on after step {first:,}" if first else "")
            )
            for step in range(first + 1, steps + 1):
                batch = meter.wait_for(stream)
                state, metrics = train_step(state, global_batch(Batch(batch.pixels, batch.tokens), mesh))
                meter.add(step, metrics, batch)
                stopping = preempted(step)
                if step % settings.log_every_steps == 0 or step == steps or stopping:
                    meter.log(step)
                if step % settings.checkpoint.every_steps == 0 or step == steps or stopping:
                    meter.check_all()  # a state that is not finite is never saved
                    checkpoints.save(state, step)
                if evaluation and (step % settings.evaluation.every_steps == 0 or step == steps) and not stopping:
                    logger.write(step, evaluation.run(state.params))
                if stopping:
                    checkpoints.wait()
                    logger.say(f"stopped by SIGTERM after step {step:,}; saved. The same command goes on from there.")
                    return Outcome(checkpoints.path(step), finished=step == steps)
            checkpoints.wait()
            return Outcome(checkpoints.path(steps), finished=True)


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
    hosts = Hosts.all()
    path = hosts.together(lambda: checkpoint.locate(name))
    hosts.agree(path.name, f"config.init={name}: the newest checkpoints")
    config = hosts.together(lambda: checkpoint.read_model_config(path))
    found, wanted = config_to_json(config), config_to_json(model.config)
    names = dict.fromkeys((*wanted, *found))  # `quick_gelu` is only in descriptions where it is true
    wrong = [name for name in names if found.get(name) != wanted.get(name) and not name.startswith("init_")]
    if wrong:
        raise ConfigError(f"config.init={path}: is not the model config.model names; they differ in {', '.join(wrong)}")
    return checkpoint.restore_params(path, target, hosts)


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
) -> Iterator[Iterator[HostBatch]]:
    """This host's batches from number `first` on; closed, with its workers, at the end."""
    stream = batches(
        sources,
        SampleSettings(
            seed=settings.seed,
            image_size=model.config.vision.image_size,
            context_length=model.config.text.context_length,
            captions_per_image=settings.captions_per_image,
            merged_sentences=settings.data.merged_sentences,
            crop_scale=settings.data.crop_scale,
        ),
        settings.batch_size,
        first=first,
        host=jax.process_index(),
        hosts=jax.process_count(),
        weights=settings.data.weights,
        workers=settings.data.workers,
    )
    try:
        yield stream
    finally:
        stream.close()


@contextmanager
def _preemption_notice() -> Iterator[Any]:
    """A function of the step: whether to save and stop now. On several hosts all are told to at the same step."""
    if jax.process_count() > 1:  # JAX's own service has taken SIGTERM, and agrees on the step
        yield multihost_utils.reached_preemption_sync_point
        return
    received = False

    def receive(_number: int, _frame: FrameType | None) -> None:
        nonlocal received
        received = True

    try:
        before = signal.signal(signal.SIGTERM, receive)
    except ValueError:  # not the main thread: whoever runs us has to deal with signals
        yield lambda step: False
        return
    try:
        yield lambda step: received
    finally:
        signal.signal(signal.SIGTERM, before)


class _Pending(NamedTuple):
    step: int
    metrics: StepMetrics
    samples: np.ndarray
    skipped: int


class _Meter:
    """Metrics on their way from the devices to the log, one step behind so that devices never wait for the host."""

    def __init__(self, settings: TrainSettings, model: Flair, schedule: Any, logger: MetricLogger) -> None:
        self._settings, self._schedule, self._logger = settings, schedule, logger
        self._flops = step_flops(
            *(model.config, settings.batch_size, settings.captions_per_image, settings.group_size),
            terms=settings.loss.terms,
            lock=settings.lock,
        )
        peak = peak_flops(jax.devices()[0])
        self._peak = peak and peak * jax.device_count()
        self._pending: deque[_Pending] = deque()
        self._done: list[StepMetrics] = []
        self._waited, self._skipped, self._since = 0.0, 0, time.monotonic()

    def wait_for(self, stream: Iterator[HostBatch]) -> HostBatch:
        start = time.monotonic()
        batch = next(stream)
        self._waited += time.monotonic() - start
        return batch

    def add(self, step: int, metrics: StepMetrics, batch: HostBatch) -> None:
        """Takes a step's metrics, and waits for those of the step before."""
        self._pending.append(_Pending(step, metrics, batch.samples, batch.skipped))
        while len(self._pending) > 1:
            self._check(self._pending.popleft())
        self._logger.advance(self._settings.batch_size)

    def check_all(self) -> None:
        """Waits for all steps; raises TrainingError if one of them was not finite."""
        while self._pending:
            self._check(self._pending.popleft())

    def _check(self, pending: _Pending) -> None:
        metrics = StepMetrics(*(float(value) for value in jax.device_get(pending.metrics)))  # type: ignore[arg-type]
        if not (math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)):
            samples = ", ".join(map(str, pending.samples))
            raise TrainingError(
                f"step {pending.step}: loss {float(metrics.loss)}, gradient norm {float(metrics.grad_norm)}; stopped, "
                f"and the last good checkpoint is kept. Samples of this host's batch: {samples}"
            )
        self._done.append(metrics)
        self._skipped += pending.skipped

    def log(self, step: int) -> None:
        """Writes the means since the last time, and the speed."""
        self.check_all()
        count, seconds = len(self._done), time.monotonic() - self._since
        values = {name: float(np.mean([getattr(each, name) for each in self._done])) for name in ("loss", "tcs", "mps")}
        if set(self._settings.loss.terms) != {"tcs", "mps"}:
            values = {"loss": values["loss"]}
        values |= {
            "grad_norm": float(np.mean([each.grad_norm for each in self._done])),
            "logit_scale": float(self._done[-1].logit_scale),
            "learning_rate": float(self._schedule(step - 1)),
            "images_per_second": count * self._settings.batch_size / seconds,
            "waiting_for_data": self._waited / seconds,
            "skipped_samples": float(self._skipped),  # of this host, since it started
        }
        if self._peak:
            values["model_flops_utilisation"] = count * self._flops / seconds / self._peak
        self._logger.write(step, values)
        self._done.clear()
        self._waited, self._since = 0.0, time.monotonic()


def main(arguments: Sequence[str]) -> int:
    """The command `python -m flair_jax.train`, and `flair-jax train`.

    Args:
      arguments: the words after the command.

    Returns:
      The exit status: 0 at the end, and after a SIGTERM unless --stopped-status says otherwise; 2 for bad input, which
      is explained in one sentence on stderr.
    """
    from flair_jax.train_flags import parse

    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        options = parse(arguments)
        settings = TrainSettings.from_config(options.config)
        if options.distributed:
            join_cluster(options.cluster, sigterm_saves=True)
        outcome = train(settings, options.workdir, accept_changes=options.accept_changes)
    except FlairError as error:
        print(f"flair-jax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flair-jax: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    print(outcome.checkpoint)
    return 0 if outcome.finished else options.stopped_status


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
