"""Folders that one process has, and disks that fail."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flair_jax.errors import CheckpointError, StorageError
from flair_jax.files import locked, storage_reason, writing

BUSY = CheckpointError("the folder is in use; wait")
HOLD = """
import subprocess, sys, time
from pathlib import Path
from flair_jax.errors import CheckpointError
from flair_jax.files import locked
with locked(Path(sys.argv[1]), CheckpointError("in use")):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def take(folder: Path) -> None:
    with locked(folder, BUSY):
        pass


def test_one_process_has_a_folder_until_it_is_killed(tmp_path: Path) -> None:
    """A program that it started, and that outlives it, does not hold the lock."""
    folder = tmp_path / "new" / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(CheckpointError, match=rf"the folder is in use; wait \(process {holder.pid} on "):
                take(folder)
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            take(folder)
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_disk_without_locks_is_warned_about(tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    take(tmp_path)
    assert "this disk does not support locks" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/run: part of the path is a file; choose another folder"):
        take(tmp_path / "file" / "run")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_a_disk_says_is_found_in_what_libraries_make_of_it(number: int) -> None:
    def store() -> None:
        try:
            raise OSError(number, os.strerror(number), "/runs/x")
        except OSError as error:
            raise ValueError("Failed to run 4 Handler Commit operations") from error

    reasons = {storage_reason(OSError(number, "anything")), storage_reason(ValueError(f"[{os.strerror(number)}] x"))}
    with pytest.raises(StorageError, match="step 7: .*; ") as caught, writing("step 7"):
        store()
    reasons.add(str(caught.value).removeprefix("step 7: "))
    assert len(reasons) == 1


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), writing("x"):
        raise ZeroDivisionError
