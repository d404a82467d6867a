"""The steps that are planned: of training, and of the evaluation's scoring."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import batch_sharding, check_batch, make_mesh
from flair_jax.plan.compile import Step, compile_step
from flair_jax.plan.figures import Plan
from flair_jax.plan.topology import Topology
from flair_jax.scoring.scorer import score_all_step
from flair_jax.settings import TrainSettings
from flair_jax.train.flops import step_flops
from flair_jax.train.optim import make_optimizer, make_schedule
from flair_jax.train.step import Batch, abstract_state, make_train_step

_TEXTS = 25_014  # captions of COCO's 2017 validation set, which the scoring step is planned for


def plan_training(settings: TrainSettings, topology: Topology) -> Plan:
    """The very step that `flair_jax.train.run` runs.

    Args:
      settings: of the run.
      topology: from `find_topology`.

    Raises:
      ConfigError: if the mesh or the batch do not fit the topology.
    """
    mesh = make_mesh(settings.mesh, topology.devices)
    check_batch(settings.batch_size, settings.accumulation_steps, mesh)
    model = Flair(settings.model_config())
    steps = settings.total_steps(0)
    longest = settings.optimizer.warmup_steps + settings.optimizer.cooldown_steps
    optimizer = make_optimizer(
        settings.optimizer, make_schedule(settings.optimizer, max(steps, longest)), settings.lock
    )
    size, images, captions = model.config.vision.image_size, settings.batch_size, settings.captions_per_image
    with jax.set_mesh(mesh):
        state = abstract_state(model, optimizer, mesh, ema=settings.optimizer.ema_decay > 0)
        shape: Any = partial(jax.ShapeDtypeStruct, sharding=batch_sharding(mesh))
        batch = Batch(
            shape((images, size, size, 3), jnp.uint8),
            shape((images * captions, model.config.text.context_length), jnp.int32),
        )
        step = jax.jit(make_train_step(model, optimizer, settings), donate_argnums=0)
        return _plan(
            step,
            (state, batch),
            topology,
            mesh,
            sizes=(_bytes(state.params), _bytes(state.opt_state), _bytes(batch)),
            unit="image",
            units=images,
            useful_flops=step_flops(
                model.config, images, captions, settings.group_size, terms=settings.loss.terms, lock=settings.lock
            ),
            steps=steps,
        )


def plan_scoring(settings: TrainSettings, topology: Topology) -> Plan:
    """The step of the evaluation that scores a block of pictures with COCO's 25,014 captions.

    Args:
      settings: of the run; those of the model and `evaluation.batch_size` count.
      topology: from `find_topology`.

    Raises:
      ConfigError: if the block does not divide over the chips.
    """
    model = Flair(settings.model_config())
    images = settings.evaluation.batch_size
    if images % len(topology.devices):
        raise ConfigError(f"config.evaluation.batch_size={images} does not divide over {len(topology.devices)} devices")
    mesh = jax.make_mesh((len(topology.devices),), ("data",), devices=topology.devices)
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    on_all = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)  # noqa: E731
    params = jax.tree.map(on_all, model.abstract_params())
    width = model.config.embed_dim
    local = jax.ShapeDtypeStruct((images, model.config.vision.grid**2, width), jnp.float32, sharding=rows)
    text = jax.ShapeDtypeStruct((_TEXTS, width), jnp.float32)
    texts = jax.tree.map(on_all, jax.eval_shape(model.prepare_texts, params, text))
    score = score_all_step(model, mesh)
    pairs = images * _TEXTS
    return _plan(
        score,
        (params, local, texts),
        topology,
        mesh,
        sizes=(_bytes(params), 0, _bytes(local) + _bytes(texts)),
        unit="pair",
        units=pairs,
        useful_flops=pairs * (4.0 * model.config.vision.grid**2 * width + 2.0 * width**2),
        steps=0,
    )
