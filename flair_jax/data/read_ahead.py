"""Samples that come over a network, asked for all at once rather than one after the other. Imports no JAX."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator, Sequence

from flair_jax.data.sources import Concatenated, Record, Source


@contextlib.contextmanager
def read_ahead(source: Concatenated, numbers: Sequence[int]) -> Iterator[Source]:
    """The source, whose samples of these numbers arrive by threads if it allows concurrent reads.

    Args:
      source: of the samples.
      numbers: those that will be asked for, in this order.
    """
    if not source.concurrent_reads:
        yield source
        return
    with concurrent.futures.ThreadPoolExecutor(min(source.concurrent_reads, len(numbers))) as pool:
        asked = {number: pool.submit(source.__getitem__, number) for number in dict.fromkeys(numbers)}
        try:
            yield _Asked(source, asked)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Asked:
    """A source some of whose samples are on their way."""

    def __init__(self, source: Source, asked: dict[int, concurrent.futures.Future[Record]]) -> None:
        self._source, self._asked = source, asked

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._asked[index].result() if index in self._asked else self._source[index]

    def where(self, index: int) -> str:
        """Where the source has the sample."""
        return self._source.where(index)
