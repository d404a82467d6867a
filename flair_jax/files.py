"""Paths of users; files and folders that appear whole or not at all, or that one process has. Imports no JAX."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from flair_jax import bucket_lock, buckets
from flair_jax.errors import ConfigError, FlairError, StorageError, UnwritableError
from flair_jax.refusals import reason_of

_LOCK = ".lock"

_STORAGE = {
    errno.ENOSPC: "the disk is full; make room there",
    errno.EDQUOT: "the disk quota is used up; make room there",
    errno.EFBIG: "the file may not grow so large; see `ulimit -f`",
    errno.EROFS: "the disk is mounted read-only; have it mounted for writing, or choose another folder",
    errno.EACCES: "you may not write there; ask for the permission, or choose another folder",
    errno.EPERM: "you may not write there; ask for the permission, or choose another folder",
    errno.ENOENT: "the folder is gone; bring it back",
    errno.ENOTDIR: "part of the path is a file; choose another folder",
    errno.EEXIST: "there is a file of that name; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ESTALE: "the shared disk is gone; mount it again",
    errno.EIO: "the disk cannot be read or written; see the system's log",
}


def expand(path: str | Path) -> Path:
    """A user's path: in a bucket if it begins with `gs://` or `s3://`, or else with `~` as the home folder.

    Raises:
      ConfigError: if it starts with `~` and that folder is not known, as for users that only have a number; or if it is
        in a bucket, and the package for such buckets is not installed.
    """
    if buckets.is_remote(path):
        return buckets.remote_path(str(path))
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: it is not known which folder ~ is; set HOME, or write it out") from None


def absolute(path: Path) -> Path:
    """A path that does not depend on the working folder."""
    return path if buckets.is_remote(path) else path.absolute()


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; in a bucket there are none to make."""
    if not buckets.is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def move(folder: Path, target: Path) -> None:
    """Renames a folder; in a bucket it is copied before it is removed."""
    if buckets.is_remote(folder):
        buckets.move(folder, target)
    else:
        folder.rename(target)


