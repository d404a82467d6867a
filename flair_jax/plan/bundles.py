"""Cycles of a TPU kernel, counted in the schedule that the compiler writes for it."""

from __future__ import annotations

import re

_BUNDLE = re.compile(r"^\s*(?:0x)?[0-9a-f]+\s+(?:[A-Z]{2})?\s*:")
_REGION = re.compile(r"Start region (\d+)\b")
_BRANCH = re.compile(r"sbr\.rel (?:\((!?)%(p\w+)\) )?target = \$region(\d+)")
_IF = r"(?:\(!?%\w+\), )?"  # a predicate
_DELAY = 4  # bundles after a branch that are run before it is taken
_PIPELINE = "iteration index, stage = 0"  # a comment at the start of a grid's loop
_FILLING = 2  # runs of that loop beyond the grid's steps, in which only transfers are started and awaited


def count_cycles(schedule: str) -> int | None:
    """Bundles that one run of a kernel issues, one a cycle; None if it has a loop whose length is not in the schedule.

    Loops count as often as they run, or may run where the length is the lesser of a constant and a variable, and every
    branch as taken. Waiting for transfers is not counted.

    Args:
      schedule: text of the compiler's dump `final_bundles`.
    """
    bundles = [line for line in schedule.splitlines() if _BUNDLE.match(line)]
    starts = {int(region): at for at, line in enumerate(bundles) for region in _REGION.findall(line)}
    text = "\n".join(bundles)
    runs = [1] * len(bundles)
    for at, line in enumerate(bundles):
        for negated, predicate, target in _BRANCH.findall(line):
            start = starts.get(int(target), at + 1)
            if start > at:  # past a region that is not always run
                continue
            trips = _trips(text, predicate) if negated else None
            if trips is None:
                return None
            if _PIPELINE in bundles[start]:
                trips = max(trips - _FILLING, 1)
            for inside in range(start, min(at + 1 + _DELAY, len(bundles))):
                runs[inside] *= trips
    return sum(runs)


def _trips(text: str, predicate: str) -> int | None:
    """How often a loop runs, at most, that ends when its counter, after its step, has reached a limit."""
    test = re.search(rf"%{predicate} = scmp\.ge\.s32\.totalorder {_IF}%(\w+), (%?\w+)", text)
    if not test:
        return None
    counter, limit = test.groups()
    most = int(limit) if limit.isdecimal() else _least(text, limit)
    step = re.search(rf"%{counter} = sadd\.s32 {_IF}(\d+), %", text)
    first = re.search(rf" = sphi %(\w+), %{counter}\b", text)
    start = re.search(rf"%{first[1]} = smov {_IF}(\d+)\b", text) if first else None
    if most is None:
        return None
    return -(-(most - (int(start[1]) if start else 0)) // (int(step[1]) if step else 1))


def _least(text: str, name: str) -> int | None:
    """C, of a value that is x if x < C and else C; None of any other."""
    value = r"/\*\w+=\*/"
    chosen = re.search(rf"{name} = scalar_select {value}%(\w+), {value}(%\w+), {value}(\d+)\b", text)
    if not chosen:
        return None
    predicate, variable, constant = chosen.groups()
    less = rf"%{predicate} = scmp\.lt\.s32\.totalorder {_IF}{variable}, {constant}\b"
    return int(constant) if re.search(less, text) else None
