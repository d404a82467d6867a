"""The operations of an optimised program, parsed from its HLO."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from flair_jax.plan.hlo import ARRAY, array_bytes, computations_of, runs_of

_NAME = re.compile(r"^\s+(ROOT )?%([^\s=]+) = (.+)$")
_KIND = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(([^)]*)\)")
_ARRAY = re.compile(ARRAY + r"(?:\{([^}]*)\})?")
_CALLS = re.compile(r"\bcalls=%([^\s,})]+)")
_APPLIED = re.compile(r"\bto_apply=%([^\s,})]+)")
_TILE = re.compile(r"([0-9,]+):T\(([0-9,]+)\)")


class ArrayInMemory(NamedTuple):
    """An operand or a result.

    Attributes:
      dtype: its name in HLO, such as "bf16".
      shape: its sizes, without padding.
      size: bytes, with the padding that its layout has.
      far: whether it lies in the chip's memory, not in a faster one.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    far: bool


class Operation(NamedTuple):
    """A line of HLO.

    Attributes:
      kind: such as "fusion".
      results: its arrays.
      operands: names of operations of the same computation.
      called: name of the computation that a fusion runs, or "".
      number: of a parameter; else -1.
      root: whether it is what its computation returns.
      line: all of it, after its name.
    """

    kind: str
    results: tuple[ArrayInMemory, ...]
    operands: tuple[str, ...]
    called: str
    number: int
    root: bool
    line: str


Computation = Mapping[str, Operation]
Computations = Mapping[str, Computation]


class Run(NamedTuple):
    """An operation of the program that is no part of a fusion, by name; it runs so many times."""

    name: str
    operation: Operation
    computation: Computation
    times: int


def read_operations(text: str) -> tuple[Computations, Iterator[Run]]:
    """All computations of a program, and what one run of it executes.

    Args:
      text: optimised HLO, as `compiled.as_text()` gives it.

    Raises:
      ValueError: see `read_program`.
    """
    computations, entry = computations_of(text)
    parsed = {name: _parse(lines) for name, lines in computations.items()}
    inside = {each.called for operations in parsed.values() for each in operations.values() if each.kind == "fusion"}
    inside |= {  # of reductions and the like
        name
        for lines in computations.values()
        for line in lines
        if " call(" not in line
        for name in _APPLIED.findall(line)
    }
    runs = (
        Run(each, operation, parsed[name], times)
        for name, times in runs_of(computations, entry).items()
        if name not in inside
        for each, operation in parsed[name].items()
    )
    return parsed, runs


def _parse(lines: Iterable[str]) -> dict[str, Operation]:
    operations = {}
    for line in lines:
        found = _NAME.match(line)
        operation = found and _KIND.search(found[3])
        if not found or not operation:
            continue
        called = _CALLS.search(found[3])
        operations[found[2]] = Operation(
            operation[1],
            tuple(_array(*each) for each in _ARRAY.findall(found[3][: operation.start()])),
            tuple(re.findall(r"%([^\s,)]+)", operation[2])),
            called[1] if called else "",
            int(operation[2]) if operation[1] == "parameter" else -1,
            bool(found[1]),
            found[3],
        )
    return operations


def _array(dtype: str, sizes: str, layout: str) -> ArrayInMemory:
    """A layout such as 1,0:T(8,128) pads axis 1 to multiples of 128 and axis 0 of 8."""
    shape = tuple(int(size) for size in sizes.split(",") if size)
    padded = list(shape)
    tile = _TILE.match(layout)
    if tile:
        for axis, step in zip(tile[1].split(","), reversed(tile[2].split(",")), strict=False):
            padded[int(axis)] = -(-padded[int(axis)] // int(step)) * int(step)
    return ArrayInMemory(dtype, shape, array_bytes(dtype, padded), "S(" not in layout)
