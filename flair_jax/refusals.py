"""Why a bucket refuses a request, in a sentence, whichever client says so. Imports no JAX."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

NO_BUCKET = "there is no such bucket; make it, or correct its name"

_MAY_PASS = {408, 429, *range(500, 600)}  # HTTP's statuses: too slow, too often, and the server's own errors
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_CLIENTS = {"aiohttp", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3"}
_NO_CREDENTIALS = {
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
}
_REFUSED_CREDENTIALS = ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")
_HOW_TO_LOG_IN = {
    "gcs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file",
    "s3": "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


def reason_of(error: BaseException) -> str | None:
    """What is wrong with a bucket or the way to it, and what to do; None if the error is not of that kind.

    gcsfs raises built-in errors: FileNotFoundError with the address that it asked for, that of a bucket if there is
    none, and OSError. TensorStore raises ValueError, whose text has the URL and HTTP's status.
    """
    text = str(error)
    of_client = any(map(is_of_client, _causes(error)))
    asked_for = isinstance(error, FileNotFoundError) and re.fullmatch(r"b/[^/]+(/o)?", text)
    if asked_for or (of_client and re.search(r"bucket does not exist|NoSuchBucket|specified bucket", text)):
        return NO_BUCKET
    of_tensorstore = re.search(r"https?://|(gs|s3)://", text) and re.search(r"http_response_code='(\d+)'", text)
    if of_tensorstore and of_tensorstore[1] in ("401", "403"):
        return "is forbidden to you; ask the owner of the bucket for the permission, or use another account"
    if of_client or text.startswith(("Forbidden: ", "Bad Request: ")):
        return refusal("", error)
    return None


def is_of_client(error: BaseException) -> bool:
    """Whether an error is of a class of the packages that talk to buckets."""
    return type(error).__module__.split(".")[0] in _CLIENTS


def refusal(url: str, error: BaseException) -> str | None:
    """Why a bucket will not answer, however often it is asked, and what to do; None if it may."""
    log_in = _HOW_TO_LOG_IN.get(EXTRAS.get(url.partition("://")[0], ""), "log in")
    for cause in _causes(error):
        status, text = _status(cause), str(cause)
        if type(cause).__name__ in _NO_CREDENTIALS or "Anonymous caller" in text:
            return f"there are no credentials for it; {log_in}"
        if status == 401 or any(each in text for each in _REFUSED_CREDENTIALS) or _is_refresh(cause):
            return f"the credentials are refused; {log_in}"
        if status == 403 or isinstance(cause, PermissionError) or text.startswith("Forbidden: "):
            return "is forbidden to you; ask the owner of the bucket for the permission, or use another account"
        if (400 <= status < 500 and status not in _MAY_PASS) or text.startswith("Bad Request: "):
            return f"the request is refused ({in_a_line(cause)})"
    return None


def _is_refresh(error: BaseException) -> bool:
    """Whether Google refuses to renew an account's token; that its server does not answer may pass."""
    return type(error).__name__ == "RefreshError" and not getattr(error, "retryable", False)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: BaseException) -> int:
    """HTTP's status in an error of gcsfs, aiohttp or botocore; 0 if there is none."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for value in (found, getattr(error, "status", None), getattr(error, "code", None)):
        with contextlib.suppress(TypeError, ValueError):
            return int(value)  # type: ignore[arg-type]
    return 0


def in_a_line(error: BaseException) -> str:
    """An error's class and text in at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:200]
