"""Members of a tar, however damaged it is, with a reason for each that is not used. Imports no JAX."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from flair_jax.data.damage import FOLDER, HIDDEN, Damage
from flair_jax.data.names import is_hidden
from flair_jax.errors import DatasetError

# Long names and the like; nothing larger is a header.
_MOST_HEADER = 2**20
# A member's own header, and long names and the like before it, each with a header of its own.
_MOST_READS = 32
_MOST_SCANNED = 2**20
_MAGIC_AT = 257  # where POSIX's and GNU's headers say "ustar"
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


def read_members(shard: str, stream: BinaryIO) -> Iterator[tarfile.TarInfo | Damage]:
    """The complete regular members of a tar, and what is damaged or something else, in the tar's order.

    After damage, reading continues at the next intact header.

    Raises:
      DatasetError: if the stream cannot be read.
    """
    try:
        size = stream.seek(0, os.SEEK_END)
        yield from _read(shard, stream, size)
    except OSError as error:
        raise DatasetError(f"{shard}: cannot be read ({error.strerror or error})") from None


def _read(shard: str, stream: BinaryIO, size: int) -> Iterator[tarfile.TarInfo | Damage]:
    last, ended, nameless = "", False, False
    position: int | None = 0
    while position is not None:
        stop, too_long = position, False
        for member, end in _run(stream, position):
            last = f"after {member.name}"
            too_long = _claims_too_much(member, end, size)
            if ended:
                reason = "after the end mark, where tars end (joined with `cat`?)"
            else:
                reason = "its long name is damaged" if nameless else _unused(member, too_long)
            nameless = False
            yield Damage(shard, member.name, reason) if reason else member
            if too_long:
                stop = member.offset_data - tarfile.BLOCKSIZE
                break
            stop = end
        stream.seek(stop)
        block = stream.read(tarfile.BLOCKSIZE)
        position = _next_header(stream, stop + tarfile.BLOCKSIZE)
        whole = len(block) == tarfile.BLOCKSIZE
        if not last and position is None:
            yield Damage(shard, "", _no_tar(block))
        elif whole and not too_long and not ended:
            if any(block):
                yield Damage(shard, last, "no header where one is due")
                nameless = block[156:157] in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
            else:
                ended = True
        if position is None and last and not ended:
            yield Damage(shard, last, "no end mark, so the tar may be cut off")


def _run(stream: BinaryIO, start: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Members from `start` up to where there is no header, and where the next header is due."""
    try:
        stream.seek(start)
        headers = _Headers(stream)
        tar = tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it keeps them all
            headers.reads = 0
            yield member, tar.offset
    except OSError:
        raise
    except Exception:  # damaged headers lead tarfile to any kind
        return


def name_in(headers: bytes) -> str:
    """The name in the headers of one member."""
    return next((member.name for member, _ in _run(io.BytesIO(headers), 0)), "a member that is no longer there")


class _Headers:
    """A bounded stream for tarfile, which would read names of any length and endless chains of headers."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read
        self.reads = 0  # for one member

    def read(self, size: int) -> bytes:
        self.reads += 1
        if not 0 <= size <= _MOST_HEADER or self.reads > _MOST_READS:
            raise tarfile.ReadError("no header of a member")
        return self._read(size)


def _claims_too_much(member: tarfile.TarInfo, end: int, size: int) -> bool:
    """Whether its bytes are not all within the tar's, of which there are `size`; `end` is where the next is due."""
    if end < member.offset_data or member.issparse():
        return not member.offset_data <= end <= size
    has_data = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
    return member.size < 0 or (has_data and member.offset_data + member.size > size)


def _unused(member: tarfile.TarInfo, too_long: bool) -> str:
    """Why a member is not used; "" if it can be."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "path leads out of the folder"
    if too_long:
        return "cut off, or its size is damaged"
    if member.isdir():
        return FOLDER
    if member.issym() or member.islnk():
        return "a link; tars for training hold the files themselves"
    if not member.isreg():
        return "neither a file nor a folder"
    if member.issparse():
        return "a sparse file; make the tar without --sparse"
    return HIDDEN if is_hidden(member.name) else ""


def _next_header(stream: BinaryIO, start: int) -> int | None:
    """Where the next intact header is, at a multiple of 512 bytes after `start`."""
    stream.seek(start)
    length = 8 * tarfile.BLOCKSIZE  # little at first: it is often the next block
    while chunk := stream.read(length):
        length = min(2 * length, _MOST_SCANNED)
        found = chunk.find(b"ustar", _MAGIC_AT)
        while found >= 0:
            place = found - _MAGIC_AT
            if place % tarfile.BLOCKSIZE == 0 and _is_header(chunk[place : place + tarfile.BLOCKSIZE]):
                return start + place
            found = chunk.find(b"ustar", found + 1)
        start += len(chunk)
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _no_tar(block: bytes) -> str:
    """What a file that is not a tar is, by its first bytes."""
    packed = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), "")
    if packed:
        return f"compressed with {packed}; unpack it"
    return ("empty tar" if len(block) == tarfile.BLOCKSIZE else "empty file") if not any(block) else "not a tar"
