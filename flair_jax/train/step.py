"""The state of training, and the compiled step that changes it.

How a batch becomes a gradient: `TrainStep.encode` normalises the pixels and runs the towers (`Flair.encode_image`,
`Flair.encode_text`); a `Loss`, as published `flair_loss`, compares all features; `TrainStep.gradients` differentiates,
at once or in parts; and the optimiser of `flair_jax.train.optim` updates the parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair, Params
from flair_jax.models.tokens import PackedTexts
from flair_jax.parallel.sharding import BATCH, shardings
from flair_jax.settings import TrainSettings
from flair_jax.train.locked import stop_locked
from flair_jax.train.loss_context import CaptionSampler, Features
from flair_jax.train.losses import Loss, LossValues, check_values, make_loss
from flair_jax.train.optim import clamp_logit_scale, update_ema

# Constants folded into the run's seed, one for each use of randomness.
_INIT, _CAPTIONS, _PATCHES = 0, 1, 2


class TrainState(NamedTuple):
    """All that a step changes, as a tree of arrays; `ema`, the average of the parameters, is None where it is off."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    ema: Params | None = None

    @property
    def evaluated(self) -> Params:
        """The parameters to evaluate: their average, if there is one."""
        return self.params if self.ema is None else self.ema


class Batch(NamedTuple):
    """N images and K captions of each.

    Attributes:
      pixels: of the images.
      tokens: rows `i*K` to `i*K+K-1` belong to image i. Or packed, as `flair_jax.train.packing` says: a group holds the
        captions of one device's images, or one part of these with `accumulation_steps`.
      kept: numbers of the patches that the image tower sees of each image; None: all. A step draws them itself.
    """

    pixels: UInt8[Array | np.ndarray, "N S S 3"]
    tokens: Int[Array | np.ndarray, "NK T"] | PackedTexts
    kept: Int[Array, "N k"] | None = None


class StepMetrics(NamedTuple):
    """Scalars of one step.

    Attributes:
      loss: before the step.
      terms: of the loss, by name.
      grad_norm: norm of all gradients before clipping.
      logit_scale: exp of the parameter, after the step.
    """

    loss: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    grad_norm: Float[Array, ""]
    logit_scale: Float[Array, ""]


def abstract_state(
    model: Flair, optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool = False
) -> TrainState:
    """Shapes, dtypes and shardings of the state, at no cost in memory; for initialising, restoring and planning.

    Args:
      model: the model.
      optimizer: such as `make_optimizer` makes.
      mesh: over which the state is sharded.
      ema: whether an average of the parameters belongs to it.

    Raises:
      ConfigError: if the mesh does not divide a parameter that it should shard.
    """
    state = jax.eval_shape(lambda params: _state(params, optimizer, ema), model.abstract_params())
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings(state, mesh),
    )


def init_state(
    model: Flair,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    params: Params | None = None,
    *,
    ema: bool = False,
) -> TrainState:
    """The state before the first step, made in place on the devices that hold it.

    Args:
      model: the model.
      optimizer: from `make_optimizer`.
      mesh: over which the state is sharded.
      seed: of random parameters.
      params: parameters to start from instead.
      ema: whether to keep an average of the parameters, which starts from them.
    """
    target = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh, ema=ema))

    def make(key: Array) -> TrainState:
        return _state(model.init(key), optimizer, ema)

    if params is not None:
        return jax.jit(lambda params: _state(params, optimizer, ema), out_shardings=target)(params)
    return jax.jit(make, out_shardings=target)(jax.random.fold_in(jax.random.key(seed), _INIT))


