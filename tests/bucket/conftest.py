"""Buckets on servers of 127.0.0.1, which end with the tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from own_bucket import Bucket, bucket_on
from servers import Server, serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test comes first and the next longest last, so that two workers have one each."""
    places = {"test_killed_runs.py": -1, "test_two_processes.py": 1}
    items.sort(key=lambda item: places.get(item.path.name, 0) if item.path.parent == Path(__file__).parent else 0)


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[Server]:
    with serving("gs") as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    with serving("s3") as server:
        yield server


@pytest.fixture(scope="module")
def gcs(gcs_server: Server) -> Iterator[Bucket]:
    """A module's own bucket on Google Cloud Storage."""
    with bucket_on(gcs_server) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def s3(s3_server: Server) -> Iterator[Bucket]:
    """A module's own bucket on S3."""
    with bucket_on(s3_server) as bucket:
        yield bucket


@pytest.fixture(scope="module", params=["gcs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """Either, in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def indexed_tars(gcs: Bucket, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three tars in the bucket, indexed there."""
    folder = tmp_path_factory.mktemp("tars")
    from made_tars import write_tars

    from flair_jax import buckets
    from flair_jax.cli import main
    from flair_jax.files import expand

    write_tars(folder, 3, 16)
    buckets.upload(folder, expand(f"{gcs.url}/tars"))
    pattern = f"{gcs.url}/tars/{{00000..00002}}.tar"
    assert main(["data", "index", pattern]) == 0
    return pattern
