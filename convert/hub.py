"""The Hugging Face hub: weight files and checkpoints named there, and where exported ones are put.

The library's own settings hold: `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`. A transfer that broke off goes
on where it was.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors

from flair_jax import __version__

from .files import CONFIG, WEIGHTS
from .param_map import ConversionError

PREFIX = "hf://"

# HTTPError is the HTTP library's, which the hub's changes with its releases; a refused connection is one.
_ERRORS = (huggingface_hub.errors.HTTPError, OSError, ValueError)


def split(name: str) -> tuple[str, str | None, str]:
    """`hf://OWNER/REPOSITORY[@REVISION][/FILE]` as OWNER/REPOSITORY, the revision if one is named, and the file or "".

    Raises:
      ConversionError: if it is not of that form.
    """
    owner, _, rest = name.removeprefix(PREFIX).partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not (name.startswith(PREFIX) and owner and repository):
        raise ConversionError(
            f"{name}: expected {PREFIX}OWNER/REPOSITORY/FILE, such as hf://xiaorui638/flair/flair-cc3m-recap.pt, or "
            f"{PREFIX}OWNER/REPOSITORY for one that `flair-jax export` filled; @REVISION may follow REPOSITORY"
        )
    return f"{owner}/{repository}", revision or None, file


def download(name: str) -> Path:
    """Fetches a file of a hub repository into the hub's cache, or finds it there.

    Args:
      name: `hf://OWNER/REPOSITORY/PATH/TO/FILE`, with `@REVISION` after the repository if not the main branch.

    Returns:
      The file's path in the cache.

    Raises:
      ConversionError: if the name is malformed, or the file cannot be had.
    """
    repository, revision, file = split(name)
    if not file:
        raise ConversionError(
            f"{name}: expected {PREFIX}OWNER/REPOSITORY/FILE, such as hf://xiaorui638/flair/flair-cc3m-recap.pt"
        )
    return _fetch(name, repository, revision, file)


def download_checkpoint(name: str) -> Path:
    """Fetches a checkpoint that `upload` put on the hub, its description and weights of one commit.

    Args:
      name: `hf://OWNER/REPOSITORY`, with `@REVISION` if not the main branch.

    Returns:
      A folder in the hub's cache, whose name is the commit.

    Raises:
      ConversionError: if the name is malformed, or there is no checkpoint, or it cannot be had.
    """
    repository, revision, _ = split(name)
    try:
        folder = _fetch(name, repository, revision, CONFIG).parent
        _fetch(name, repository, folder.name, WEIGHTS)
    except ConversionError as error:
        if not isinstance(error.__cause__, huggingface_hub.errors.RemoteEntryNotFoundError):
            raise
        raise ConversionError(
            f"{name}: no checkpoint in this repository (it needs {CONFIG} and {WEIGHTS}, as `flair-jax export` writes "
            "them); a weight file is named with its path, such as hf://xiaorui638/flair/flair-cc3m-recap.pt"
        ) from None
    return folder


def upload(folder: Path, name: str, *, keep: Collection[str] = ()) -> str:
    """Puts the files of a folder into a hub repository, in place of older ones.

    A repository that does not exist is made, private; so is a branch.

    Args:
      folder: with the files.
      name: `hf://OWNER/REPOSITORY`, with `@REVISION` if not the main branch.
      keep: files that stay as they are if the repository has them.

    Returns:
      The address of the commit.

    Raises:
      ConversionError: if the name is malformed, there is no token, or the hub refuses.
    """
    repository, revision = check_upload(name)
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=f"Export from flair_jax {__version__}",
            ignore_patterns=[file for file in keep if api.file_exists(repository, file, revision=revision)],
        )
    except _ERRORS as error:
        raise ConversionError(
            f"{name}: cannot be uploaded ({_reason(error)}); the token must be allowed to write there, and "
            "the command can be started again"
        ) from error
    return str(commit.commit_url)


def check_upload(name: str) -> tuple[str, str | None]:
    """The repository and revision of `hf://OWNER/REPOSITORY[@REVISION]`, if `upload` can be tried.

    Raises:
      ConversionError: if the name is malformed, or there is no token.
    """
    repository, revision, file = split(name)
    if file:
        raise ConversionError(f"{name}: a whole repository is written; name it as {PREFIX}{repository}")
    if huggingface_hub.get_token() is None:
        raise ConversionError(
            f"{name}: uploading needs a token that may write; log in with `hf auth login`, or set HF_TOKEN"
        )
    return repository, revision


def _fetch(name: str, repository: str, revision: str | None, file: str) -> Path:
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except _ERRORS as error:
        raise ConversionError(
            f"{name}: cannot be downloaded ({_reason(error)}); start the command again to go on where it stopped, "
            "or fetch the file by other means and convert that"
        ) from error


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
