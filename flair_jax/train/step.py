"""What training changes, and the compiled step that changes it.

How a batch becomes a gradient: `make_train_step` normalises the pixels and runs the towers (`Flair.encode_image`,
`Flair.encode_text`), `flair_loss` compares all features, JAX differentiates, and the optimiser of
`flair_jax.train.optim` moves the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8

from flair_jax.models.flair import Flair, Params
from flair_jax.parallel.sharding import BATCH, shardings
from flair_jax.settings import TrainSettings
from flair_jax.train.losses import CaptionSampler, Features, Losses, flair_loss
from flair_jax.train.optim import clamp_logit_scale, lock_mask

# Constants folded into the run's seed, one for each use of randomness.
_INIT, _CAPTIONS = 0, 1


class TrainState(NamedTuple):
    """All that a step changes; a tree of arrays."""

    step: Int[Array, ""]
    params: Params
    opt_state: Any


class Batch(NamedTuple):
    """N pictures and K captions of each; rows i*K to i*K+K-1 of `tokens` belong to picture i."""

    pixels: UInt8[Array | np.ndarray, "N S S 3"]
    tokens: Int[Array | np.ndarray, "NK T"]


class StepMetrics(NamedTuple):
    """Scalars of one step: the losses before it, the norm of the gradients before clipping, the scale after it."""

    loss: Float[Array, ""]
    tcs: Float[Array, ""]
    mps: Float[Array, ""]
    grad_norm: Float[Array, ""]
    logit_scale: Float[Array, ""]


def abstract_state(model: Flair, optimizer: Any, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, at no cost in memory; for initialising, restoring and planning.

    Raises:
      ConfigError: if the mesh does not divide a parameter that it should split.
    """
    state = jax.eval_shape(lambda params: _state(params, optimizer), model.abstract_params())
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings(state, mesh),
    )


def init_state(model: Flair, optimizer: Any, mesh: Mesh, seed: int, params: Params | None = None) -> TrainState:
    """The state before the first step, made in place on the devices that hold it.

    Args:
      model: the model.
      optimizer: from `make_optimizer`.
      mesh: where to.
      seed: of random parameters.
      params: parameters to start from instead.
    """
    target = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh))

    def make(key: Array) -> TrainState:
        return _state(model.init(key), optimizer)

    if params is not None:
        return jax.jit(lambda params: _state(params, optimizer), out_shardings=target)(params)
    return jax.jit(make, out_shardings=target)(jax.random.fold_in(jax.random.key(seed), _INIT))


def _state(params: Params, optimizer: Any) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(
    model: Flair, optimizer: Any, settings: TrainSettings, sampler: CaptionSampler | None = None
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """One step of training as a pure function; jit it with the state donated, under the mesh (`jax.set_mesh`).

    With `accumulation_steps` > 1 the towers see the batch in parts, twice: first for the features alone, then, once the
    loss over all features has given their gradients, for the gradients of the parameters. All images and captions are
    compared with each other whatever the number of parts, and the gradients are those of the undivided batch.

    Args:
      model: the model.
      optimizer: from `make_optimizer`.
      settings: of the run.
      sampler: see `flair_loss`.
    """

    def encode(params: Params, batch: Batch) -> Features:
        params = _stop_locked(params, settings.lock)
        image, local = model.encode_image(params, model.normalize(batch.pixels))
        return Features(image, local, model.encode_text(params, batch.tokens))

    def loss(params: Params, features: Features, key: Array) -> tuple[Array, Losses]:
        losses = flair_loss(
            model,
            params,
            features,
            key,
            group_size=settings.group_size,
            terms=settings.loss.terms,
            pairs_per_block=settings.loss.pairs_per_block,
            sampler=sampler,
        )
        return losses.total, losses

    def gradients_at_once(params: Params, batch: Batch, key: Array) -> tuple[Params, Losses]:
        return jax.grad(lambda params: loss(params, encode(params, batch), key), has_aux=True)(params)

    def gradients_in_parts(params: Params, batch: Batch, key: Array) -> tuple[Params, Losses]:
        parts = jax.tree.map(lambda rows: _parts(rows, settings.accumulation_steps), batch)
        features = jax.lax.map(lambda part: encode(params, part), parts)
        whole = jax.tree.map(lambda rows: _whole(rows), features)
        (of_params, of_features), losses = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, whole, key)

        def add_part(total: Params, part: tuple[Batch, Features]) -> tuple[Params, None]:
            _, pull_back = jax.vjp(lambda params: encode(params, part[0]), params)
            return jax.tree.map(jnp.add, total, pull_back(part[1])[0]), None

        of_parts = jax.tree.map(lambda rows: _parts(rows, settings.accumulation_steps), of_features)
        return jax.lax.scan(add_part, of_params, (parts, of_parts))[0], losses

    gradients = gradients_at_once if settings.accumulation_steps == 1 else gradients_in_parts

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), _CAPTIONS), state.step)
        grads, losses = gradients(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = clamp_logit_scale(optax.apply_updates(state.params, updates))
        metrics = StepMetrics(
            losses.total, losses.tcs, losses.mps, optax.tree.norm(grads), jnp.exp(params["logit_scale"])
        )
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def _stop_locked(params: Params, lock: tuple[str, ...]) -> Params:
    """So that nothing is differentiated for the sake of a locked tower."""
    if not lock:
        return params
    return jax.tree.map(
        lambda leaf, locked: jax.lax.stop_gradient(leaf) if locked else leaf, params, lock_mask(params, lock)
    )


def _parts(rows: Array, parts: int) -> Array:
    """[N, ...] -> [parts, N / parts, ...], each part spread over all devices."""
    split = jnp.swapaxes(rows.reshape(-1, parts, *rows.shape[1:]), 0, 1)
    return jax.lax.with_sharding_constraint(split, P(None, *BATCH))


def _whole(parts: Array) -> Array:
    """The inverse of `_parts`."""
    rows = jnp.swapaxes(parts, 0, 1)
    return jax.lax.with_sharding_constraint(rows.reshape(-1, *rows.shape[2:]), BATCH)
