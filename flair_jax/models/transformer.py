"""Pre-norm transformer layers, stacked; shared by the vision and text towers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from flair_jax.models.attention import attend, choose
from flair_jax.models.layout import shard_rows, tensor_parts
from flair_jax.models.short_attention import short_attention

Initializer = jax.nn.initializers.Initializer

# The name of what attention takes and gives, which a rematerialisation policy may keep.
ATTENTION = "attention"


# PyTorch's default for linear layers, Kaiming-uniform with a = sqrt(5), is uniform within +-1/sqrt(fan_in).
torch_linear_init: Initializer = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Xavier-uniform over PyTorch's packed [3W, W] in-projection is uniform within +-sqrt(6 / 4W).
packed_xavier_init: Initializer = jax.nn.initializers.variance_scaling(1 / 2, "fan_in", "uniform")


def torch_bias_init(fan_in: int) -> Callable[..., Array]:
    """PyTorch's default bias of a linear layer: uniform within +-1/sqrt(fan_in), of any shape."""
    bound = fan_in**-0.5
    return partial(jax.random.uniform, minval=-bound, maxval=bound)


def layer_norm(epsilon: float, dtype: DTypeLike | None = None, name: str | None = None) -> nn.LayerNorm:
    """A LayerNorm with PyTorch's variance, in two passes; Flax's, E[x^2] - E[x]^2, loses digits if the mean is large.

    Args:
      epsilon: added to the variance.
      dtype: of the result; statistics are float32 whatever it is.
      name: of the module, where it is not an attribute.
    """
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Multi-head self-attention with biases on all projections."""

    heads: int
    causal: bool
    in_init: Initializer
    out_init: Initializer
    dtype: jnp.dtype
    implementation: str

    @nn.compact
    def __call__(self, x: Float[Array, "B L W"], segments: Int[Array, "B L"] | None = None) -> Float[Array, "B L W"]:
        width, names = x.shape[-1], ("query", "key", "value")
        chosen = choose(
            self.implementation,
            length=x.shape[1],
            width=width,
            heads=self.heads,
            dtype=self.dtype,
            segments=segments is not None,
        ).name
        if chosen == "pallas":
            layers = [LinearParameters(width, self.in_init, name=name)(x) for name in names]
            kernel, bias = (_side_by_side(each, self.heads) for each in zip(*layers, strict=True))
            projected = shard_rows(x.astype(self.dtype) @ kernel.astype(self.dtype), tensor=2)
            mixed = short_attention(checkpoint_name(projected, ATTENTION), bias, segments, self.heads, self.causal)
        else:
            project = partial(nn.Dense, width, dtype=self.dtype, kernel_init=self.in_init)
            query, key, value = (checkpoint_name(project(name=name)(x), ATTENTION) for name in names)
            mixed = attend(
                *(query, key, value),
                heads=self.heads,
                causal=self.causal,
                segments=segments,
                implementation=chosen,
            )
        mixed = checkpoint_name(mixed, ATTENTION)
        return nn.Dense(width, dtype=self.dtype, kernel_init=self.out_init, name="out")(mixed)


class LinearParameters(nn.Module):
    """The parameters of an `nn.Dense` of this name, for one product with those of several."""

    features: int
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "*batch W"]) -> tuple[Float[Array, "W M"], Float[Array, " M"]]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.features,))


def _side_by_side(arrays: Sequence[Array], heads: int) -> Array:
    """Joins arrays [..., W] as [..., 3 W]; where a mesh divides the heads, part by part, so that no part moves."""
    parts = tensor_parts(heads)
    split = [each.reshape(*each.shape[:-1], parts, -1) for each in arrays]
    joined = jnp.concatenate(split, axis=-1)
    return joined.reshape(*joined.shape[:-2], -1)


# What an MLP may have between its layers: the exact (erf) GELU, its tanh form (Hendrycks and Gimpel 2016), and the
# QuickGELU of OpenAI's CLIP.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class Mlp(nn.Module):
    """Two linear layers around one of `ACTIVATIONS`."""

    hidden: int
    activation: str
    up_init: Initializer
    down_init: Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B L W"]) -> Float[Array, "B L W"]:
        width = x.shape[-1]
        x = nn.Dense(
            self.hidden, dtype=self.dtype, kernel_init=self.up_init, bias_init=torch_bias_init(width), name="up"
        )(x)
        x = ACTIVATIONS[self.activation](shard_rows(x, tensor=2))
        return nn.Dense(
            width, dtype=self.dtype, kernel_init=self.down_init, bias_init=torch_bias_init(self.hidden), name="down"
        )(x)


class Block(nn.Module):
    """One pre-norm layer: x + attention(ln_1(x)), then x + mlp(ln_2(x)).

    Its arguments are x and, if the rows are packed, the number of each position's segment; see `attend`.

    Attributes:
      heads: attention heads.
      hidden: width of the MLP between its two layers.
      causal: whether a position attends only to itself and those before it.
      activation: the MLP's, one of `ACTIVATIONS`.
      init_std: three standard deviations for normal initialisation: attention in-projections, layers that write to the
        residual stream, first MLP layer. None: PyTorch's defaults.
      dtype: compute dtype.
      layer_norm_eps: epsilon that each LayerNorm adds to the variance.
      implementation: who computes the attention; see `FlairConfig.attention`.
    """

    heads: int
    hidden: int
    causal: bool
    activation: str
    init_std: tuple[float, float, float] | None
    dtype: jnp.dtype
    layer_norm_eps: float = 1e-5
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B L W"], segments: Int[Array, "B L"] | None = None) -> Float[Array, "B L W"]:
        norm = partial(layer_norm, self.layer_norm_eps, self.dtype)
        if self.init_std is None:
            in_init, residual_init, up_init = packed_xavier_init, torch_linear_init, torch_linear_init
        else:
            in_init, residual_init, up_init = map(jax.nn.initializers.normal, self.init_std)
        attention = Attention(
            self.heads, self.causal, in_init, residual_init, self.dtype, self.implementation, name="attention"
        )
        mlp = Mlp(self.hidden, self.activation, up_init, residual_init, self.dtype, name="mlp")
        x = x + attention(norm("ln_1")(x), segments)
        return x + mlp(norm("ln_2")(x))


# What each policy but "none" keeps for the backward pass.
_SAVED = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENTION),
    ),
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION),
    "full": None,
}


def run_stacked(
    block: nn.Module,
    x: Float[Array, "B L W"],
    *shared: Array | None,
    layers: int,
    remat: str,
    unroll: int,
    residual_dtype: DTypeLike = "float32",
) -> Float[Array, "B L W"]:
    """Runs one block `layers` times, each time with its own parameters, stacked along a leading axis.

    Args:
      block: the layer, a function of x [B, L, W] and `shared`, such as `Block`; its parameters gain a leading axis of
        `layers`.
      x: input of the first layer.
      shared: what every layer gets besides: of `Block`, the segments, see `attend`.
      layers: how many.
      remat: one of `REMAT_POLICIES`, and `unroll`: see `FlairConfig`.
      residual_dtype: in which x goes from layer to layer; what comes out has the dtype of x.
    """

    def step(layer: nn.Module, carry: Array, *shared: Array | None) -> tuple[Array, None]:
        return shard_rows(layer(carry, *shared)), None

    if remat != "none":
        # Inside a scan the compiler cannot merge the recomputation away, so its guard is only a cost.
        step = nn.remat(step, policy=_SAVED[remat], prevent_cse=False)
    scan = nn.scan(
        step,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=layers,
        unroll=min(unroll, layers),
    )
    return shard_rows(scan(block, shard_rows(x.astype(residual_dtype)), *shared)[0]).astype(x.dtype)
