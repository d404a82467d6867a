"""The Hugging Face hub: weight files and checkpoints named there, and where exported ones are put.

The library's own settings apply: `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.

`huggingface_hub` 2.4.0 takes the name of a file in its cache from what the endpoint answers, unchecked, so that an
untrusted endpoint can make it write elsewhere; every path returned here is checked to be in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import huggingface_hub.errors
from huggingface_hub import constants

from flair_jax import __version__
from flair_jax.models.tokenizer_names import FILE as TOKENIZER
from flair_jax.weights import digests
from flair_jax.weights.formats import INDEX_SUFFIX
from flair_jax.weights.hub_errors import describe_failure, is_missing_file
from flair_jax.weights.param_map import ConversionError
from flair_jax.weights.read import shards_of
from flair_jax.weights.write import CONFIG, WEIGHTS

PREFIX = "hf://"

# These revisions hold slashes and are recognised; in others a slash is written %2F, as in the hub's own names.
_REFS = r"refs/(?:pr/\d+|convert/[\w.-]+)(?=/|$)"
_NAME = re.compile(rf"hf://([^/@]+)/([^/@]+)(?:@({_REFS}|[^/]+))?(?:/(.*))?")


def split(name: str) -> tuple[str, str | None, str]:
    """`hf://OWNER/REPOSITORY[@REVISION][/FILE]` as OWNER/REPOSITORY, the revision if one is named, and the file or "".

    Raises:
      ConversionError: if it is not of that form.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ConversionError(
            f"{name}: expected {PREFIX}OWNER/REPOSITORY/FILE, such as hf://xiaorui638/flair/flair-cc3m-recap.pt, or "
            f"{PREFIX}OWNER/REPOSITORY for one that `flair-jax export` filled; @REVISION may follow REPOSITORY"
        )
    owner, repository, revision, file = match.groups()
    return f"{owner}/{repository}", revision and unquote(revision), file or ""


def download(name: str) -> Path:
    """Fetches a file of a hub repository into the hub's cache, or finds it there; of an index, its shards too.

    Args:
      name: `hf://OWNER/REPOSITORY/PATH/TO/FILE`, with `@REVISION` after the repository if not the main branch.

    Returns:
      The file's path in the cache.

    Raises:
      ConversionError: if the name is malformed, or the file cannot be fetched or is not the one that the hub describes.
    """
    repository, revision, file = split(name)
    if not file:
        raise ConversionError(
            f"{name}: expected {PREFIX}OWNER/REPOSITORY/FILE, such as hf://xiaorui638/flair/flair-cc3m-recap.pt"
        )
    path = _fetch(name, repository, revision, file)
    if file.endswith(INDEX_SUFFIX):
        commit = path.parts[path.parts.index("snapshots") + 1]
        folder = file.removesuffix(path.name)
        for shard in shards_of(path):
            _fetch(name, repository, commit, f"{folder}{shard}")
    return path


def download_if_there(name: str) -> Path | None:
    """`download`, or None if the repository has no such file, or offline the cache."""
    try:
        return download(name)
    except ConversionError as error:
        if is_missing_file(error.__cause__):
            return None
        raise


def download_checkpoint(name: str) -> Path:
    """Fetches a checkpoint that `upload` put on the hub, its description and weights of one commit.

    Args:
      name: `hf://OWNER/REPOSITORY`, with `@REVISION` if not the main branch.

    Returns:
      A folder in the hub's cache, whose name is the commit.

    Raises:
      ConversionError: if the name is malformed, or there is no checkpoint, or it cannot be fetched.
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
    names_tokenizer = f':{TOKENIZER}"'.encode() in (folder / CONFIG).read_bytes()  # another one there is not ours
    for file in [TOKENIZER] * names_tokenizer + [digests.FILE]:
        download_if_there(f"{PREFIX}{repository}@{folder.name}/{file}")
    return folder


def list_files(name: str) -> tuple[str, list[str]]:
    """The commit to which `hf://OWNER/REPOSITORY[@REVISION]` refers now, and the files in it.

    Raises:
      ConversionError: if the name is malformed, or the hub does not say.
    """
    repository, revision, _ = split(name)
    with _one_sentence(f"{name}: its files cannot be listed", repository, revision):
        return _list_files(repository, revision)


def _list_files(repository: str, revision: str | None) -> tuple[str, list[str]]:
    info = huggingface_hub.HfApi().model_info(repository, revision=revision)
    return str(info.sha), [entry.rfilename for entry in info.siblings or []]


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
    with _one_sentence(f"{name}: cannot be uploaded", repository, revision):
        api.create_repo(repository, private=True, exist_ok=True)
        if revision and not re.match(_REFS, revision):
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=f"Export from flair_jax {__version__}",
            ignore_patterns=[file for file in keep if api.file_exists(repository, file, revision=revision)],
        )
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
    with _one_sentence(f"{name}: cannot be downloaded", repository, revision, file):
        path = Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    _check(name, path)
    return path


def _check(name: str, path: Path) -> None:
    """Raises ConversionError if a file is outside of the cache, or not the one that the hub described.

    A file in the cache is a link to one named by the hub's hash of it: SHA-256 for large files, git's for others.
    """
    if not path.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
        raise ConversionError(
            f"{name}: the answer of {constants.ENDPOINT} led out of the cache, to {path.resolve()}; remove that file, "
            "and do not use this endpoint"
        )
    told = Path(os.readlink(path)).name if path.is_symlink() else ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", told):
        return
    digest = hashlib.sha256() if len(told) == 64 else hashlib.sha1(usedforsecurity=False)
    if len(told) == 40:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != told:
        raise ConversionError(
            f"{name}: the file in the cache is not the one that the hub describes (its hash is {digest.hexdigest()}); "
            f"remove {path.resolve()}, and start the command again"
        )


@contextlib.contextmanager
def _one_sentence(what: str, repository: str, revision: str | None, file: str = "") -> Iterator[None]:
    """Turns errors of the hub's library into a ConversionError, and prints each of its log messages once.

    It has a handler of its own; the root logger's, which other libraries set, would print the same twice.
    """
    logger = logging.getLogger("huggingface_hub")
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    except Exception as error:  # the library, its HTTP client and its storage raise many kinds
        sentence = describe_failure(error, repository, revision, file)
        if isinstance(error, huggingface_hub.errors.RemoteEntryNotFoundError):
            sentence += _files_there(repository, revision)
        raise ConversionError(f"{what}: {sentence}") from error
    finally:
        logger.propagate = propagate


def _files_there(repository: str, revision: str | None) -> str:
    """A hint which files a repository has, for a message about a missing one; empty if the hub does not say."""
    with contextlib.suppress(Exception):
        _, names = _list_files(repository, revision)
        return f"; it has {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
    return ""
