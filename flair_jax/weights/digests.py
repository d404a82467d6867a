"""Digests of a checkpoint's files, which tell damage from everything else that can go wrong.

They are in the checkpoint, in the form of the command `sha256sum`, so that `sha256sum -c SHA256SUMS` checks them too.
Names are relative to the folder, which can be copied and renamed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flair_jax.errors import CheckpointError
from flair_jax.files import list_files, size_of
from flair_jax.parallel.processes import ALONE, Processes

FILE = "SHA256SUMS"

# Files hashed at once: hashing releases Python's lock, and a disk does not gain from more.
_THREADS = 4

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write(folder: Path, entries: Collection[str]) -> None:
    """Writes the digests of all files in `entries`, which are files and folders right in `folder`."""
    lines = (f"{digest}  {name}\n" for name, digest in _digests(folder, _files(folder, entries)).items())
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def find_damage(folder: Path, entries: Collection[str], processes: Processes = ALONE) -> str | None:
    """Compares files with their digests: the damage in a few words; None if there is none.

    Args:
      folder: where `write` was called; a missing file with the digests is damage.
      entries: the files and folders right in `folder` that matter.
      processes: that share the work; every process must call this with the same folder, and gets the same answer.

    Raises:
      CheckpointError: if something cannot be read, so that it is not known whether it is damaged.
    """
    return next(
        filter(None, processes.gather(processes.together(lambda: _find_damage(folder, entries, processes)))), None
    )


def _find_damage(folder: Path, entries: Collection[str], processes: Processes) -> str | None:
    try:
        if not (folder / FILE).exists():
            return f"{FILE} is missing"
        expected = _parse((folder / FILE).read_bytes())
        if expected is None:
            return f"{FILE} is not as it was written"
        expected = {name: digest for name, digest in expected.items() if name.split("/")[0] in entries}
        found = _files(folder, entries)
        for names, problem in (
            (expected.keys() - found, "is missing"),
            (found - expected.keys(), "was not there when it was written"),
        ):
            if names:
                return _sentence(names, problem)
        actual = _digests(folder, _share(folder, expected, processes))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error}); try again") from error
    changed = [name for name, digest in actual.items() if digest != expected[name]]
    return _sentence(changed, "is not as it was written") if changed else None


def _parse(content: bytes) -> dict[str, str] | None:
    """The digests by name, or None if the file is not in the form in which `write` writes it."""
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        return None
    parsed = [_LINE.fullmatch(line) for line in lines[:-1]]
    names = {match[2]: match[1] for match in parsed if match}
    return names if names and not lines[-1] and len(names) == len(parsed) else None


def _files(folder: Path, entries: Collection[str]) -> set[str]:
    """Names of all files in `entries`, relative to `folder`; missing entries have none.

    Hidden files are not ours: NFS leaves `.nfs0001` where an open file was removed, macOS `.DS_Store` everywhere.
    """
    names = {entry for entry in entries if (folder / entry).is_file()}
    for entry in set(entries) - names:
        names |= {f"{entry}/{name}" for name in list_files(folder / entry)}
    return {name for name in names if not any(part.startswith(".") for part in name.split("/"))}


def _share(folder: Path, names: Iterable[str], processes: Processes) -> list[str]:
    """This process's share of the files; all shares have about as many bytes."""
    sizes = {name: size_of(folder / name) for name in names}
    loads = [0] * processes.count
    mine = []
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        process = loads.index(min(loads))
        loads[process] += sizes[name]
        if process == processes.index:
            mine.append(name)
    return mine


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    names = sorted(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sentence(names: Collection[str], problem: str) -> str:
    more = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{min(names)} {problem}{more}"
