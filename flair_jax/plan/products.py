"""FLOPs of the matrix products in an operation of a compiled program, which the TPU compiler writes as convolutions."""

from __future__ import annotations

import math
import re

import numpy as np

from flair_jax.plan.operations import Computation, Computations, Operation

_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([0-9,]*)\}")
_LABELS = re.compile(r"dim_labels=([0-9a-z]+)_([0-9a-z]+)->([0-9a-z]+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def product_flops(operation: Operation, others: Computation, parsed: Computations) -> float:
    """FLOPs of one run of an operation, at 2 per multiply-add of values that are no padding.

    Args:
      operation: see `read_operations`.
      others: the computation that it belongs to.
      parsed: all computations of the program.
    """
    if operation.kind == "fusion":
        inner = parsed[operation.called]
        return sum(product_flops(each, inner, parsed) for each in inner.values())
    if operation.kind == "dot":
        contracted = _CONTRACTED.search(operation.line)
        axes = [int(axis) for axis in (contracted[1] if contracted else "").split(",") if axis]
        left = others[operation.operands[0]].results[0].shape
        return 2.0 * math.prod(operation.results[0].shape) * math.prod(left[axis] for axis in axes)
    if operation.kind == "convolution":
        left, right = (others[name].results[0].shape for name in operation.operands[:2])
        return _convolution(operation, left, right)
    return 0.0


def _convolution(operation: Operation, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    labels = _LABELS.search(operation.line)
    if not labels:
        return 0.0
    of_left, of_right, of_result = labels.groups()
    result = operation.results[0].shape
    flops = 2.0 * result[of_result.index("b")] * result[of_result.index("f")] * right[of_right.index("i")]
    window = _WINDOW.search(operation.line)
    settings = dict(word.split("=") for word in window[1].split()) if window else {}
    axes = [label for label in of_left if label.isdigit()]
    for number, label in enumerate(axes):
        one = {name: value.split("x")[number] for name, value in settings.items()}
        flops *= _taps(left[of_left.index(label)], result[of_result.index(label)], one)
    return flops


def _taps(length: int, positions: int, window: dict[str, str]) -> int:
    """Pairs of a position of the window and a place in it at which there is a value, along one axis."""
    stride, dilation = int(window.get("stride", 1)), int(window.get("lhs_dilate", 1))
    low = int(window.get("pad", "0_0").split("_")[0])
    places = np.arange(int(window.get("size", 1))) * int(window.get("rhs_dilate", 1))
    at = np.arange(positions)[:, None] * stride - low + places[None]
    return int(np.sum((at >= 0) & (at <= (length - 1) * dilation) & (at % dilation == 0)))
