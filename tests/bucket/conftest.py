"""Buckets on servers of 127.0.0.1, which end with the tests."""

from collections.abc import Iterator

import pytest
from own_bucket import Bucket, bucket_on
from servers import Server, serving


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
