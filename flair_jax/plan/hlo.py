"""What a compiled program does in one run, read from its optimised HLO: collectives, and the compiler's time estimate.

Loops are counted as often as they run. XLA's own cost analysis counts the body of a loop once.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
ARRAY = r"\b(pred|[a-z]+[0-9]+\w*)\[([0-9,]*)\]"  # a regular expression: dtype, such as bf16 or f8e4m3fn, and sizes

_HEADER = re.compile(r"^(ENTRY )?%([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([^\s=]+) = (.+)$")
_SHAPE = re.compile(ARRAY)
_CALLED = re.compile(r"\b(?:calls|body|condition|to_apply|true_computation|false_computation)=%([^\s,})]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CONSTANT = re.compile(r"= s32\[\](?:\{[^}]*\})? constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Data that devices exchange.

    Attributes:
      kind: one of `KINDS`.
      shapes: dtype and shape of each array of the result on one device, such as ("f32[8192,512]",).
      size: how many devices take part together.
      across_slices: whether they belong to more than one slice.
      times: how often it runs.
      wire_bytes: bytes that each device sends in all these runs, by the usual ring algorithms.
    """

    kind: str
    shapes: tuple[str, ...]
    size: int
    across_slices: bool
    times: int
    wire_bytes: float


@dataclasses.dataclass(frozen=True)
class Program:
    """One run of a compiled program.

    Attributes:
      collectives: all of more than one device.
      cycles: of one device's cores, by the compiler's estimate of the computation, without waiting for other devices; 0
        if the compiler for this platform gives none.
    """

    collectives: tuple[Collective, ...]
    cycles: int


def read_program(text: str, slices: Sequence[int] = ()) -> Program:
    """Reads optimised HLO, as `compiled.as_text()` gives it.

    Args:
      text: of one device's program.
      slices: number of the slice of each device, in the order of the program's devices; (): one slice.

    Raises:
      ValueError: if the text has no entry, or a loop whose length it does not show.
    """
    computations, entry = computations_of(text)
    collectives: list[Collective] = []
    cycles = 0
    chains: set[str] = set()
    for name, times in runs_of(computations, entry).items():
        for line in computations[name]:
            cycles += estimated_cycles(line) * times
            # A collective that is overlapped with several computations appears in each of them, with one chain's
            # number.
            chain = re.search(r'chain_id="(\d+)"', line)
            if chain and chain[1] in chains:
                continue
            found = _collective(line, times, slices)
            if found:
                collectives.append(found)
                if chain:
                    chains.add(chain[1])
    return Program(tuple(collectives), cycles)


def estimated_cycles(line: str) -> int:
    """The compiler's estimate for an operation; 0 if it gives none."""
    estimate = _CYCLES.search(line)
    return int(estimate[1]) if estimate else 0


