"""The steps that are planned: of training, and of the evaluation's scoring."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flair_jax.errors import ConfigError
from flair_jax.models.attention import describe_choices
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import check_batch, make_mesh
from flair_jax.plan.compile import Step, compile_step
from flair_jax.plan.figures import Plan
from flair_jax.plan.topology import Topology
from flair_jax.scoring.scorer import score_all_step
from flair_jax.settings import TrainSettings
from flair_jax.train.flops import useful_flops
from flair_jax.train.losses import CountedLoss, Loss
from flair_jax.train.objects import find_model, make_objects
from flair_jax.train.packing import abstract_batch
from flair_jax.train.step import abstract_state, make_train_step
from flair_jax.train.trial import try_out

_TEXTS = 25_014  # captions of COCO's 2017 validation set, which the scoring step is planned for
_LOSS_NOT_COUNTED = "useful FLOPs of the loss, which has no `flops` (flair_jax.train.losses.CountedLoss)"


def plan_training(
    settings: TrainSettings,
    topology: Topology,
    *,
    model: Flair | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss | None = None,
    cache: Path | None = None,
) -> Plan:
    """The very step that `flair_jax.train.train` runs with the same arguments.

    Args:
      settings: of the run; its factories are called.
      topology: from `find_topology`.
      model: see `flair_jax.train.train`.
      optimizer: likewise.
      loss: likewise.
      cache: see `compile_program`.

    Raises:
      ConfigError: if the mesh or the batch do not fit the topology, or an object or a factory is wrong.
    """
    mesh = make_mesh(settings.mesh, topology.devices)
    check_batch(settings.batch_size, settings.accumulation_steps, mesh)
    steps = settings.total_steps(0)
    # Where the data decides the number of steps, enough steps for a schedule: the program is the same.
    longest = settings.optimizer.warmup_steps + settings.optimizer.cooldown_steps
    whole = dataclasses.replace(settings, steps=max(steps, longest, 1))
    objects = make_objects(whole, model=model, optimizer=optimizer, loss=loss)
    with jax.set_mesh(mesh):
        try_out(objects, settings)
        state = abstract_state(objects.model, objects.optimizer, mesh, ema=settings.optimizer.ema_decay > 0)
        batch = abstract_batch(objects.model, settings, mesh)
        step = make_train_step(objects.model, objects.optimizer, settings, loss=objects.loss)
        planned = Step(
            function=jax.jit(step, donate_argnums=0),
            arguments=(state, batch),
            parameters=(state.params, state.ema),
            optimizer=state.opt_state,
            batch=batch,
            unit="image",
            units=settings.batch_size,
            useful_flops=useful_flops(settings, objects.model, objects.loss),
            steps=steps,
            settings=_deciding(settings, objects.model),
            not_counted=() if isinstance(objects.loss, CountedLoss) else (_LOSS_NOT_COUNTED,),
        )
        return compile_step(planned, topology, mesh, cache)


def _deciding(settings: TrainSettings, model: Flair) -> dict[str, int | float | str]:
    """Settings that decide the time of a step, by their dotted names in a configuration; who computes attention."""
    packing = settings.packing
    attention = describe_choices(
        model.config, packing.row_tokens, own=model.other_towers, patches=settings.patches(model.config)
    )
    return {
        "attention": attention.removeprefix("attention by "),
        "dtype": settings.dtype,
        "remat": settings.remat,
        "accumulation_steps": settings.accumulation_steps,
        "packing.row_tokens": packing.row_tokens,
        **({"patch_dropout": settings.patch_dropout} if settings.patch_dropout else {}),
        **({"packing.tokens_per_caption": packing.tokens_per_caption} if packing.row_tokens else {}),
    }


def plan_scoring(
    settings: TrainSettings, topology: Topology, *, model: Flair | None = None, cache: Path | None = None
) -> Plan:
    """The step of the evaluation that scores a block of images with COCO's 25,014 captions.

    Args:
      settings: of the run; those of the model and `evaluation.batch_size` count.
      topology: from `find_topology`.
      model: see `flair_jax.train.train`.
      cache: see `compile_program`.

    Raises:
      ConfigError: if the block does not divide over the chips.
    """
    model, _ = find_model(settings, model)
    images = settings.evaluation.batch_size
    if images % len(topology.devices):
        raise ConfigError(f"config.evaluation.batch_size={images} does not divide over {len(topology.devices)} devices")
    mesh = jax.make_mesh((len(topology.devices),), ("data",), devices=topology.devices)
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    on_all = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)  # noqa: E731
    params = jax.tree.map(on_all, model.abstract_params())
    size = model.config.vision.image_size
    pixels = jax.ShapeDtypeStruct((images, size, size, 3), jnp.float32)
    _, tokens, width = jax.eval_shape(model.encode_image, params, pixels)[1].shape
    local = jax.ShapeDtypeStruct((images, tokens, width), jnp.float32, sharding=rows)
    text = jax.ShapeDtypeStruct((_TEXTS, width), jnp.float32)
    texts = jax.tree.map(on_all, jax.eval_shape(model.prepare_texts, params, text))
    score = score_all_step(model, mesh)
    pairs = images * _TEXTS
    planned = Step(
        function=score,
        arguments=(params, local, texts),
        parameters=params,
        optimizer=(),
        batch=(local, texts),
        unit="pair",
        units=pairs,
        useful_flops=(None if "pooling" in model.own_modules else pairs * (4.0 * tokens * width + 2.0 * width**2)),
    )
    return compile_step(planned, topology, mesh, cache)