def _state(params: Params, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    average = jax.tree.map(jnp.copy, params) if ema else None  # one buffer cannot be donated twice
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def make_train_step(
    model: Flair,
    optimizer: optax.GradientTransformation,
    settings: TrainSettings,
    sampler: CaptionSampler | None = None,
    *,
    loss: Loss | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """One step of training as a pure function; jit it with the state donated, under the mesh (`jax.set_mesh`).

    Args:
      model: the model.
      optimizer: from `make_optimizer`.
      settings: of the run.
      sampler: draws the captions for the loss that the settings ask for; see `make_loss`.
      loss: instead of that one.

    Raises:
      ConfigError: if the settings ask for a term of the loss that is not known, or a `loss` of your own comes with a
        `sampler`, which it would not use.
    """
    if loss is not None and sampler is not None:
        raise ConfigError("a sampler is for the loss of config.loss; give it to your own loss where you make that")
    loss = loss or make_loss(settings.loss, settings.group_size, sampler=sampler)
    return TrainStep(model, optimizer, settings, loss).train_step


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """The parts of a training step; `make_train_step` makes it.

    With `accumulation_steps` > 1 it is GradCache (Gao et al. 2021, arXiv 2101.06983): the towers see the batch in
    parts, twice. First for the features alone; then, once the loss over all features has given the gradients of these,
    for the gradients of the parameters. All images and captions are compared with each other whatever the number of
    parts, and the gradients are those of the undivided batch.
    """

    model: Flair
    optimizer: optax.GradientTransformation
    settings: TrainSettings
    loss: Loss

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        """The state after a step, and the step's metrics."""
        teacher = None if state.ema is None else jax.lax.stop_gradient(self.features(state.ema, batch))
        batch = batch._replace(kept=self.draw_patches(len(batch.pixels), state.step))
        grads, values = self.gradients(state.params, batch, self._key(_CAPTIONS, state.step), teacher)
        optimizer = optax.with_extra_args_support(self.optimizer)  # some ask for the loss
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=values.total)
        params = clamp_logit_scale(optax.apply_updates(state.params, updates))
        ema = update_ema(state.ema, params, self.settings.optimizer)
        metrics = StepMetrics(values.total, values.terms, optax.tree.norm(grads), jnp.exp(params["logit_scale"]))
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    def draw_patches(self, images: int, step: Int[Array, ""]) -> Int[Array, "N k"] | None:
        """The patches that each image keeps in a step, in a random order, each set as likely; None if it keeps all."""
        model = self.model.config
        if not self.settings.patch_dropout:
            return None
        drawn = jax.random.uniform(self._key(_PATCHES, step), (images, model.vision.grid**2))
        drawn = jax.lax.with_sharding_constraint(drawn, BATCH)
        return jax.lax.top_k(drawn, self.settings.patches(model))[1]

    def _key(self, purpose: int, step: Int[Array, ""]) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.settings.seed), purpose), step)

    def encode(self, params: Params, batch: Batch) -> Features:
        """Features of a batch, or of a part of one."""
        params = stop_locked(params, self.settings.lock, self.settings.unlocked_groups)
        images = self.model.normalize(batch.pixels)
        if batch.kept is None:
            image, local = self.model.encode_image(params, images)
        else:
            image, local = self.model.encode_patches(params, images, batch.kept)
        if isinstance(batch.tokens, PackedTexts):
            return Features(image, local, self.model.encode_packed(params, batch.tokens))
        return Features(image, local, self.model.encode_text(params, batch.tokens))

    def features(self, params: Params, batch: Batch) -> Features:
        """Features of a batch whose parts are encoded one after the other."""
        if self.settings.accumulation_steps == 1:
            return self.encode(params, batch)
        return _whole(jax.lax.map(lambda part: self.encode(params, part), self._parts(batch)))

    def gradients(
        self, params: Params, batch: Batch, key: Array, teacher: Features | None
    ) -> tuple[Params, LossValues]:
        """Gradients of the loss with respect to the parameters, and its values; `key` is a scalar.

        Raises:
          ConfigError: if a loss of your own does not return `LossValues` of scalars.
        """

        def loss(params: Params, features: Features) -> tuple[Array, LossValues]:
            values = self.loss(self.model, params, features, key, teacher)
            check_values(values)
            return values.total, values

        if self.settings.accumulation_steps == 1:
            return jax.grad(lambda params: loss(params, self.encode(params, batch)), has_aux=True)(params)
        features = self.features(params, batch)
        (of_params, of_features), values = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, features)
        return self._add_towers(of_params, params, batch, of_features), values

    def _add_towers(self, of_loss: Params, params: Params, batch: Batch, of_features: Features) -> Params:
        """The loss's direct gradients, plus those through the features, one part after the other."""

        def add_part(total: Params, part: tuple[Batch, Features]) -> tuple[Params, None]:
            _, pull_back = jax.vjp(lambda params: self.encode(params, part[0]), params)
            return jax.tree.map(jnp.add, total, pull_back(part[1])[0]), None

        return jax.lax.scan(add_part, of_loss, (self._parts(batch), self._parts(of_features)))[0]

    def _parts(self, rows: Any) -> Any:
        """[N, ...] -> [parts, N / parts, ...] for each array, each part sharded over all devices."""

        def parts(rows: Array) -> Array:
            split = jnp.swapaxes(rows.reshape(-1, self.settings.accumulation_steps, *rows.shape[1:]), 0, 1)
            return jax.lax.with_sharding_constraint(split, P(None, *BATCH))

        return jax.tree.map(parts, rows)


def _whole(parts: Any) -> Any:
    """The inverse of `TrainStep._parts`."""

    def whole(parts: Array) -> Array:
        rows = jnp.swapaxes(parts, 0, 1)
        return jax.lax.with_sharding_constraint(rows.reshape(-1, *rows.shape[2:]), BATCH)

    return jax.tree.map(whole, parts)
