"""Pixels as the vision tower wants them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

# Channel means and deviations of CLIP's training pictures (Radford et al. 2021), which FLAIR keeps.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(pixels: UInt8[Array | np.ndarray, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Scales uint8 pixels to [0, 1], subtracts the mean and divides by the deviation of each channel.

    Jittable: on an accelerator, send the uint8 pixels and call this there.

    Returns:
      float32, of the same shape.
    """
    return (jnp.asarray(pixels, jnp.float32) / 255 - jnp.array(_MEAN)) / jnp.array(_STD)
