"""What a run measures: losses, speed and the wait for data, from the devices to the log."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
import optax

from flair_jax.data.pipeline import LocalBatch
from flair_jax.errors import FlairError
from flair_jax.models.flair import Flair
from flair_jax.settings import TrainSettings
from flair_jax.train.flops import peak_flops, useful_flops
from flair_jax.train.health import Health
from flair_jax.train.logger import MetricLogger
from flair_jax.train.losses import CountedLoss, Loss
from flair_jax.train.step import StepMetrics


class TrainingError(FlairError):
    """A run that cannot continue, such as one whose loss is not finite."""


class _Pending(NamedTuple):
    step: int
    metrics: StepMetrics
    samples: np.ndarray
    skipped: int
    cut: int


class Meter:
    """Metrics on their way from the devices to the log, one step behind so that devices never wait for Python."""

    def __init__(
        self,
        settings: TrainSettings,
        model: Flair,
        loss: Loss,
        schedule: optax.Schedule | None,
        logger: MetricLogger,
        health: Health,
        planned_utilisation: float | None = None,
    ) -> None:
        """For a run with these settings; warns if utilisation is measured and the loss does not state its FLOPs.

        Args:
          settings: of the run.
          model: that is trained.
          loss: by which.
          schedule: of the learning rate; None if it is not known.
          logger: for the metrics.
          health: for the times of steps.
          planned_utilisation: that `flair-jax plan` expects of the steps; None if they were not planned.
        """
        self._settings, self._schedule, self._logger, self._health = settings, schedule, logger, health
        self._planned = planned_utilisation
        self._flops = useful_flops(settings, model, loss)
        peak = peak_flops(jax.devices()[0])
        self._peak = peak and peak * jax.device_count()
        if peak and not isinstance(loss, CountedLoss):
            logger.say("model_flops_utilisation counts the towers alone: the loss has no method `flops`")
        self._pending: deque[_Pending] = deque()
        self._done: list[StepMetrics] = []
        self._waited, self._skipped, self._cut, self._since = 0.0, 0, 0, time.monotonic()

    def wait_for(self, stream: Iterator[LocalBatch]) -> LocalBatch:
        """The next batch; counts how long it took."""
        start = time.monotonic()
        batch = next(stream)
        self._waited += time.monotonic() - start
        return batch

    def add(self, step: int, metrics: StepMetrics, batch: LocalBatch) -> None:
        """Takes a step's metrics, and waits for those of the step before."""
        self._pending.append(_Pending(step, metrics, batch.samples, batch.skipped, batch.cut))
        while len(self._pending) > 1:
            self._check(self._pending.popleft())
        self._logger.advance(self._settings.batch_size)

    def begin_steps(self) -> None:
        """The program is compiled: speed and the wait for data are measured from here on."""
        self._health.begin_steps()
        self._waited, self._since = 0.0, time.monotonic()

    @contextmanager
    def outside(self, what: str) -> Iterator[None]:
        """For what is no part of a step: "saving", "evaluating" or "profiling". Waits for all steps first.

        Raises:
          TrainingError: if one of them was not finite.
        """
        self.check_all()
        with self._logger.doing(what), self._health.outside(what):
            yield

    def check_all(self) -> None:
        """Waits for all steps; raises TrainingError if one of them was not finite."""
        while self._pending:
            self._check(self._pending.popleft())

    def _check(self, pending: _Pending) -> None:
        metrics = jax.tree.map(float, jax.device_get(pending.metrics))
        self._health.step_done(pending.step)
        if not (math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)):
            samples = ", ".join(map(str, pending.samples))
            raise TrainingError(
                f"step {pending.step}: loss {float(metrics.loss)}, gradient norm {float(metrics.grad_norm)}; stopped, "
                f"and the last good checkpoint is kept. Samples of this process's batch: {samples}"
            )
        self._done.append(metrics)
        self._skipped += pending.skipped
        self._cut += pending.cut

    def log(self, step: int) -> None:
        """Writes the means since the last time, and the speed."""
        self.check_all()
        count, seconds = len(self._done), time.monotonic() - self._since
        values = {
            "loss": float(np.mean([each.loss for each in self._done])),
            "grad_norm": float(np.mean([each.grad_norm for each in self._done])),
            "logit_scale": float(self._done[-1].logit_scale),
            **({"learning_rate": float(self._schedule(step - 1))} if self._schedule else {}),
            "images_per_second": count * self._settings.batch_size / seconds,
            "waiting_for_data": self._waited / seconds,
            "skipped_samples": float(self._skipped),  # of this process, since it started
            **({"cut_captions": float(self._cut)} if self._settings.packing.row_tokens else {}),  # likewise
        }
        if self._peak:
            values["model_flops_utilisation"] = count * self._flops / seconds / self._peak
        if self._planned:
            values["planned_model_flops_utilisation"] = self._planned
        self._logger.write(step, self._terms() | values | self._health.values())
        self._done.clear()
        self._waited, self._since = 0.0, time.monotonic()

    def _terms(self) -> dict[str, float]:
        """Means of the loss's terms by name; a single one that is the loss itself is not repeated."""
        names = list(self._done[0].terms)
        if len(names) == 1 and all(each.terms[names[0]] == each.loss for each in self._done):
            return {}
        return {name: float(np.mean([each.terms[name] for each in self._done])) for name in names}
