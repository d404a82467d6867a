"""Sums over many items whose gradients are computed along with them, one item after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array

# (total, values): a float32 scalar that is differentiated, and a tree of arrays that is not.
Summand = tuple[Array, Any]


class _Arrays(NamedTuple):
    """What a summand depends on: the items, and what its function closes over; those with gradients and the others."""

    items: list[Array]
    constants: list[Array]
    fixed_items: list[Array]
    fixed_constants: list[Array]


def sum_with_gradients(function: Callable[[Any], Summand], items: Any, axes: tuple[str, ...] = ()) -> Summand:
    """The sum of function(item) over the leading axis of `items`; memory is that of one item.

    A sum's gradient is the sum of its items' gradients, and all of them are scaled alike. So where a gradient will be
    asked for, each item's is computed as soon as the item itself, while what it needs is still there: nothing is kept
    for the backward pass but gradients, and nothing is computed twice. `jax.checkpoint` would compute each item again.

    Args:
      function: of one item; it may close over arrays, which get gradients too.
      items: tree of arrays.
      axes: the mesh's, if this runs inside `jax.shard_map` over them; all arrays with gradients vary over them.
    """
    of_item, arrays = _opened(function, items)
    dtypes = [each.dtype for each in (*arrays.items, *arrays.constants)]

    def value(arrays: _Arrays) -> Summand:
        def of_next(_: None, item: tuple[list[Array], list[Array]]) -> tuple[None, Summand]:
            return None, of_item(arrays._replace(items=item[0], fixed_items=item[1]))

        return _added(_scan(of_next, None, (arrays.items, arrays.fixed_items))[1])

    def forward(arrays: _Arrays) -> tuple[Summand, list[Array]]:
        def add(sums: list[Array], item: tuple[list[Array], list[Array]]) -> tuple[list[Array], Any]:
            def summand(items: list[Array], constants: list[Array]) -> Summand:
                return of_item(_Arrays(items, constants, item[1], arrays.fixed_constants))

            total, pull_back, values = jax.vjp(summand, item[0], arrays.constants, has_aux=True)
            of_items, of_constants = pull_back(_varying(jnp.ones((), total.dtype), axes))
            return [a + b for a, b in zip(sums, of_constants, strict=True)], ((total, values), of_items)

        # In float32, whatever the arrays are: many small gradients are added up.
        start = [_varying(jnp.zeros(each.shape, jnp.float32), axes) for each in arrays.constants]
        of_constants, (summands, of_items) = _scan(add, start, (arrays.items, arrays.fixed_items))
        return _added(summands), [*of_items, *of_constants]

    def backward(gradients: list[Array], cotangent: Summand) -> tuple[_Arrays]:
        scaled = [(each * cotangent[0]).astype(dtype) for each, dtype in zip(gradients, dtypes, strict=True)]
        count = len(arrays.items)
        fixed = [[None] * len(each) for each in (arrays.fixed_items, arrays.fixed_constants)]
        return (_Arrays(scaled[:count], scaled[count:], *fixed),)  # type: ignore[arg-type]  # they have no gradient

    summed = jax.custom_vjp(value)
    summed.defvjp(forward, backward)
    return summed(arrays)


def _opened(function: Callable[[Any], Summand], items: Any) -> tuple[Callable[[_Arrays], Summand], _Arrays]:
    """The function with all that it closes over as arguments: what has a custom gradient must close over no tracer."""
    leaves = jax.tree.leaves(items)
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(jax.tree.map(lambda leaf: leaf[0], items))
    structure = jax.tree.structure(shapes)
    of_items, of_constants = ([_learns(each) for each in arrays] for arrays in (leaves, traced.consts))

    def opened(arrays: _Arrays) -> Summand:
        item = _merged(of_items, arrays.items, arrays.fixed_items)
        constants = _merged(of_constants, arrays.constants, arrays.fixed_constants)
        summand: Summand = jax.tree.unflatten(structure, jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, constants))(*item))
        return summand

    both = (leaves, traced.consts)
    kinds = ([each for each in arrays if _learns(each) is kind] for kind in (True, False) for arrays in both)
    return opened, _Arrays(*kinds)


def _learns(array: Array) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _merged(learns: list[bool], learning: list[Array], fixed: list[Array]) -> list[Array]:
    sources = {True: iter(learning), False: iter(fixed)}
    return [next(sources[each]) for each in learns]


def _scan(function: Callable[[Any, Any], tuple[Any, Any]], start: Any, items: Any) -> tuple[Any, Any]:
    """`lax.scan`, without a loop around a single item, in which the compiler would see less."""
    if len(jax.tree.leaves(items)[0]) > 1:
        return lax.scan(function, start, items)
    last, result = function(start, jax.tree.map(lambda leaf: leaf[0], items))
    return last, jax.tree.map(lambda each: each[None], result)


def _added(summands: Summand) -> Summand:
    return jax.tree.map(lambda each: each.sum(axis=0), summands)


def _varying(x: Array, axes: tuple[str, ...]) -> Array:
    return lax.pcast(x, axes, to="varying") if axes else x
