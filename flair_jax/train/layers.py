"""What the layout of the parameters means to an optimiser: which are matrices, and which are stacks of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Params

# Under a tower's name: its layers, stacked along the first axis of each array; and the parameters below the first.
_BLOCKS = "blocks"
BELOW = ("class_token", "register_tokens", "patch_embedding", "position_embedding", "token_embedding", "ln_pre")


def name_of(path: KeyPath[Any]) -> str:
    """A parameter's name, such as vision/blocks/mlp/up/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_names(function: Callable[[str], Any], params: Params) -> Params:
    """Maps a function over the names of parameters, to a tree like `params`."""
    return jax.tree.map_with_path(lambda path, _: function(name_of(path)), params)


def stacked_tower(name: str) -> str | None:
    """The tower ("vision", "text") whose layers a parameter stacks; None if it is not a stack."""
    tower, _, rest = name.partition("/")
    return tower if rest.startswith(f"{_BLOCKS}/") else None


def matrix_axes(params: Params) -> Params:
    """For Muon: the axes of each matrix, `optax.contrib.MuonDimensionNumbers`; None for other parameters.

    Matrices are the kernels of attention, MLPs, the pooling and the projections, [in, out] or [layers, in, out]. The
    patch embedding and embedding tables do not count as matrices, as Jordan (2024) advises for first layers.
    """

    def axes(path: KeyPath[Any], leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        name = name_of(path)
        is_matrix = name.endswith("kernel") and leaf.ndim == (3 if stacked_tower(name) else 2)
        return optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1) if is_matrix else None

    return jax.tree.map_with_path(axes, params)


def per_layer(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation to each of the layers that all arrays stack; its state is stacked as well."""

    def init(params: optax.Params) -> optax.OptState:
        return jax.vmap(transformation.init)(params) if jax.tree.leaves(params) else transformation.init(params)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if not jax.tree.leaves(updates):
            return transformation.update(updates, state, params)
        return jax.vmap(transformation.update)(updates, state, params)

    return optax.GradientTransformation(init, update)


def scale_by_rates(layer_decay: float, tower_rates: dict[str, float]) -> optax.GradientTransformation:
    """Multiplies updates, weight decay included, by the factors of the towers' and layers' learning rates.

    Layer l of the L of a tower has the factor layer_decay^(L - l), embeddings being layer 0 (as in ELECTRA, Clark et
    al. 2020, and BEiT, Bao et al. 2022); what follows the layers, the pooling, and the logit's scale and bias have 1.

    Args:
      layer_decay: 1: off.
      tower_rates: factor for each tower, "vision" and "text".

    Raises:
      ConfigError: at its first use, if a tower has no stacked layers to count.
    """

    def scale(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        named = {name_of(path): leaf for path, leaf in jax.tree.leaves_with_path(updates)}
        depths = {stacked_tower(name): leaf.shape[0] for name, leaf in named.items() if stacked_tower(name)}

        def scale_leaf(path: KeyPath[Any], leaf: jax.Array) -> jax.Array:
            tower, _, part = name_of(path).partition("/")
            rate = tower_rates.get(tower, 1.0)
            if layer_decay == 1 or tower not in tower_rates:
                return rate * leaf
            if tower not in depths:
                raise ConfigError(
                    f"config.optimizer.layer_decay={layer_decay}: the {tower} tower has no layers stacked under "
                    f"`{_BLOCKS}`; set it to 1.0"
                )
            if stacked_tower(name_of(path)):
                above = jnp.arange(depths[tower] - 1, -1, -1, dtype=leaf.dtype)
                return leaf * (rate * layer_decay**above).reshape(-1, *[1] * (leaf.ndim - 1))
            return leaf * (rate * layer_decay ** (depths[tower] if part in BELOW else 0))

        return jax.tree.map_with_path(scale_leaf, updates)

    return optax.stateless(scale)
