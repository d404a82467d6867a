"""The format of a weight file, by its first bytes, and advice about files that are not weights."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from flair_jax.errors import plural
from flair_jax.weights.param_map import ConversionError

SAFETENSORS, TORCH, TORCHSCRIPT, INDEX = "safetensors", "torch", "TorchScript", "index"
INDEX_SUFFIX = ".index.json"

_LFS = b"version https://git-lfs"
_PACKED = "is packed with {}; unpack it, and name the weight file inside"
_READ = "weights are read from PyTorch's files and safetensors"
_PICTURE = f"is a picture, not weights; {_READ}"
# First bytes of files that are mistaken for weights.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (_LFS, "is a Git LFS pointer of {size} bytes, not the weights; fetch them with `git lfs pull` in its repository"),
    (b"\x1f\x8b", _PACKED.format("gzip")),
    (b"BZh", _PACKED.format("bzip2")),
    (b"\xfd7zXZ", _PACKED.format("xz")),
    (b"(\xb5/\xfd", _PACKED.format("zstd")),
    (b"7z\xbc\xaf", _PACKED.format("7-Zip")),
    (b"Rar!", _PACKED.format("RAR")),
    (b"GGUF", "is a GGUF file, whose weights are those of another program; convert the PyTorch original"),
    (b"\x89HDF", f"is an HDF5 file; {_READ}"),
    (b"\x93NUMPY", f"is a NumPy array; {_READ}"),
    (b"\xff\xd8\xff", _PICTURE),  # JPEG
    (b"\x89PNG", _PICTURE),
    (b"GIF8", _PICTURE),
    (b"RIFF", _PICTURE),  # WebP
)
# The number with which PyTorch's files begin that are no zip archive, after what its pickle says of itself.
_OLD_TORCH = b"l\xfc\x9cF\xf9 j\xa8P\x19"
# No real model's header comes near this; the library has the same bound.
_LONGEST_HEADER = 100_000_000


def kind_of(path: Path) -> str:
    """Which reader a weight file needs.

    Raises:
      ConversionError: if it is missing, a folder, empty, cut short, or no weight file by its first bytes. That is said
        before a reader is asked, which may be a package that is not installed.
    """
    if path.is_dir():
        raise ConversionError(f"{path}: is a folder, not a weight file; name the file in it")
    if not path.is_file():
        raise ConversionError(f"{path}: no such file")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(512)
    if not size:
        raise ConversionError(f"{path}: the file is empty; download or copy it again")
    for first, what in _OTHERS:
        if start.startswith(first):
            raise ConversionError(f"{path}: {what.format(size=f'{size:,}')}")
    if start.lstrip()[:64].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise ConversionError(
            f"{path}: is a web page, not weights; download the file itself (on the hub, /resolve/ in place of /blob/)"
        )
    if path.name.endswith(INDEX_SUFFIX):
        return INDEX
    if start.startswith(b"PK"):
        return _kind_of_zip(path, size)
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER:
        return SAFETENSORS
    if start.lstrip().startswith((b"{", b"[")):
        raise ConversionError(f"{path}: is a JSON file, not weights; name the folder that it is in, or the weight file")
    is_tar = start[257:262] == b"ustar"
    if is_tar and not _is_old_torch(path):
        raise ConversionError(f"{path}: {_PACKED.format('tar')}")
    if path.suffix == ".safetensors":
        return SAFETENSORS
    if not is_tar and _OLD_TORCH not in start[:32]:
        raise ConversionError(
            f"{path}: is no weight file, for it begins neither as PyTorch's nor as safetensors; name one of these, "
            "or if it should be one, download or copy it again"
        )
    return TORCH


def _kind_of_zip(path: Path, size: int) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise ConversionError(
            f"{path}: cut short or damaged ({size:,} bytes, and the end of the archive is not there); download or copy "
            "it again"
        ) from None
    parts = [name.split("/", 1)[-1] for name in names]
    if "data.pkl" in parts:
        return TORCHSCRIPT if "constants.pkl" in parts else TORCH
    inside = plural(len(names), "file") + (f", such as {names[0]}" if names else "")
    raise ConversionError(f"{path}: is a zip archive of {inside}; unpack it, and name the weight file inside")


def _is_old_torch(path: Path) -> bool:
    """Whether a tar is what PyTorch wrote before 0.1.10."""
    try:
        with tarfile.open(path) as archive:
            return {"storages", "tensors", "pickle"} <= {Path(name).name for name in archive.getnames()}
    except tarfile.TarError:
        return False


def safetensors_header(path: Path) -> dict[str, Any]:
    """Name -> dtype, shape and offsets in a safetensors file, and under `__metadata__` its metadata.

    Raises:
      ConversionError: if there is no such header, or the file is shorter than it says.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("header too large")
            header = json.loads(stream.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        if not all(isinstance(entry["dtype"], str) for entry in tensors):
            raise ValueError("a tensor without a dtype")
        missing = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0) - path.stat().st_size
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConversionError(f"{path}: not a readable safetensors file ({error or type(error).__name__})") from None
    if missing > 0:
        raise ConversionError(f"{path}: cut short, {missing:,} bytes are missing at its end; download or copy it again")
    return dict(header)
