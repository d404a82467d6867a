"""Work on many items in processes of their own."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def parallel(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    processes: int = 0,
    description: str,
    unit: str,
    progress: bool = True,
) -> Iterator[_Result]:
    """`function` of each item, in order, in processes of their own, with a progress bar."""
    count = min(processes or os.cpu_count() or 1, len(items))
    with tqdm(total=len(items), desc=description, unit=unit, disable=not progress) as bar:
        if count <= 1:
            for item in items:
                yield function(item)
                bar.update()
            return
        with concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            try:
                for result in pool.map(function, items):
                    yield result
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
