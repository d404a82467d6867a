"""The checkpoints of a run whose model is so small that they are saved and restored in the process, in an instant."""

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flair_jax.configs.default import get_config
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import make_mesh
from flair_jax.settings import TrainSettings
from flair_jax.train.checkpoints import RunCheckpoints
from flair_jax.train.identity import describe_run
from flair_jax.train.optim import make_optimizer, make_schedule
from flair_jax.train.step import Batch, StepMetrics, TrainState, abstract_state, init_state, make_train_step

MODEL = {
    "embed_dim": 8,
    "pooling_heads": 2,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 8, "layers": 2, "head_width": 4},
    "text_cfg": {"width": 8, "layers": 2, "heads": 2, "context_length": 16, "vocab_size": 64},
}
SAMPLES = 40


def batch(number: int) -> Batch:
    """8 pictures of noise with 2 captions each, which the number decides."""
    rng = np.random.default_rng(number)
    tokens = np.zeros((16, 16), np.int32)
    tokens[:, :6] = rng.integers(1, 60, (16, 6))
    tokens[:, 6] = 63
    return Batch(rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8), tokens)


def settings(folder: Path, **changes: Any) -> TrainSettings:
    """The run's, with the model's description in `folder`; a name of two levels has a dot."""
    model = folder / "model.json"
    if not model.exists():
        model.write_text(json.dumps(MODEL))
    config = get_config()
    config.update(model=str(model), dtype="float32", batch_size=8, captions_per_image=2, steps=12)
    config.loss.group_size = 4
    config.optimizer.warmup_steps = 2
    config.data.name = "scenes/small"
    config.checkpoint.every_steps = 3
    config.update_from_flattened_dict(changes)
    return TrainSettings.from_config(config)


class SmallRun:
    """A run with these settings in `workdir`, whose parts are made once."""

    def __init__(self, workdir: Path, settings: TrainSettings, samples: int = SAMPLES) -> None:
        self.workdir, self.settings, self.samples = workdir, settings, samples
        self.mesh = make_mesh(settings.mesh, jax.devices()[:1])
        self.model = Flair(settings.model_config())
        schedule = make_schedule(settings.optimizer, settings.total_steps(samples))
        self.optimizer = make_optimizer(settings.optimizer, schedule, settings.lock)

    def checkpoints(self) -> RunCheckpoints:
        return RunCheckpoints(
            self.workdir, self.settings.checkpoint, self.model, describe_run(self.settings, self.samples)
        )

    @functools.cached_property
    def target(self) -> TrainState:
        return abstract_state(self.model, self.optimizer, self.mesh, ema=self.settings.optimizer.ema_decay > 0)

    def first(self) -> TrainState:
        """The state before the first step."""
        with jax.set_mesh(self.mesh):
            return init_state(
                self.model, self.optimizer, self.mesh, self.settings.seed, ema=self.settings.optimizer.ema_decay > 0
            )

    @functools.cached_property
    def _step(self) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
        return jax.jit(make_train_step(self.model, self.optimizer, self.settings))

    def train(self, state: TrainState, steps: Iterable[int]) -> tuple[TrainState, list[float]]:
        """The state after steps on the batches of these numbers, and the losses before them."""
        losses = []
        with jax.set_mesh(self.mesh):
            for number in steps:
                state, metrics = self._step(state, batch(number))
                losses.append(float(metrics.loss))
        return state, losses

    def state(self, step: int) -> TrainState:
        """One in which every number is the step."""
        return jax.tree.map(lambda leaf: jax.device_put(np.full(leaf.shape, step, leaf.dtype)), self.target)

    def save(self, *steps: int) -> None:
        with jax.set_mesh(self.mesh), self.checkpoints() as checkpoints:
            for step in steps:
                checkpoints.save(self.state(step), step)

    def restore(self, accept_changes: bool = False) -> tuple[TrainState, int] | None:
        with jax.set_mesh(self.mesh), self.checkpoints() as checkpoints:
            return checkpoints.restore(self.target, self.optimizer, accept_changes)
