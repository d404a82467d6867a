"""Errors of the hub as one sentence: the cause, the hub's own words, and what to do."""

from __future__ import annotations

import errno
import os

from huggingface_hub import constants, errors, get_token

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def is_missing_file(error: BaseException | None) -> bool:
    """Whether the repository is there and has no such file, or offline the cache has none."""
    return isinstance(error, errors.RemoteEntryNotFoundError) or isinstance(
        getattr(error, "__cause__", None), errors.OfflineModeIsEnabled
    )


def describe_failure(error: Exception, repository: str, revision: str | None, file: str) -> str:
    """The sentence about an error of the hub's library.

    Args:
      error: the one that the hub's library raised.
      repository: OWNER/REPOSITORY.
      revision: branch, tag or commit, or None.
      file: a file's path in the repository, or "".
    """
    # "Not in the cache" is what the library says of anything that goes wrong before the first byte; the cause is below.
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, errors.HfHubHTTPError):
        words = " ".join((error.server_message or "").split())
        sentence = _of_the_hub(error, repository, revision, file)
        return f"{sentence} (the hub says: {words.rstrip('.')})" if words else sentence
    if isinstance(error, errors.OfflineModeIsEnabled):
        name = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
        cached = f"the cache {constants.HF_HUB_CACHE} has no copy" if file else "this needs the hub"
        return f"{name} is set, and {cached}; unset it to reach the hub"
    return _of_this_machine(error, " ".join(str(error).split()) or type(error).__name__)


def _of_the_hub(error: errors.HfHubHTTPError, repository: str, revision: str | None, file: str) -> str:
    page = f"{constants.ENDPOINT}/{repository}"
    has_token, status = get_token() is not None, error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return f"the repository is gated; ask for access at {page}" + ("" if has_token else f", and {_LOG_IN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        token = "your token may not read it" if has_token else f"you are not logged in: {_LOG_IN}"
        return f"{constants.ENDPOINT} has no repository {repository}, or it is private and {token}"
    if isinstance(error, errors.DisabledRepoError):
        return f"the repository has been disabled, see {page}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no branch, tag or commit {revision}; {page}/tree/main lists them"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"the repository has no file {file}"
    if status == 401:
        return (
            f"the hub answers 401: it does not accept your token; make another at {constants.ENDPOINT}, and {_LOG_IN}"
        )
    if status == 403:
        return f"the hub answers 403: your token may not do this with {page}; it needs that permission"
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return f"the hub answers 429, too many requests; wait {f'{wait} s' if wait else 'some minutes'} and try again"
    if status >= 500:
        return f"the hub answers {status}, so the fault is on its side; try again later"
    return f"the hub answers {status}"


def _of_this_machine(error: Exception, words: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}  # the HTTP library changes with the hub's
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in words:
        return f"the disk of the cache {constants.HF_HUB_CACHE} is full; make room, or set HF_HOME to another disk"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"the cache {constants.HF_HUB_CACHE} cannot be written ({words}); set HF_HOME to another folder"
    if "TimeoutException" in kinds:
        return f"no answer from {constants.ENDPOINT} in time ({words}); try again, and check network and proxy"
    if "TransportError" in kinds:
        return f"no connection with {constants.ENDPOINT} ({words}); check network, proxy and HF_ENDPOINT, and try again"
    if isinstance(error, errors.HFValidationError):
        return f"the name is none that the hub can have ({words})"
    if words.startswith("Consistency check failed"):
        return f"what arrived is not the file that the hub announced ({words}); start the command again"
    return f"{words} ({type(error).__name__})"
