"""A test module's own bucket, and a proxy in front of it that fails some requests."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from servers import Server

if TYPE_CHECKING:
    from proxy import Proxy

_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Bucket:
    """An empty bucket, and two ways to reach it.

    Attributes:
      url: such as "gs://test-1".
      server: the store itself, to which this process's clients are connected while the fixture lives.
      flaky: a proxy in front of it that fails one request in ten; it counts them, too.
    """

    url: str
    server: Server
    flaky: "Proxy"

    @property
    def environment(self) -> dict[str, str]:
        """Variables for programs that a test starts."""
        return os.environ | self.server.environment


@contextlib.contextmanager
def connected(server: Server) -> Iterator[None]:
    """This process's clients talk to that server, or proxy, during the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        forget_clients()
        try:
            yield
        finally:
            forget_clients()


def forget_clients() -> None:
    """Clients read the environment when they are made, and are kept."""
    import etils.epath.backend
    import fsspec

    from flair_jax import bucket_reads

    for protocol in ("gs", "s3"):
        fsspec.get_filesystem_class(protocol).clear_instance_cache()
    etils.epath.backend.fsspec_backend._get_filesystem.cache_clear()
    bucket_reads._filesystem.cache_clear()


@contextlib.contextmanager
def bucket_on(server: Server) -> Iterator[Bucket]:
    from proxy import Behaviour, proxied

    url = server.make_bucket(f"test-{next(_numbers)}")
    with connected(server), proxied(server, Behaviour(fail=0.1, seed=1)) as flaky:
        yield Bucket(url, server, flaky)