def computations_of(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, by its name, and the name of the entry.

    Raises:
      ValueError: if there is no entry.
    """
    computations: dict[str, list[str]] = {}
    entry = ""
    lines: list[str] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif _INSTRUCTION.match(line):
            lines.append(line)
    if not entry:
        raise ValueError("the HLO has no entry computation")
    return computations, entry


def runs_of(computations: dict[str, list[str]], entry: str) -> Counter[str]:
    """How often each computation runs."""
    runs: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for line in computations[name]:
            called = _CALLED.findall(line) + [
                name.strip().lstrip("%") for names in _BRANCHES.findall(line) for name in names.split(",")
            ]
            loops = _trip_count(line, computations) if " while(" in line else 1
            for each in called:
                if each in computations:
                    visit(each, times * loops)

    visit(entry, 1)
    return runs


def _trip_count(line: str, computations: dict[str, list[str]]) -> int:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    # Loops of lax.scan and lax.map count from 0 to a constant, which appears in the condition.
    condition = re.search(r"condition=%([^\s,})]+)", line)
    constants = [
        int(value)
        for each in computations.get(condition[1] if condition else "", ())
        for value in _CONSTANT.findall(each)
    ]
    if len(constants) != 1:
        raise ValueError(f"the length of a loop cannot be read: {line.strip()[:80]}")
    return constants[0]


def _collective(line: str, times: int, slices: Sequence[int]) -> Collective | None:
    instruction = _INSTRUCTION.match(line)
    if not instruction:
        return None
    found = re.match(rf"(.*?) ({'|'.join(KINDS)})(-start)?\(", instruction[2])
    if not found:
        return _between_slices(instruction[2], times, len(set(slices)))
    kind, asynchronous = found[2], bool(found[3])
    shapes = [f"{dtype}[{sizes}]" for dtype, sizes in _SHAPE.findall(found[1])]
    if asynchronous and kind != "all-reduce":  # (operands, results, and the bookkeeping)
        shapes = [shape for shape in shapes if shape != "u32[]"]
        shapes = shapes[len(shapes) // 2 :]
    groups = list(_groups(instruction[2]))
    size = max(map(len, groups), default=max(len(slices), 1))
    if kind == "collective-permute":
        size = 2
    if size <= 1:
        return None
    across = any(len({slices[device] for device in group}) > 1 for group in groups) if slices else False
    result = sum(map(bytes_of, shapes))
    share = (size - 1) / size
    sent = {
        "all-gather": result * share,
        "all-reduce": 2 * result * share,
        "reduce-scatter": result * size * share,
        "all-to-all": result * share,
        "collective-permute": float(result),
    }[kind]
    return Collective(kind, tuple(shapes), size, across, times, sent * times)


def _between_slices(instruction: str, times: int, slices: int) -> Collective | None:
    """A part of a collective that the TPU compiler has made hosts exchange, over the data-centre network."""
    kind = re.search(r'_xla_megascale_transfer_type="([A-Z_]+)"', instruction)
    if not kind or " send(" not in instruction:
        return None
    name = kind[1].lower().replace("_", "-")
    dtype, sizes = _SHAPE.findall(instruction)[0]
    shape = f"{dtype}[{sizes}]"
    share = (slices - 1) / slices
    sent = {"all-gather": slices * share, "all-reduce": 2 * share}.get(name, share) * bytes_of(shape)
    return Collective(name, (shape,), slices, True, times, sent * times)


def bytes_of(shape: str) -> int:
    """Bytes of an array, such as "bf16[128,512]".

    Raises:
      ValueError: if it is none.
    """
    found = _SHAPE.match(shape)
    if not found:
        raise ValueError(f"{shape}: not a shape that is known")
    return array_bytes(found[1], [int(size) for size in found[2].split(",") if size])


def array_bytes(dtype: str, sizes: Sequence[int]) -> int:
    """Bytes of an array by the name of its dtype in HLO, such as "bf16", whose number is that of its bits.

    Raises:
      ValueError: if it is no such name.
    """
    found = re.match(r"pred|[a-z]+([0-9]+)", dtype)
    if not found:
        raise ValueError(f"{dtype}: not a dtype that is known")
    return math.prod(sizes) * int(found[1] or 8) // 8


def _groups(text: str) -> Iterator[list[int]]:
    """Devices of each group, from any of the three ways in which HLO writes them."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[0-9,{}]*\})\}", text)
    if listed:
        for group in re.findall(r"\{([0-9,]+)\}", listed[1]):
            yield [int(device) for device in group.split(",")]
        return
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?", text)
    if counted:
        devices = _transposed([int(n) for n in counted[3].split(",")], counted[4])
        rows, columns = int(counted[1]), int(counted[2])
        yield from (devices[row * columns : (row + 1) * columns] for row in range(rows))
        return
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:,? ?device_ids=\([^)]*\))? ?\{([^}]*)\}", text)
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        axes = re.findall(r"'([^']+)'", named[2])
        kept = [name for name in sizes if name not in axes]
        order = [list(sizes).index(name) for name in [*kept, *axes]]
        devices = _transposed(list(sizes.values()), ",".join(map(str, order)))
        columns = math.prod(sizes[name] for name in axes)
        yield from (devices[start : start + columns] for start in range(0, len(devices), columns))


def _transposed(sizes: list[int], order: str | None) -> list[int]:
    """0, 1, ... in an array of these sizes, its axes in another order, as one row."""
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return (numbers.transpose([int(axis) for axis in order.split(",")]) if order else numbers).reshape(-1).tolist()
