"""Floating-point operations of a training step, and what chips can do at most."""

from __future__ import annotations

import jax

from flair_jax.models.config import FlairConfig

# Peak FLOP/s in bfloat16, dense, of one chip as JAX counts devices, by a part of `device_kind`. Sources: the makers'
# data sheets (cloud.google.com/tpu/docs/system-architecture-tpu-vm; NVIDIA's A100, H100 and H200 data sheets).
_PEAK = (
    ("v6 lite", 918e12),
    ("v6e", 918e12),
    ("v5 lite", 197e12),
    ("v5e", 197e12),
    ("v5p", 459e12),
    ("v5", 459e12),
    ("v4", 275e12),
    ("h200", 989e12),
    ("h100 80gb hbm3", 989e12),
    ("h100 pcie", 756e12),
    ("a100", 312e12),
)


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of a device in bfloat16; None if it is not known."""
    kind = device.device_kind.lower()
    return next((peak for name, peak in _PEAK if name in kind), None)


def step_flops(config: FlairConfig, images: int, captions: int, group_size: int) -> float:
    """FLOPs of one training step, forward and backward, over all devices.

    Counted are the matrix products of the model, at 2 FLOPs a multiplication, and 3 times the forward pass for a step;
    what rematerialisation or accumulation computes again is not, so that the utilisation is of useful work.

    Args:
      config: the model.
      images: N in a batch.
      captions: K of each image.
      group_size: B, see `flair_loss`.
    """
    vision, text, width = config.vision, config.text, config.embed_dim
    local = vision.grid**2
    patches = 2 * local * 3 * vision.patch_size**2 * vision.width
    image = patches + _blocks(vision.layers, local + 1, vision.width, vision.mlp_ratio)
    image += 2 * (local + 1) * vision.width * width
    caption = _blocks(text.layers, text.context_length, text.width, text.mlp_ratio) + 2 * text.width * width
    pairs = images * (images // group_size) * (group_size + captions - 1)
    text_conditioned = pairs * (4 * local * width + 2 * width**2)
    text_conditioned += 2 * width**2 * (2 * local * images + images * captions)
    multi_positive = 2 * width * images * images * captions
    return 3.0 * (images * image + images * captions * caption + text_conditioned + multi_positive)


def _blocks(layers: int, length: int, width: int, mlp_ratio: float) -> float:
    return layers * length * (2 * width**2 * (4 + 2 * mlp_ratio) + 4 * length * width)
