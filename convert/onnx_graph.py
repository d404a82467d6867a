"""A function of arrays as an ONNX graph, by jax2onnx.

jax2onnx 0.13.0 does not take the model as it is, on JAX 0.10.2: while it traces, it replaces functions of `jax.numpy`
(`jax.numpy.shape` returns arrays then, with which Flax's scan fails), and its form of `pad` fails where a dimension is
free. So the function is traced first, and jax2onnx gets a replay of its primitives: loops over layers unrolled, a third
faster in ONNX Runtime than its Loop; what depends on no argument computed; and padding as concatenation.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from flair_jax.errors import FlairError
from flair_jax.packages import how_to_install

# Of the ai.onnx operators: what jax2onnx writes for us is valid from 18 on, which ONNX Runtime 1.14 and later run.
OPSET = 18

# Primitives that call a function -> where they hold it. Derivatives are not exported.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
_LOGGERS = ("jax2onnx", "onnx_ir")


def require_onnx(purpose: str) -> None:
    """Raises FlairError if jax2onnx, ONNX Runtime or Tokenizers is not installed."""
    try:
        with _contained():
            import jax2onnx
            import onnxruntime  # noqa: F401
            import tokenizers  # noqa: F401
    except ImportError as error:
        raise FlairError(f"{purpose} needs {error.name}: {how_to_install('onnx')}") from None
    del jax2onnx


def to_onnx(
    run: Callable[..., Any], arguments: dict[str, jax.ShapeDtypeStruct], results: Sequence[str], *, name: str
) -> Any:
    """An `onnx.ModelProto` of a function.

    Args:
      run: of the arguments, to one array or a tuple of them.
      arguments: name -> shape, which may have free dimensions, and dtype.
      results: names of what it returns.
      name: of the graph.

    Raises:
      FlairError: if jax2onnx has no form for something in it.
    """
    import jax2onnx

    traced = jax.make_jaxpr(run)(*arguments.values())
    with _contained():
        try:
            return jax2onnx.to_onnx(
                lambda *arrays: _replay(traced, arrays),
                list(arguments.values()),
                model_name=name,
                opset=OPSET,
                input_names=list(arguments),
                output_names=list(results),
            )
        except Exception as error:  # its plugins raise all kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise FlairError(
                f"{name}: jax2onnx cannot write it ({reason}); choose a DST that ends in .stablehlo"
            ) from error


def _replay(traced: jax.extend.core.ClosedJaxpr, arrays: Sequence[Any]) -> list[Any]:
    """The results of a traced function."""
    program = traced.jaxpr
    values: dict[Any, Any] = dict(zip(program.constvars, traced.consts, strict=True))
    values |= dict(zip(program.invars, arrays, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, jax.extend.core.Literal) else values[variable]

    for step in program.eqns:
        values |= dict(zip(step.outvars, _apply(step, [read(each) for each in step.invars]), strict=True))
    return [read(each) for each in program.outvars]


def _apply(step: Any, arrays: list[Any]) -> Sequence[Any]:
    """The results of one step of a traced function."""
    name = step.primitive.name
    if name in _CALLS:
        return _replay(_closed(step.params[_CALLS[name]]), arrays)
    if name == "scan" and not step.params["reverse"] and len(step.outvars) == step.params["num_carry"]:
        return _unrolled(step.params, arrays)
    if name == "pad" and all(low == 0 <= high and not within for low, high, within in step.params["padding_config"]):
        return [_padded(arrays[0], arrays[1], [high for _, high, _ in step.params["padding_config"]])]
    known = not any(isinstance(each, jax.core.Tracer) for each in arrays)
    fixed = all(isinstance(size, int) for variable in step.outvars for size in variable.aval.shape)
    with jax.ensure_compile_time_eval() if known and fixed else contextlib.nullcontext():
        found = step.primitive.bind(*arrays, **step.primitive.get_bind_params(step.params))
    return found if step.primitive.multiple_results else [found]


def _closed(program: Any) -> jax.extend.core.ClosedJaxpr:
    return program if isinstance(program, jax.extend.core.ClosedJaxpr) else jax.extend.core.ClosedJaxpr(program, ())


def _unrolled(params: dict[str, Any], arrays: list[Any]) -> list[Any]:
    """A scan that gives nothing but its carry, as a sequence of its steps."""
    shared, rest = arrays[: params["num_consts"]], arrays[params["num_consts"] :]
    carry, layers = rest[: params["num_carry"]], rest[params["num_carry"] :]
    for number in range(params["length"]):
        with jax.ensure_compile_time_eval():  # they are parameters
            own = [each[number] for each in layers]
        carry = _replay(_closed(params["jaxpr"]), [*shared, *carry, *own])
    return carry


def _padded(x: Any, value: Any, behind: list[int]) -> Any:
    """An array with so many more elements at the end of each axis."""
    for axis, count in enumerate(behind):
        if count:
            more = jnp.broadcast_to(value, (*x.shape[:axis], count, *x.shape[axis + 1 :]))
            x = jax.lax.concatenate([x, more], axis)
    return x


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Leaves JAX as it was, of which jax2onnx keeps `jax.numpy.cumsum` replaced; and without its warnings about shapes
    that are inferred later and plugins for libraries that we do not use.
    """
    functions = dict(vars(jnp))
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        for name, function in functions.items():
            if getattr(jnp, name) is not function:
                setattr(jnp, name, function)
