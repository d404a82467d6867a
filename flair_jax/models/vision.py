"""Vision tower: an image as one global and many local tokens."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from flair_jax.models.resize import resize_position_embedding
from flair_jax.models.transformer import Block, Initializer, layer_norm, run_stacked

# PyTorch's default for the convolution of the patches; fan_in counts all axes but the last.
patch_init: Initializer = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def embed_patches(
    images: Float[Array, "B S1 S2 3"], kernel: Float[Array, "M M 3 W"], dtype: DTypeLike
) -> Float[Array, "B G1 G2 W"]:
    """Images in patches of M pixels a side, each times a kernel, in `dtype`."""
    batch, height, width, _ = images.shape
    patch, dtype = kernel.shape[0], jnp.dtype(dtype)
    # A convolution whose stride is its kernel is one matrix product over flattened patches.
    patches = images.reshape(batch, height // patch, patch, width // patch, patch, 3).astype(dtype)
    return jnp.einsum("bgphqc,pqcw->bghw", patches, kernel.astype(dtype))


class PatchEmbedding(nn.Module):
    """Patches with a bias, as most towers but CLIP's have them; float32.

    Attributes:
      patch_size: pixels of a patch's side.
      width: W.
      dtype: of the product.
    """

    patch_size: int
    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "B S1 S2 3"]) -> Float[Array, "B G1 G2 W"]:
        kernel = self.param("kernel", patch_init, (self.patch_size, self.patch_size, 3, self.width))
        bias = self.param("bias", jax.nn.initializers.zeros, (self.width,))
        return embed_patches(images, kernel, self.dtype).astype(jnp.float32) + bias[None, None, None]


class VisionTower(nn.Module):
    """ViT (Dosovitskiy et al. 2021) whose class token is the global image token and whose patch tokens are local ones.

    `flair_jax.models.vision_tower` makes it from a `FlairConfig`. Any module whose `__call__` gives the same can
    replace it, for images of `config.vision.image_size` in patches of `config.vision.patch_size`.

    Attributes:
      image_size: S, pixels of a side of the images that the position table is for; others are interpolated.
      patch_size: pixels of a patch's side.
      width: W of the layers.
      layers: how many.
      heads: attention heads of each.
      embed_dim: D of the output.
      mlp_ratio: hidden units of an MLP, as a multiple of its width.
      quick_gelu: the activation, see `FlairConfig`.
      layer_norm_eps: epsilon that each LayerNorm adds to the variance.
      dtype: compute dtype of the layers; parameters are float32.
      remat: see `FlairConfig`.
      unroll: see `FlairConfig`.
      attention: see `FlairConfig`.
      residual_dtype: see `FlairConfig`.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    embed_dim: int
    mlp_ratio: float = 4.0
    quick_gelu: bool = False
    layer_norm_eps: float = 1e-5
    dtype: DTypeLike = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    residual_dtype: DTypeLike = "float32"

    def setup(self) -> None:
        normal = jax.nn.initializers.normal(self.width**-0.5)
        patch_shape = (self.patch_size, self.patch_size, 3, self.width)
        self.patch_embedding = self.param("patch_embedding", patch_init, patch_shape)
        self.class_token = self.param("class_token", normal, (self.width,))
        positions = 1 + (self.image_size // self.patch_size) ** 2
        self.position_embedding = self.param("position_embedding", normal, (positions, self.width))
        self.ln_pre = layer_norm(self.layer_norm_eps)
        self.blocks = Block(
            heads=self.heads,
            hidden=int(self.width * self.mlp_ratio),
            causal=False,
            activation="quick_gelu" if self.quick_gelu else "gelu",
            init_std=None,
            dtype=jnp.dtype(self.dtype),
            layer_norm_eps=self.layer_norm_eps,
            implementation=self.attention,
        )
        self.ln_post = layer_norm(self.layer_norm_eps)
        self.projection = nn.Dense(self.embed_dim, use_bias=False, kernel_init=normal)

    def tokens(self, images: Float[Array, "B S1 S2 3"], kept: Int[Array, "B k"] | None = None) -> Float[Array, "B P W"]:
        """All tokens after the last LayerNorm, before projection: the global token first, then the local ones.

        Args:
          images: see `__call__`.
          kept: see `of_patches`.
        """
        x = embed_patches(images, self.patch_embedding, self.dtype)
        batch, *grid, _ = x.shape
        # Sums from here on are float32, as under PyTorch's autocast, but for the residual stream if that is asked for.
        class_token = jnp.broadcast_to(self.class_token, (batch, 1, x.shape[-1]))
        x = jnp.concatenate([class_token, x.reshape(batch, grid[0] * grid[1], x.shape[-1])], axis=1, dtype=jnp.float32)
        x = x + resize_position_embedding(self.position_embedding, (grid[0], grid[1]))[None]
        if kept is not None:
            x = jnp.concatenate([x[:, :1], jnp.take_along_axis(x[:, 1:], kept[:, :, None], axis=1)], axis=1)
        x = run_stacked(
            *(self.blocks, self.ln_pre(x)),
            layers=self.layers,
            remat=self.remat,
            unroll=self.unroll,
            residual_dtype=self.residual_dtype,
        )
        return self.ln_post(x)

    def __call__(self, images: Float[Array, "B S1 S2 3"]) -> tuple[Float[Array, "B D"], Float[Array, "B L D"]]:
        """Global [B, D] and local [B, L, D] image tokens, both projected, not normalised.

        Args:
          images: float32, from `Flair.normalize`; S1 and S2 are multiples of the patch size, L is their product over
            that of a patch, row by row.
        """
        projected = self.projection(self.tokens(images))
        return projected[:, 0], projected[:, 1:]

    def of_patches(
        self, images: Float[Array, "B S1 S2 3"], kept: Int[Array, "B k"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B k D"]]:
        """What `__call__` gives where the tower sees a part of the patches (Li et al. 2023, FLIP, arXiv 2212.00794).

        They are left out where open_clip's `PatchDropout` does it: after the positions, before the first LayerNorm.

        Args:
          images: see `__call__`.
          kept: numbers of the local tokens that each image keeps, k of L, row by row from 0; local tokens follow it.
        """
        projected = self.projection(self.tokens(images, kept))
        return projected[:, 0], projected[:, 1:]
