"""Maps of where a text is found in an image, for pairs of one image and one text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flair_jax.models.flair import AnyArray, Flair, Params
from flair_jax.models.normalize import l2_normalize

# attention: the weights of the text-conditioned pooling, mean of the heads; patches: the cosine of each local token
# with the text; pooled-patches: the same after each went through the pooling alone.
MAPS = ("attention", "patches", "pooled-patches")


def pair_maps(
    model: Flair, params: Params, local: Float[AnyArray, "P L D"], text: Float[AnyArray, "P D"]
) -> Float[Array, "P 3 L"]:
    """The three `MAPS` of each pair, in their order.

    Args:
      model: whose pooling has attention weights.
      params: its parameters.
      local: local tokens of P images.
      text: features of P texts, one for each image.

    Raises:
      FlairError: if the pooling has no attention weights.
    """

    def one(tokens: Array, feature: Array) -> Array:
        _, weights = model.pool_with_weights(params, tokens[None], feature[None])
        pooled = model.pool(params, tokens[:, None], feature[None])[:, 0]
        direction = l2_normalize(feature)
        cosines = (
            jnp.matmul(l2_normalize(each), direction, precision=jax.lax.Precision.HIGHEST) for each in (tokens, pooled)
        )
        return jnp.stack([weights[0, :, 0, :-1].mean(axis=0), *cosines])

    return jax.vmap(one)(jnp.asarray(local), jnp.asarray(text))
