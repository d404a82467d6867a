"""Pixels as the vision tower wants them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

# Channel means and deviations of CLIP's training pictures (Radford et al. 2021), which FLAIR keeps.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(pixels: UInt8[Array | np.ndarray, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Scales uint8 pixels to [0, 1], subtracts the mean and divides by the deviation of each channel.

    Jittable: on an accelerator, send the uint8 pixels and call this there.

    Returns:
      float32, of the same shape.
    """
    scaled = jnp.asarray(pixels, jnp.float32) / 255
    mean, std = (jnp.broadcast_to(jnp.array(each), scaled.shape) for each in (MEAN, STD))
    return (scaled - mean) / std


def l2_normalize(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Divides x by its Euclidean norm along the last axis, in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    # 1e-12 is PyTorch's floor in torch.nn.functional.normalize; below it the result is x / 1e-12, not NaN.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
