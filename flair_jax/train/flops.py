"""Floating-point operations of a training step, and the peak rates of chips."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from flair_jax.models.flair import Flair
from flair_jax.settings import PackingSettings, TrainSettings, UnlockedGroups
from flair_jax.train.losses import CountedLoss, Loss
from flair_jax.train.terms import LossSizes


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates and memory of one chip, as JAX counts devices.

    Attributes:
      name: as in `flair-jax plan --topology`, for those that it can compile for.
      kinds: parts of `device_kind` that identify it, in lower case.
      flops: FLOP/s of dense bfloat16 matrix products.
      memory: bytes.
      memory_bandwidth: bytes/s.
      interconnect: bytes/s that it can send to others of its slice (TPU) or node (GPU), over all its links.
      network: bytes/s that it can send beyond that, its share of its host's network cards.
      clock: Hz of its cores; 0 where no compiler's estimate is counted in cycles.
    """

    name: str
    kinds: tuple[str, ...]
    flops: float
    memory: float
    memory_bandwidth: float
    interconnect: float
    network: float
    clock: float = 0.0


_GIB = 2.0**30
_PADDED = PackingSettings(row_tokens=0)
_LOCKED = UnlockedGroups()

# Sources: the makers' data sheets (docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e; NVIDIA's of A100, H100, H200). ICI
# is half of the bidirectional figure. The clock is the one at which the compiler's own estimate of a large matrix
# product comes to 70 to 93 % of the peak; `tests/plan/test_plan.py` checks that, and that it is below.
CHIPS = (
    Chip("v6e", ("v6 lite", "v6e"), 918e12, 32 * _GIB, 1600e9, 400e9, 12.5e9, 1.75e9),
    Chip("v5e", ("v5 lite", "v5e"), 197e12, 16 * _GIB, 819e9, 200e9, 3.125e9, 1.5e9),
    Chip("v5p", ("v5p", "v5"), 459e12, 95 * _GIB, 2765e9, 600e9, 6.25e9, 1.75e9),
    Chip("v4", ("v4",), 275e12, 32 * _GIB, 1200e9, 300e9, 6.25e9, 1.05e9),
    Chip("h200", ("h200",), 989e12, 141e9, 4800e9, 450e9, 50e9),
    Chip("h100", ("h100 80gb hbm3",), 989e12, 80e9, 3350e9, 450e9, 50e9),
    Chip("h100-pcie", ("h100 pcie",), 756e12, 80e9, 2000e9, 64e9, 25e9),
    Chip("a100", ("a100",), 312e12, 80e9, 2039e9, 300e9, 25e9),
)


def find_chip(device_kind: str) -> Chip | None:
    """The chip that JAX calls by this name; None if it is unknown."""
    kind = device_kind.lower()
    return next((chip for chip in CHIPS if any(name in kind for name in chip.kinds)), None)


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of a device in bfloat16; None if it is not known."""
    chip = find_chip(device.device_kind)
    return chip.flops if chip else None


def useful_flops(settings: TrainSettings, model: Flair, loss: Loss) -> float:
    """`step_flops` of a run's step."""
    return step_flops(
        *(model, settings.batch_size, settings.captions_per_image, loss, settings.lock, settings.packing),
        unlocked=settings.unlocked_groups,
        patches=settings.patches(model.config) if settings.patch_dropout else None,
    )


def step_flops(
    model: Flair,
    images: int,
    captions: int,
    loss: Loss,
    lock: Sequence[str] = (),
    packing: PackingSettings = _PADDED,
    unlocked: UnlockedGroups = _LOCKED,
    patches: int | None = None,
) -> float:
    """FLOPs of one training step, forward and backward, over all devices.

    The matrix products of the model are counted, at 2 FLOPs per multiply-add. A product with trained parameters costs 3
    times its forward pass, or 2 times where nothing below it is trained: images, and the features of a locked tower,
    need no gradient. A locked tower costs its forward pass alone, as do the locked layers of one that is locked in part
    (the step differentiates through these all the same). Rematerialisation and the second forward pass of accumulation
    are excluded, so that utilisation is of useful work. The loss counts as its `flops` says, and not at
    all if it is not a `CountedLoss`. Features by averaged parameters are not counted. Of packed captions their own
    tokens are counted, attention at their mean length; padded ones count with their padding.

    Args:
      model: the model. Towers of its own are counted as they are traced, their first layer as any other.
      images: N in a batch.
      captions: K of each image.
      loss: see `Loss`.
      lock: towers that keep their weights: "image", "text".
      packing: of the captions; by default they are padded.
      unlocked: groups of these towers that are trained all the same.
      patches: that the image tower sees of each image; by default all.
    """
    image_learns = "image" not in lock or unlocked.image > 0
    text_learns = "text" not in lock or unlocked.text > 0
    image, text = _tower_flops(model, packing, patches)
    total = images * _trained(image, "image" in lock, unlocked.image)
    total += images * captions * _trained(text, "text" in lock, unlocked.text)
    if isinstance(loss, CountedLoss):
        _, local, width = jax.eval_shape(model.encode_image, model.abstract_params(), _image(model))[1].shape
        local = local if patches is None else patches
        total += loss.flops(LossSizes(images, captions, local, width, image_learns, text_learns))
    return total


