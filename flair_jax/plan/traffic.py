"""Bytes that an operation of a compiled program moves to and from the memory of a chip.

Each operation reads its operands and writes its results once, with the padding that their layouts have, unless they lie
in the chip's own fast memory; of what an operation slices, updates in place, gathers or scatters, only that part.
"""

from __future__ import annotations

from flair_jax.plan.operations import ArrayInMemory, Computation, Computations, Operation

# Operations that move nothing, or are counted in the computations they run; ends of transfers, counted at their start.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
_NOTHING = ArrayInMemory("", (), 0, False)  # of operands that are no arrays, such as tokens
_BUFFERS = ("AllocateBuffer", "ConcatBitcast")  # custom calls by which the TPU compiler names memory
_SLICES = {"dynamic-slice", "slice", "gather"}


def moved_bytes(operation: Operation, others: Computation, parsed: Computations) -> int:
    """Bytes of one run of an operation.

    Args:
      operation: see `read_operations`.
      others: the computation that it belongs to.
      parsed: all computations of the program.
    """
    kind, results = operation.kind, operation.results
    if kind in _FREE or kind.endswith("-done") or (operation.called and kind != "fusion"):
        return 0
    if kind == "copy-start":  # (target, source, bookkeeping)
        return sum(each.size for each in results[:2] if each.far)
    if kind == "slice-start":  # (source, target, bookkeeping)
        return sum(results[1].size for each in results[:2] if each.far)
    names = operation.operands
    if kind == "custom-call":
        if any(f'custom_call_target="{name}"' in operation.line for name in _BUFFERS):
            return 0
        names = tuple(dict.fromkeys(names))  # a kernel that is given an array twice reads different parts of it
    operands = [others[name].results[0] if others[name].results else _NOTHING for name in names]
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


def _read(inner: Computation, number: int, parsed: Computations) -> int:
    """Bytes that a fusion reads of an operand."""
    name, parameter = next((name, each) for name, each in inner.items() if each.number == number)
    parts = _parts_read(inner, name, parsed)
    whole = parameter.results[0].size if parameter.results else 0
    return whole if parts is None else min(parts, whole)


def _parts_read(inner: Computation, name: str, parsed: Computations) -> int | None:
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


def _written(inner: Computation, name: str, parsed: Computations) -> list[int]:
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
