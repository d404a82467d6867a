"""Maps of where a text is found in an image, for pairs of one image and one text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flair_jax.errors import FlairError
from flair_jax.models.flair import AnyArray, Flair, Params
from flair_jax.models.normalize import l2_normalize

# attention: the weights of the text-conditioned pooling, mean of the heads; patches: the cosine of each local token
# with the text; pooled-patches: the same after each went through the pooling alone.
MAPS = ("attention", "patches", "pooled-patches")


def maps_of(model: Flair) -> tuple[str, ...]:
    """The `MAPS` that a model has: all, or all but the first if its pooling has no attention weights."""
    width = model.config.embed_dim
    local, text = jax.ShapeDtypeStruct((1, 2, width), jnp.float32), jax.ShapeDtypeStruct((1, width), jnp.float32)
    try:
        jax.eval_shape(model.pool_with_weights, model.abstract_params(), local, text)
    except FlairError:
        return MAPS[1:]
    return MAPS


def pair_maps(
    model: Flair, params: Params, local: Float[AnyArray, "P L D"], text: Float[AnyArray, "P D"]
) -> Float[Array, "P M L"]:
    """The maps of each pair.

    Args:
      model: any.
      params: its parameters.
      local: local tokens of P images.
      text: features of P texts, one for each image.

    Returns:
      One for each of `maps_of` the model, in their order.
    """
    attends = MAPS[0] in maps_of(model)

    def one(tokens: Array, feature: Array) -> Array:
        pooled = model.pool(params, tokens[:, None], feature[None])[:, 0]
        direction = l2_normalize(feature)
        found = [
            jnp.matmul(l2_normalize(each), direction, precision=jax.lax.Precision.HIGHEST) for each in (tokens, pooled)
        ]
        if attends:
            _, weights = model.pool_with_weights(params, tokens[None], feature[None])
            found.insert(0, weights[0, :, 0, :-1].mean(axis=0))
        return jnp.stack(found)

    return jax.vmap(one)(jnp.asarray(local), jnp.asarray(text))
