"""Pixels as the vision tower expects them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from flair_jax.errors import FlairError
from flair_jax.models.config import VisionConfig


def normalize(
    pixels: UInt8[Array | np.ndarray, "*batch 3"],
    mean: tuple[float, ...] = VisionConfig.image_mean,
    std: tuple[float, ...] = VisionConfig.image_std,
) -> Float[Array, "*batch 3"]:
    """Scales uint8 pixels to [0, 1], subtracts each channel's mean and divides by its standard deviation.

    Jittable: on an accelerator, send the uint8 pixels and call this there. `Flair.normalize` uses the model's own mean
    and standard deviation.

    Args:
      pixels: such as `flair_jax.preprocess` gives.
      mean: of the channels of scaled pixels; those of CLIP's training images, FLAIR's own, if not given.
      std: likewise, their standard deviation.

    Returns:
      float32, of the same shape.

    Raises:
      FlairError: if they are no whole numbers, as those that are normalised already.
    """
    if not jnp.issubdtype(jnp.result_type(pixels), jnp.integer):
        raise FlairError(
            f"pixels are {jnp.result_type(pixels)}; expected whole numbers from 0 to 255, as flair_jax.preprocess "
            "gives them, and normalised once"
        )
    scaled = jnp.asarray(pixels, jnp.float32) / 255
    means, deviations = (jnp.broadcast_to(jnp.array(each), scaled.shape) for each in (mean, std))
    return (scaled - means) / deviations


def check_images(images: Float[Array | np.ndarray, "B S1 S2 3"], patch: int) -> None:
    """Checks what the image tower is given, when it is traced.

    Raises:
      FlairError: unless they are normalised images in whole patches of `patch` pixels.
    """
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise FlairError(f"images are {dtype}, as pixels are before model.normalize; give model.normalize(pixels)")
    if len(shape) != 4 or shape[3] != 3 or shape[1] % patch or shape[2] % patch or 0 in shape[1:3]:
        raise FlairError(
            f"images have shape {shape}; expected [B, S, S, 3] with S a multiple of the patch size {patch}"
        )


def l2_normalize(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Divides x by its Euclidean norm along the last axis, in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    # 1e-12 is PyTorch's floor in torch.nn.functional.normalize; below it the result is x / 1e-12, not NaN.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
