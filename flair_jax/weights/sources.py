"""Finds the weights that a user names, in a file, a folder, or either on the hub; and their description there."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flair_jax.buckets import is_remote
from flair_jax.files import expand, local_copy
from flair_jax.weights import hub
from flair_jax.weights.formats import INDEX_SUFFIX
from flair_jax.weights.layout import PREPROCESSOR, TOKENIZER
from flair_jax.weights.layouts import is_read
from flair_jax.weights.param_map import ConversionError
from flair_jax.weights.write import CONFIG, OPEN_CLIP, WEIGHTS

# In the order in which they are taken. A repository often has the same weights under transformers' names too, in the
# files of the second line.
_KNOWN = [
    f"{name}{suffix}"
    for names in (("open_clip_model.safetensors", "open_clip_pytorch_model.bin"), (WEIGHTS, "pytorch_model.bin"))
    for name in names
    for suffix in ("", INDEX_SUFFIX)
]
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclasses.dataclass(frozen=True)
class FoundWeights:
    """Weights and their description.

    Attributes:
      file: a weight file, or the index of shards.
      name: a name that may tell the activation: the file's, with the folder's or repository's if that was given.
      description: the contents of `open_clip_config.json`, or of our own `config.json`, if one is there and belongs to
        these weights.
      described_in: the name of that file, or "".
      layout: the contents of transformers' `config.json`, if it describes these weights and `layouts.LAYOUTS` has its
        kind.
    """

    file: Path
    name: str
    description: dict[str, Any]
    described_in: str
    layout: dict[str, Any] = dataclasses.field(default_factory=dict)


def find_weights(source: str) -> FoundWeights:
    """The weights that `flair-jax convert` is given; files on the hub are fetched into its cache.

    Args:
      source: a weight file, the `.index.json` of shards, a folder with one of them, or one of these on the hub or in a
        bucket.

    Raises:
      ConversionError: if they are not there, or a folder does not say which file is meant.
    """
    if source.startswith(hub.PREFIX):
        return _find_on_hub(source)
    if is_remote(source):
        remote = expand(source)
        inside = source.endswith(INDEX_SUFFIX)  # the shards are beside it
        path = local_copy(remote.parent) / remote.name if inside else local_copy(remote)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", source):
        raise ConversionError(
            f"{source}: addresses are not fetched; a file on the hub is named {hub.PREFIX}OWNER/REPOSITORY/FILE, and "
            "any other is downloaded first"
        )
    else:
        path = expand(source)
    if not path.is_dir():
        return _described(path, path.name, path.parent, _descriptions(path.name, alone=False))
    if (path / "params").is_dir():
        raise ConversionError(
            f"{source}: is a checkpoint of flair_jax itself, which needs no conversion; `flair-jax export` writes it "
            "for PyTorch"
        )
    file, alone = _pick(source, {entry.name for entry in path.iterdir()})
    return _described(path / file, f"{path.resolve().name}/{file}", path, _descriptions(file, alone=alone))


def _find_on_hub(source: str) -> FoundWeights:
    repository, revision, file = hub.split(source)
    alone = False
    if not file:
        revision, names = hub.list_files(source)
        file, alone = _pick(source, names)
    base = f"{hub.PREFIX}{repository}" + (f"@{revision.replace('/', '%2F')}" if revision else "")
    folder, stroke, name = file.rpartition("/")
    beside = _descriptions(name, alone=alone)
    for each in beside:
        hub.download_if_there(f"{base}/{folder}{stroke}{each}")
    local = hub.download(f"{base}/{file}")
    found = _described(local, f"{repository}/{file}", local.parent, beside)
    for each in (PREPROCESSOR, TOKENIZER) if found.layout else ():
        hub.download_if_there(f"{base}/{folder}{stroke}{each}")
    return found


def _pick(source: str, names: Collection[str]) -> tuple[str, bool]:
    """The weight file among the names in a folder, and whether it is the only one."""
    for name in _KNOWN:
        if name in names:
            return name, False
    found = sorted(name for name in names if name.endswith(_SUFFIXES) and not name.startswith("."))
    if len(found) == 1:
        return found[0], True
    listed = f"several weight files ({', '.join(found)})" if found else "no weight file"
    raise ConversionError(f"{source}: holds {listed}; name the file, as in {source.rstrip('/')}/FILE")


def _descriptions(file: str, *, alone: bool) -> list[str]:
    """Files that may describe this one: those that tools write beside a file of its name, or of any name."""
    if file.startswith("open_clip_"):
        return [OPEN_CLIP]
    return [CONFIG, OPEN_CLIP] if file in _KNOWN or alone else []


def _described(file: Path, name: str, folder: Path, candidates: list[str]) -> FoundWeights:
    for candidate in candidates:
        if not (folder / candidate).is_file():
            continue
        try:
            description = json.loads((folder / candidate).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConversionError(f"{folder / candidate}: cannot be read as JSON ({error})") from None
        model = description.get("model_cfg", description) if isinstance(description, dict) else {}
        if is_read(description):
            return FoundWeights(file, name, {}, "", description)
        # The `config.json` of other libraries is another one.
        if isinstance(model, dict) and {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
            return FoundWeights(file, name, description, candidate)
    return FoundWeights(file, name, {}, "")
