"""Files that appear whole or not at all."""

import argparse
import errno
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from flair_jax.commands.parser import new_file, new_folder, new_page
from flair_jax.errors import ConfigError, StorageError
from flair_jax.files import no_file, not_writable, replace_when_complete


def test_several_at_once_do_not_clear_each_other(tmp_path) -> None:
    with replace_when_complete(tmp_path / "a") as first, replace_when_complete(tmp_path / "a") as second:
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_does_not_replace_a_folder(tmp_path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(IsADirectoryError), replace_when_complete(tmp_path / "a") as partial:
        partial.write_text("1")
    assert (tmp_path / "a" / "b").exists()


def test_a_file_does_not_replace_a_device(tmp_path) -> None:
    """Such as /dev/full or /dev/stdout, for all programs of the machine, when root writes to it."""
    pipe, printed = tmp_path / "pipe", tmp_path / "stdout"
    os.mkfifo(pipe)
    printed.symlink_to("/proc/self/fd/1")
    for path in (pipe, printed):
        with pytest.raises(ConfigError, match=f"{path}: is .*; name a file"), replace_when_complete(path) as partial:
            partial.write_text("1")
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert printed.is_symlink()
    assert no_file(tmp_path / "new") == ""


def test_what_a_killed_process_left_is_cleared(tmp_path) -> None:
    script = (
        "import os, signal, sys; from flair_jax.files import replace_when_complete\n"
        "with replace_when_complete(sys.argv[1]) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
    assert len(list(tmp_path.glob(".a.partial-*"))) == 1
    with replace_when_complete(tmp_path / "a") as partial:
        partial.mkdir()
    with pytest.raises(KeyError), replace_when_complete(tmp_path / "a") as partial:
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def forbidden(monkeypatch) -> None:
    """No folder may be made, as in somebody else's; root may everywhere."""

    def refuse(*_: object, **names: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"{names['dir']}/{names['prefix']}k37zr6u0")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)


def test_what_may_not_be_written_is_named_with_what_to_do(tmp_path, forbidden) -> None:
    """Not the partial file; and it is an OSError still."""
    words = f"^{tmp_path}/a.html: you may not write there; ask for the permission, or choose another folder$"
    with pytest.raises(StorageError, match=words) as caught, replace_when_complete(tmp_path / "a.html"):
        raise AssertionError("the work has begun")
    assert isinstance(caught.value, OSError)


def test_what_may_not_be_replaced_is_named_too(tmp_path, monkeypatch) -> None:
    def refuse(partial: Path, path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(partial), None, str(path))

    monkeypatch.setattr(os, "replace", refuse)
    words = f"^{tmp_path}/a: the disk is mounted read-only; have it"
    with pytest.raises(StorageError, match=words), replace_when_complete(tmp_path / "a") as partial:
        partial.write_text("1")
    assert not list(tmp_path.iterdir())


def test_a_name_with_no_room_for_what_it_is_called_meanwhile(tmp_path) -> None:
    name = "a" * 250
    with pytest.raises(StorageError, match=f"{name}: the name is too long; choose a shorter one"):
        replace_when_complete(tmp_path / name).__enter__()


def test_errors_of_the_block_stay_as_they_are(tmp_path) -> None:
    """Also where it writes nothing."""
    error = PermissionError(errno.EACCES, "Permission denied", "another/file")
    with pytest.raises(PermissionError) as caught, replace_when_complete(tmp_path / "a"):
        raise error
    assert caught.value is error
    with pytest.raises(FileNotFoundError), replace_when_complete(tmp_path / "a"):
        pass


def test_a_target_is_found_to_be_forbidden_before_any_work(tmp_path, monkeypatch) -> None:
    """The nearest folder that there is decides; what a disk that is mounted read-only says is another sentence."""
    target = tmp_path / "new" / "folder" / "a.html"
    assert not_writable(target) == ""
    asked = []
    monkeypatch.setattr(os, "access", lambda folder, _: asked.append(folder))
    assert not_writable(target).startswith("you may not write there; ask")
    assert asked == [tmp_path]
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert not_writable(target).startswith("the disk is mounted read-only; have it")
    for parse, name in ((new_page(".html"), target), (new_file, target), (new_folder, tmp_path)):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{name}: the disk is mounted read-only; have it"):
            parse(str(name))
    assert asked[-2:] == [tmp_path, tmp_path]
