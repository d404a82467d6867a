"""Cycles of a TPU kernel, counted in the schedule that the compiler writes for it."""

from __future__ import annotations

import re

_BUNDLE = re.compile(r"^\s*(?:0x)?[0-9a-f]+\s+(?:[A-Z]{2})?\s*:")
_REGION = re.compile(r"Start region (\d+)\b")
_BRANCH = re.compile(r"sbr\.rel (?:\((!?)%(p\w+)\) )?target = \$region(\d+)")
_DELAY = 4  # bundles after a branch that are run before it is taken


def count_cycles(schedule: str) -> int | None:
    """Bundles that one run of a kernel issues, one a cycle; None if it has a loop whose length is not in the schedule.

    Loops count as often as they run and every branch as taken. Waiting for transfers is not counted.

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
            for inside in range(start, min(at + 1 + _DELAY, len(bundles))):
                runs[inside] *= trips
    return sum(runs)


def _trips(text: str, predicate: str) -> int | None:
    """How often a loop runs that ends when its counter, after its step, has reached a constant."""
    test = re.search(rf"%{predicate} = scmp\.ge\.s32\.totalorder (?:\(!?%\w+\), )?%(\w+), (\d+)\b", text)
    if not test:
        return None
    counter, limit = test.groups()
    step = re.search(rf"%{counter} = sadd\.s32 (?:\(!?%\w+\), )?(\d+), %", text)
    first = re.search(rf" = sphi %(\w+), %{counter}\b", text)
    start = re.search(rf"%{first[1]} = smov (?:\(!?%\w+\), )?(\d+)\b", text) if first else None
    return -(-(int(limit) - (int(start[1]) if start else 0)) // (int(step[1]) if step else 1))
