"""Files that appear whole or not at all."""

import os
import stat
import subprocess
import sys

import pytest

from flair_jax.errors import ConfigError
from flair_jax.files import no_file, replace_when_complete


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
