"""Sums that compute their gradients along with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from numeric import assert_close

from flair_jax.models.flair import Flair
from flair_jax.settings import LossSettings
from flair_jax.train.flops import count_flops
from flair_jax.train.loss_context import Features
from flair_jax.train.losses import make_loss
from flair_jax.train.sums import sum_with_gradients


def plainly(function, items, axes=()):
    """The same, by a sum over a vmap."""
    return jax.tree.map(lambda each: each.sum(axis=0), jax.vmap(function)(items))


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients(count: int, dtype: str) -> None:
    """Of items and of what is closed over, nested; within 1e-6 of the plain sum, or a few roundings of bfloat16."""
    rng = np.random.default_rng(count)
    rows = jnp.asarray(rng.normal(size=(count, 4, 3)), dtype)
    weight, scale = jnp.asarray(rng.normal(size=(3, 3)), dtype), jnp.float32(1.7)

    def loss(rows, weight, scale, add=sum_with_gradients):
        numbers = jnp.arange(count)  # an array without a gradient, of the items and of what is closed over

        def of_item(item):
            number, row = item

            def of_row(each):
                value = jnp.sum(jnp.tanh(each @ weight).astype(jnp.float32) * scale) * (1 + number + numbers[-1])
                return value, {"squared": value**2}

            total, values = add(of_row, row)
            return total + 0.01 * total**2, values

        total, values = add(of_item, (numbers, rows))
        return 3 * total, values

    compute = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (total, values), gradients = jax.jit(compute)(rows, weight, scale)
    (expected, others), wanted = compute(rows, weight, scale, plainly)
    rtol = 1e-6 if dtype == "float32" else 2**-5  # where the plain sum, too, adds up in bfloat16
    assert_close(total, expected, rtol=rtol)
    assert_close(values["squared"], others["squared"], rtol=rtol)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert_close(ours, theirs, rtol=rtol)


def test_under_a_mesh() -> None:
    """Each device adds up its own items, with a parameter that all share."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, weight = jax.random.normal(jax.random.key(0), (16, 3)), jnp.arange(1.0, 4.0)

    def loss(weight, rows, axes=("data",), add=sum_with_gradients):
        def total(weight, rows):
            weight = jax.lax.pcast(weight, axes, to="varying") if axes else weight
            share, _ = add(lambda row: (jnp.exp(row @ weight), ()), rows, axes)
            return jax.lax.psum(share, axes) if axes else share

        return (
            jax.shard_map(total, in_specs=(P(), P("data")), out_specs=P())(weight, rows)
            if axes
            else total(weight, rows)
        )

    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(weight, rows)
    expected = jax.value_and_grad(loss, argnums=(0, 1))(weight, rows, (), plainly)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(ours, theirs, rtol=1e-6)  # sums in another order


def test_nothing_is_computed_twice(small_config) -> None:
    """A loss over many groups and blocks costs three times its forward pass: each product, and its two gradients."""
    model = Flair(small_config)
    loss = make_loss(LossSettings(("tcs", "mps"), group_size=4, pairs_per_block=8), 4)
    width = small_config.embed_dim
    features = Features(jnp.ones((16, width)), jnp.ones((16, 4, width)), jnp.ones((32, width)))
    params, key = model.abstract_params(), jax.random.key(0)

    def total(params, features):
        return loss(model, params, features, key).total

    forward = count_flops(jax.make_jaxpr(total)(params, features))
    both = count_flops(jax.make_jaxpr(jax.value_and_grad(total, argnums=(0, 1)))(params, features))
    assert both == pytest.approx(3 * forward, rel=1e-3)
