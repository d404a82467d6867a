"""The steps of a training run: train, log, save, evaluate, and stop when SIGTERM comes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import jax
from jax.sharding import Mesh

from flair_jax.compiling import compiling, on_devices
from flair_jax.data.pipeline import LocalBatch
from flair_jax.errors import CheckpointError, FlairError
from flair_jax.files import storage_reason
from flair_jax.parallel.sharding import global_batch
from flair_jax.settings import TrainSettings
from flair_jax.train.background import Background
from flair_jax.train.checkpoints import RunCheckpoints
from flair_jax.train.evaluation import RunEvaluation
from flair_jax.train.logger import MetricLogger, evaluation_in_words
from flair_jax.train.meter import Meter
from flair_jax.train.preemption import Preempted, Preemption
from flair_jax.train.profile import Profiler
from flair_jax.train.startup import Startup
from flair_jax.train.step import Batch, StepMetrics, TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run, ready for its steps."""

    settings: TrainSettings
    steps: int
    mesh: Mesh
    train_step: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
    meter: Meter
    checkpoints: RunCheckpoints
    evaluations: tuple[RunEvaluation, ...]
    logger: MetricLogger
    preemption: Preemption
    startup: Startup
    profiler: Profiler
    background: Background

    def train(self, state: TrainState, done: int, stream: Iterator[LocalBatch]) -> int:
        """Trains after `done` steps, and saves; returns how many are done at the end, or at a SIGTERM."""
        with self.profiler:
            done, stopped = self._train(state, done, stream)
            with self._saving(done):
                self.checkpoints.wait()
        if stopped:
            self.logger.say(f"stopped by SIGTERM after step {done:,}; saved. The same command resumes from there.")
        return done

    def _train(self, state: TrainState, done: int, stream: Iterator[LocalBatch]) -> tuple[int, bool]:
        """The steps; returns how many are done, and whether a SIGTERM ended them."""
        stopping = False
        while done < self.steps and not stopping:
            try:
                with self.profiler.step(done):
                    with self.preemption.may_break(), self.startup.phase("data"):
                        batch = self.meter.wait_for(stream)
                    with self.startup.phase("compile"), self._compiling():
                        state, metrics = self.train_step(state, self._on_devices(batch))
                self.preemption.await_steps()
                if self.startup.running:
                    self._end_startup(metrics)
                done += 1
                self.meter.add(done, metrics, batch)
                stopping = self.preemption.reached(done)
                if done % self.settings.log_every_steps == 0 or done == self.steps or stopping:
                    self.meter.log(done)
                    with self._saving(done):
                        self.checkpoints.check()
                if done % self.settings.checkpoint.every_steps == 0 or done == self.steps or stopping:
                    self._save(state, done)
                if not stopping:
                    self._evaluate(state, done)
            except Preempted:
                stopping = True
                self._save(state, done)
        return done, stopping

    def _compiling(self) -> AbstractContextManager[None]:
        step = f"the training step{on_devices(self.mesh.size)}"
        return compiling(step) if self.startup.running else contextlib.nullcontext()

    def _on_devices(self, batch: LocalBatch) -> Batch:
        return global_batch(Batch(batch.pixels, batch.tokens), self.mesh)

    def _end_startup(self, metrics: StepMetrics) -> None:
        """Waits for the first step, once it is compiled."""
        self.meter.begin_steps()
        with self.startup.phase("first_step"):
            jax.block_until_ready(metrics)
        self.startup.finish()

    def _save(self, state: TrainState, done: int) -> None:
        with self.meter.outside("saving"), self._saving(done):  # a state that is not finite is never saved
            self.logger.upload()  # resuming from there, it must have what was logged before
            self.checkpoints.save(state, done)
        self.background.wake()

    @contextmanager
    def _saving(self, done: int) -> Iterator[None]:
        """Explains the failure of a checkpoint: this one, or one that is written in the background."""
        try:
            yield
        except FlairError:
            raise
        except Exception as error:  # of Orbax, its storage, or the disk
            reason = storage_reason(error) or (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise CheckpointError(
                f"{self.checkpoints.path(done).parent}: the checkpoint of step {done:,} or of one before cannot be "
                f"written: {reason}. What was saved before is whole, and the same command resumes from there"
            ) from error

    def _evaluate(self, state: TrainState, done: int) -> None:
        """Makes the evaluations that are due. If one fails, that is logged, and training continues."""
        values: dict[str, float] = {}
        try:
            for evaluation in self.evaluations:
                if done % evaluation.every_steps == 0 or done == self.steps:
                    with self.meter.outside("evaluating"):
                        values |= self._evaluated(evaluation, state, done)
        finally:  # at a SIGTERM, what is measured is kept
            if values:
                self.logger.write(done, values)

    def _evaluated(self, evaluation: RunEvaluation, state: TrainState, done: int) -> dict[str, float]:
        try:
            with self.preemption.may_break():
                values = evaluation.run(state.evaluated)
            self.logger.say(f"evaluated after step {done:,}: {evaluation_in_words(values)}")
            return values
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            which = f"the evaluation {evaluation.name}".rstrip()
            self.logger.say(f"{which} after step {done:,} has failed, and training continues: {reason}")
            return {f"{evaluation.prefix}failed": 1.0}
