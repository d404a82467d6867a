"""Weight files named on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import huggingface_hub.errors

from .param_map import ConversionError

PREFIX = "hf://"


def download(name: str) -> Path:
    """Fetches a file of a hub repository into the hub's cache, or finds it there.

    A download that broke off goes on where it was. The library's own settings hold: `HF_HOME`, `HF_TOKEN`,
    `HF_ENDPOINT`, `HF_HUB_OFFLINE`.

    Args:
      name: `hf://OWNER/REPOSITORY/PATH/TO/FILE`, with `@REVISION` after the repository if not the main branch.

    Returns:
      The file's path in the cache.

    Raises:
      ConversionError: if the name is malformed, or the file cannot be had.
    """
    owner, _, rest = name.removeprefix(PREFIX).partition("/")
    repository, _, filename = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not (owner and repository and filename):
        raise ConversionError(
            f"{name}: expected {PREFIX}OWNER/REPOSITORY/FILE, such as hf://xiaorui638/flair/flair-cc3m-recap.pt"
        )
    try:
        return Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", filename, revision=revision or None))
    except (
        huggingface_hub.errors.HfHubHTTPError,
        huggingface_hub.errors.LocalEntryNotFoundError,
        OSError,
        ValueError,
    ) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConversionError(
            f"{name}: cannot be downloaded ({reason}); start the command again to go on where it stopped, "
            "or fetch the file by other means and convert that"
        ) from error
