"""Which errors are those of buckets."""

import pytest

from flair_jax.refusals import reason_of


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes (401, 403) and (401,) differ"),
        PermissionError(13, "Permission denied"),
        FileNotFoundError(2, "No such file or directory"),
        RuntimeError("s3://b/c: Forbidden is a word"),
    ],
)
def test_other_errors_are_not_taken_for_them(error: Exception) -> None:
    assert reason_of(error) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("b/mine/o"), "no such bucket"),
        (OSError("Forbidden: https://storage.googleapis.com/b/mine"), "forbidden to you"),
        (ValueError("Error reading gs://mine/x: denied [http_response_code='403']"), "forbidden to you"),
    ],
)
def test_what_clients_say(error: Exception, reason: str) -> None:
    assert reason in (reason_of(error) or "")