class _TowerFlops(NamedTuple):
    """Of the forward pass of one image or text: the embedding of patches, each of the layers, and the projection."""

    patches: float
    layer: float
    layers: int
    projection: float


def _tower_flops(model: Flair, packing: PackingSettings, patches: int | None) -> tuple[_TowerFlops, _TowerFlops]:
    """Of the image tower and the text tower; one that is not CLIP's transformer counts as a single layer."""
    vision, text, width = model.config.vision, model.config.text, model.config.embed_dim
    embedding = 2.0 * vision.grid**2 * 3 * vision.patch_size**2 * vision.width  # of all; some are dropped after it
    local = patches or vision.grid**2
    layer = _layer(local + 1, vision.width, vision.mlp_ratio)
    image = _TowerFlops(embedding, layer, vision.layers, 2.0 * (local + 1) * vision.width * width)
    length = packing.tokens_per_caption if packing.row_tokens else text.context_length
    layer = _layer(length, text.width, text.mlp_ratio)
    caption = _TowerFlops(0.0, layer, text.layers, 2.0 * text.width * width)
    if "vision" in model.other_towers:
        traced = count_flops(jax.make_jaxpr(model.encode_image)(model.abstract_params(), _image(model)))
        image = _TowerFlops(0.0, traced, 1, 0.0)
    if "text" in model.other_towers:
        tokens = jax.ShapeDtypeStruct((1, text.context_length), jnp.int32)
        traced = count_flops(jax.make_jaxpr(model.encode_text)(model.abstract_params(), tokens))
        caption = _TowerFlops(0.0, traced, 1, 0.0)
    return image, caption


def _trained(tower: _TowerFlops, locked: bool, unlocked: int) -> float:
    """FLOPs of the forward pass, and of the backward pass through what is trained."""
    forward = tower.patches + tower.layers * tower.layer + tower.projection
    if not locked:
        return forward + tower.patches + 2 * (forward - tower.patches)
    if not unlocked:
        return forward
    below = unlocked > 1  # without a layer to train, the projection's input needs no gradient
    return forward + 2 * min(unlocked - 1, tower.layers) * tower.layer + (1 + below) * tower.projection


def _image(model: Flair) -> jax.ShapeDtypeStruct:
    size = model.config.vision.image_size
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def _layer(length: float, width: int, mlp_ratio: float) -> float:
    return length * (2 * width**2 * (4 + 2 * mlp_ratio) + 4 * length * width)


def count_flops(jaxpr: Any, within: str = "") -> float:
    """FLOPs of the matrix products in a traced function, over all devices, at 2 per multiply-add.

    Loops count as often as they run, and rematerialised products count again. What no result depends on does not count,
    for compilers leave it out. A Pallas kernel counts with the FLOPs of its `cost_estimate`, or else of one step of its
    grid as often as that has steps, in all its branches.

    Args:
      jaxpr: such as `jax.jit(function).trace(*arguments).jaxpr`.
      within: count only what is in operations of this name, such as "shard_map", and in no kernel.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return _count(used, within, kernels=not within)


def _count(jaxpr: Any, within: str, *, kernels: bool) -> float:
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        parameters = equation.params
        name = equation.primitive.name
        if name == "dot_general" and not within:
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        times = parameters["length"] if name == "scan" else 1
        if name == "shard_map":  # shapes in there are one device's
            times = parameters["mesh"].size
        if name == "pallas_call":
            times = math.prod(parameters["grid_mapping"].grid) if kernels else 0
            if kernels and parameters["cost_estimate"] is not None:
                total += parameters["cost_estimate"].flops
                continue
        inner = "" if name == within else within
        total += times * sum(
            _count(function, inner, kernels=kernels) for function in _functions_in(parameters.values())
        )
    return total


def _functions_in(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _functions_in(value)
        elif hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            yield value
