"""Objects that are not our own, tried out on shapes alone before anything is compiled, written or resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair, Params
from flair_jax.models.pooling import Pooling
from flair_jax.settings import TrainSettings
from flair_jax.train.failures import explained
from flair_jax.train.loss_context import Features
from flair_jax.train.losses import CountedLoss, check_values
from flair_jax.train.objects import Objects
from flair_jax.train.terms import LossSizes

_FLOAT32 = jnp.dtype("float32")


def try_out(objects: Objects, settings: TrainSettings) -> None:
    """Traces each part of a step by itself, so that an error says whose it is; under the mesh of the run.

    Nothing is done where all objects are our own.

    Raises:
      ConfigError: if an object fails, or gives something of another kind or shape than a step needs.
    """
    if not objects.names:
        return
    who = {kind: f"the {kind} {objects.names.get(kind, '')}".rstrip() for kind in ("model", "loss", "optimizer")}
    params, features = _try_model(objects.model, settings, who["model"])
    _try_loss(objects, settings, params, features, who["loss"])
    _try_optimizer(objects.optimizer, params, who["optimizer"])


def _try_model(model: Flair, settings: TrainSettings, who: str) -> tuple[Params, Features]:
    """The shapes of a model's parameters, and of a batch's features."""
    images, size, width = settings.batch_size, model.config.vision.image_size, model.config.embed_dim
    texts, length = images * settings.captions_per_image, model.config.text.context_length
    pixels = jax.ShapeDtypeStruct((images, size, size, 3), _FLOAT32)
    tokens = jax.ShapeDtypeStruct((texts, length), jnp.int32)
    module = model.module
    with explained(f"{who}: the vision tower"):
        image, local = _output(module.vision, pixels)
        _require("its global token", image, (images, width))
        _require("its local tokens", local, (images, local.shape[1], width))
    with explained(f"{who}: the text tower"):
        text = _output(module.text, tokens)
        _require("what it returns", text, (texts, width))
    with explained(f"{who}: the pooling"):
        pooled = _output(module.pooling, local, text, method=_pool_own)
        _require("what pool_queries returns", pooled, (images, texts // images, width))
    with explained(who):
        params = model.abstract_params()
        jax.eval_shape(model.logits, params, pixels, tokens)
    return params, Features(image, local, text)


def _output(module: nn.Module, *arrays: Any, method: Callable[..., Any] | None = None) -> Any:
    """The shapes of what a module gives, apart from others; it may have parameters and nothing else."""
    output, variables = jax.eval_shape(
        lambda *arrays: module.init_with_output(jax.random.key(0), *arrays, method=method), *arrays
    )
    if others := variables.keys() - {"params"}:
        raise ConfigError(f"it has {', '.join(sorted(others))}; a module may have parameters, and no other state")
    return output


def _pool_own(pooling: Pooling, local: jax.Array, text: jax.Array) -> jax.Array:
    """Each image as seen by its own texts."""
    query = pooling.project_texts(text)
    return pooling.pool_queries(query.reshape(len(local), -1, *query.shape[1:]), pooling.prepare_images(local))


def _try_loss(objects: Objects, settings: TrainSettings, params: Params, features: Features, who: str) -> None:
    def values(params: Params, features: Features, teacher: Features | None) -> jax.Array:
        found = objects.loss(objects.model, params, features, jax.random.key(0), teacher)
        check_values(found)
        return found.total

    with explained(who):
        teacher = features if settings.optimizer.ema_decay else None
        jax.eval_shape(jax.grad(values, argnums=(0, 1)), params, features, teacher)
    if isinstance(objects.loss, CountedLoss):
        _, local, width = features.local.shape
        sizes = LossSizes(settings.batch_size, settings.captions_per_image, local, width, True, True)
        with explained(f"{who}: flops"):
            flops = float(objects.loss.flops(sizes))
            if not 0 <= flops < math.inf:
                raise ConfigError(f"a number that is not negative is needed, not {flops}")


def _try_optimizer(optimizer: optax.GradientTransformation, params: Params, who: str) -> None:
    def update(params: Params) -> tuple[Any, Any, Any]:
        state = optimizer.init(params)
        updates, after = optax.with_extra_args_support(optimizer).update(params, state, params, value=jnp.zeros(()))
        return optax.apply_updates(params, updates), state, after

    with explained(who):
        stepped, state, after = jax.eval_shape(update, params)
        for what, found, wanted in (("parameters", stepped, params), ("its state", after, state)):
            if _shapes(found) != _shapes(wanted):
                raise ConfigError(f"after an update, {what} must have the shapes and dtypes of before")


def _shapes(tree: Any) -> tuple[Any, list[Any]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _require(what: str, found: Any, shape: tuple[int, ...]) -> None:
    if getattr(found, "shape", None) != shape or found.dtype != _FLOAT32:
        words = f"{found.dtype} {list(found.shape)}" if hasattr(found, "shape") else type(found).__name__
        raise ConfigError(f"{what} must be float32 {list(shape)}, not {words}")