def list_files(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it; none if it is missing.

    Raises:
      OSError: if it cannot be read.
    """

    def unless_missing(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    if buckets.is_remote(folder):
        return list(buckets.list_files(folder))
    found = os.walk(folder, onerror=unless_missing)
    return [(Path(parent) / file).relative_to(folder).as_posix() for parent, _, files in found for file in files]


def size_of(path: Path) -> int:
    """Bytes of a file."""
    status: Any = path.stat()
    return int(status.length if buckets.is_remote(path) else status.st_size)


def version_of(path: Path) -> int | str:
    """A value that changes when a file is written: nanoseconds on a disk, a text in a bucket."""
    return buckets.version_of(path) if buckets.is_remote(path) else path.stat().st_mtime_ns


def remove_folder(folder: Path) -> None:
    """Removes a folder and all in it, as far as that can be done."""
    if buckets.is_remote(folder):
        buckets.remove_folder(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def local_copy(path: Path) -> Path:
    """A file or folder on this machine: one in a bucket is fetched, and removed when the process ends."""
    return buckets.fetch(path) if buckets.is_remote(path) else path


def no_file(path: Path) -> str:
    """Why no file can be written under that name, or "": it would replace a folder or a device.

    `/dev/stdout` links to wherever a program prints, be that a file or not, and would itself be replaced.
    """
    if path.is_dir():
        return "is a folder"
    if buckets.is_remote(path):
        return ""
    if path.is_symlink() and str(path.readlink()).startswith("/proc/"):
        return "is what a program prints to or reads"
    return below_file(path) if not path.exists() else "" if path.is_file() else "is a device, a pipe or a socket"


def below_file(path: Path) -> str:
    """Why nothing can be made under that name, or "": what should be a folder above it is a file."""
    above = next((each for each in path.parents if each.exists()), None) if not buckets.is_remote(path) else None
    return f"is below {above}, which is a file" if above is not None and not above.is_dir() else ""


def not_writable(path: Path) -> str:
    """Why nothing may be made or replaced under that name, and what to do, or "": as far as a disk tells beforehand."""
    if buckets.is_remote(path):
        return ""
    above = next((each for each in path.absolute().parents if os.path.exists(each)), None)
    if above is None or os.access(above, os.W_OK | os.X_OK):
        return ""
    return _STORAGE[errno.EROFS if os.statvfs(above).f_flag & os.ST_RDONLY else errno.EACCES]


def keep_inputs(target: str | Path, inputs: Iterable[str | Path]) -> None:
    """Checks before any work that the output does not replace an input.

    Raises:
      ConfigError: if `target` is one of the files.
    """
    for each in inputs:
        with contextlib.suppress(OSError):  # one of them is not there
            if os.path.samefile(target, each):
                raise ConfigError(f"{target}: is read by this command, which would replace it; write to another file")


@contextlib.contextmanager
def replace_when_complete(path: str | Path) -> Iterator[Path]:
    """Gives a name beside `path` to write a file or folder to, and renames it to `path` if the block succeeds.

    A killed program leaves `path` as it was; the next call clears its leftovers beside it, but nothing that another
    process is writing. Of several processes, the last one's file stays. For a bucket the name is one of this machine,
    and what was written is uploaded: a file whole or not at all, a folder as `buckets.upload` says.

    Raises:
      ConfigError: if `path` is a device or the like, which a file would replace for everyone who uses it, or lies below
        a file.
      UnwritableError: if nothing can be made there or renamed to it; errors of the block stay as they are.
    """
    if buckets.is_remote(path):
        with tempfile.TemporaryDirectory(prefix="flair-jax-") as name:
            yield (local := Path(name) / os.path.basename(str(path)))
            buckets.upload(local, expand(path))
        return
    named, path = str(path), Path(path).absolute()
    with contextlib.ExitStack() as stack:
        with writing(named, UnwritableError):
            folder = _make_partial(path, stack)
        try:
            partial = folder / path.name
            yield partial
            # If the block has written nothing, that is its own mistake.
            with writing(named, UnwritableError) if partial.exists() else contextlib.nullcontext():
                # A folder cannot be renamed over another, so the old one steps aside.
                if partial.is_dir() and path.is_dir():
                    os.rename(path, folder / "replaced")
                os.replace(partial, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _make_partial(path: Path, stack: contextlib.ExitStack) -> Path:
    """Makes the folder beside `path` to write to, locked until the stack's end, and clears what is left of others."""
    if not path.is_dir() and (reason := no_file(path)):
        raise ConfigError(f"{path}: {reason}; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.partial-"
    for leftover in path.parent.glob(glob.escape(prefix) + "*"):
        with contextlib.suppress(PermissionError), _lock_of(leftover) as is_mine:  # another user's stays
            if is_mine:
                shutil.rmtree(leftover, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
        if stack.enter_context(_lock_of(folder)):
            return folder  # otherwise another process clears it, for it was not locked yet


@contextlib.contextmanager
def _lock_of(folder: Path) -> Iterator[bool]:
    """Locks a folder during the block, if it exists and no other process holds it; yields whether it is locked.

    The lock ends with its process, however that ends. On a disk without locks, none is taken to be held.
    """
    name = folder / _LOCK
    try:
        file = name.open("w")
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    with file:
        yield _flock(file) is not False and name.exists()


@contextlib.contextmanager
def locked(folder: Path, busy: FlairError) -> Iterator[None]:
    """Keeps other processes out of a folder during the block; makes the folder if need be.

    The lock is the system's (`flock`), on a file in the folder that stays. It ends with the process, however that ends,
    and is not passed on to programs that the process starts. On Linux it holds among all machines that share the folder
    over NFS, where the server frees what a lost machine held after its lease (a minute and a half, as a rule), and over
    Lustre mounted with `flock`. Where the disk does not support locks, a warning says so.

    In a bucket it is an object; see `bucket_lock.locked`.

    Args:
      folder: to lock.
      busy: the error to raise if another process holds it; the name of that process is added.

    Raises:
      FlairError: `busy`.
      StorageError: if the folder cannot be written to.
    """
    if buckets.is_remote(folder):
        with contextlib.ExitStack() as stack:
            with writing(str(folder)):
                stack.enter_context(bucket_lock.locked(folder / _LOCK, busy))
            yield
        return
    with writing(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("a+b", buffering=0)
    with file:
        taken = _flock(file)
        if taken is False:
            file.seek(0)
            raise type(busy)(f"{busy} ({file.read(200).decode(errors='replace')})")
        if taken is None:
            logging.warning("%s: this disk does not support locks; make sure that only one process works there", folder)
        with writing(str(folder)):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _flock(file: IO[Any]) -> bool | None:
    """Locks a file until it is closed, if no other process has; None where the disk does not support locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None  # over NFS, either
    return True


@contextlib.contextmanager
def writing(what: str, kind: type[StorageError] = StorageError) -> Iterator[None]:
    """Turns disk errors in the block into a StorageError of that kind: `what`, the reason, and what to do."""
    try:
        yield
    except FlairError:
        raise
    except Exception as error:  # storage libraries have errors of their own, which quote the system's
        reason = storage_reason(error)
        if reason is None:
            raise
        raise kind(f"{what}: {reason}") from error


def storage_reason(error: BaseException) -> str | None:
    """What is wrong with the disk or bucket, and what to do, if an error or one of its causes is of it; else None."""
    seen: BaseException | None = error
    while seen is not None:
        if reason := reason_of(seen):
            return reason
        for number, reason in _STORAGE.items():
            if (isinstance(seen, OSError) and seen.errno == number) or os.strerror(number) in str(seen):
                return reason
        seen = seen.__cause__ or seen.__context__
    return None
