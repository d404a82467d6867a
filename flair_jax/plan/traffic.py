"""Bytes that a compiled program moves to and from the memory of a chip, read from its optimised HLO.

Each operation reads its operands and writes its results once, with the padding that their layouts have, unless they lie
in the chip's own fast memory; of what an operation slices, updates in place, gathers or scatters, only that part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flair_jax.plan.hlo import ARRAY, array_bytes, computations_of, runs_of

_NAME = re.compile(r"^\s+(ROOT )?%([^\s=]+) = (.+)$")
_KIND = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(([^)]*)\)")
_ARRAY = re.compile(ARRAY + r"(?:\{([^}]*)\})?")
_CALLS = re.compile(r"\bcalls=%([^\s,})]+)")
_APPLIED = re.compile(r"\bto_apply=%([^\s,})]+)")
_TILE = re.compile(r"([0-9,]+):T\(([0-9,]+)\)")

# Operations that move nothing, or are counted in the computations they run; ends of transfers, counted at their start.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
_SLICES = {"dynamic-slice", "slice", "gather"}


class _Array(NamedTuple):
    size: int  # bytes
    far: bool  # in the chip's memory, not in a faster one


class _Operation(NamedTuple):
    kind: str
    results: tuple[_Array, ...]
    operands: tuple[str, ...]
    called: str
    number: int  # of a parameter
    root: bool


_Computation = Mapping[str, _Operation]


def memory_bytes(text: str) -> float:
    """Bytes that one device reads from and writes to its memory in one run.

    Args:
      text: optimised HLO of its program, as `compiled.as_text()` gives it.
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
    return float(
        sum(
            times * _moved(each, parsed[name], parsed)
            for name, times in runs_of(computations, entry).items()
            if name not in inside
            for each in parsed[name].values()
        )
    )


def _parse(lines: Iterable[str]) -> dict[str, _Operation]:
    operations = {}
    for line in lines:
        found = _NAME.match(line)
        operation = found and _KIND.search(found[3])
        if not found or not operation:
            continue
        called = _CALLS.search(found[3])
        arrays = _ARRAY.findall(found[3][: operation.start()])
        operations[found[2]] = _Operation(
            operation[1],
            tuple(_Array(_size(dtype, sizes, layout), "S(" not in layout) for dtype, sizes, layout in arrays),
            tuple(re.findall(r"%([^\s,)]+)", operation[2])),
            called[1] if called else "",
            int(operation[2]) if operation[1] == "parameter" else -1,
            bool(found[1]),
        )
    return operations


def _size(dtype: str, sizes: str, layout: str) -> int:
    """Bytes of an array; a layout such as 1,0:T(8,128) pads axis 1 to multiples of 128 and axis 0 of 8."""
    shape = [int(size) for size in sizes.split(",") if size]
    tile = _TILE.match(layout)
    if tile:
        for axis, step in zip(tile[1].split(","), reversed(tile[2].split(",")), strict=False):
            shape[int(axis)] = -(-shape[int(axis)] // int(step)) * int(step)
    return array_bytes(dtype, shape)


def _moved(operation: _Operation, others: _Computation, parsed: Mapping[str, _Computation]) -> int:
    """Bytes of one run of an operation."""
    kind, results = operation.kind, operation.results
    if kind in _FREE or kind.endswith("-done") or (operation.called and kind != "fusion"):
        return 0
    if kind == "copy-start":  # (target, source, bookkeeping)
        return sum(each.size for each in results[:2] if each.far)
    if kind == "slice-start":  # (source, target, bookkeeping)
        return sum(results[1].size for each in results[:2] if each.far)
    operands = [others[name].results[0] if others[name].results else _Array(0, False) for name in operation.operands]
    if kind == "fusion":
        inner = parsed[operation.called]
        read = sum(_read(inner, number, parsed) for number, each in enumerate(operands) if each.far)
        written = _written(inner, next(name for name, each in inner.items() if each.root), parsed)
        return read + sum(size for size, each in zip(written, results, strict=False) if each.far)
    if kind in _SLICES:
        return results[0].size * (operands[0].far + results[0].far)
    if kind in ("dynamic-update-slice", "scatter"):
        part = operands[1] if kind == "dynamic-update-slice" else operands[-1]
        return part.size * (part.far + results[0].far * (1 + (kind == "scatter")))
    return sum(each.size for each in (*results, *operands) if each.far)


def _read(inner: _Computation, number: int, parsed: Mapping[str, _Computation]) -> int:
    """Bytes that a fusion reads of an operand."""
    name, parameter = next((name, each) for name, each in inner.items() if each.number == number)
    parts = _parts_read(inner, name, parsed)
    whole = parameter.results[0].size if parameter.results else 0
    return whole if parts is None else min(parts, whole)


def _parts_read(inner: _Computation, name: str, parsed: Mapping[str, _Computation]) -> int | None:
    """Bytes that are read of a value of which only parts are used; None if all of it is."""
    total = 0
    for user, operation in inner.items():
        if name not in operation.operands:
            continue
        of_user: int | None = None
        if operation.kind == "bitcast":
            of_user = _parts_read(inner, user, parsed)
        elif operation.kind == "fusion":
            of_user = sum(
                _read(parsed[operation.called], number, parsed)
                for number, operand in enumerate(operation.operands)
                if operand == name
            )
        elif operation.operands[0] == name and name not in operation.operands[1:]:
            if operation.kind in _SLICES:
                of_user = operation.results[0].size
            elif operation.kind == "dynamic-update-slice":
                of_user = 0
            elif operation.kind == "scatter":
                of_user = inner[operation.operands[-1]].results[0].size
        if of_user is None:
            return None
        total += of_user
    return total


def _written(inner: _Computation, name: str, parsed: Mapping[str, _Computation]) -> list[int]:
    """Bytes that a fusion writes of each of its results; `name` is its last operation."""
    operation = inner[name]
    if operation.kind == "tuple":
        return [size for operand in operation.operands for size in _written(inner, operand, parsed)]
    if operation.kind == "bitcast":
        return _written(inner, operation.operands[0], parsed)
    if operation.kind == "fusion":
        called = parsed[operation.called]
        return _written(called, next(name for name, each in called.items() if each.root), parsed)
    if operation.kind in ("dynamic-update-slice", "scatter"):
        part = operation.operands[1 if operation.kind == "dynamic-update-slice" else -1]
        return [inner[part].results[0].size]
    return [each.size for each in operation.results]
