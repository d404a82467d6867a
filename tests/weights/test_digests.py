"""Files that are not what was written are found, whatever happened to them."""

import hashlib
import shutil
from pathlib import Path

import pytest

from flair_jax.errors import CheckpointError
from flair_jax.parallel.processes import Processes
from flair_jax.weights import digests

ENTRIES = ("config.json", "params")


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "params" / "d").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "params" / "empty").touch()
    for number in range(5):
        (folder / "params" / "d" / f"part {number}").write_bytes(bytes(range(number, number + 20)))
    digests.write(folder, ENTRIES)
    return folder


def test_the_form_is_that_of_sha256sum(folder) -> None:
    lines = (folder / digests.FILE).read_text().splitlines()
    assert f"{hashlib.sha256(b'{}').hexdigest()}  config.json" in lines
    assert f"{hashlib.sha256(bytes(range(3, 23))).hexdigest()}  params/d/part 3" in lines
    assert len(lines) == 7


def test_a_copy_under_another_name_is_whole(folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").touch()
    assert digests.find_damage(tmp_path / "copy", ENTRIES) is None


def test_every_flipped_bit_is_found(folder) -> None:
    for file in [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]:
        content = file.read_bytes()
        for position in range(0, len(content), 7):
            for bit in range(8):
                flipped = bytearray(content)
                flipped[position] ^= 1 << bit
                file.write_bytes(flipped)
                assert digests.find_damage(folder, ENTRIES), f"{file.name}: bit {bit} of byte {position}"
        file.write_bytes(content)
    assert digests.find_damage(folder, ENTRIES) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "params" / "d" / "part 1").unlink(), "params/d/part 1 is missing"),
        (lambda folder: shutil.rmtree(folder / "params"), "params/d/part 0 is missing, and 5 more"),
        (lambda folder: (folder / "params" / "empty").write_text("x"), "params/empty is not as it was written"),
        (lambda folder: (folder / "params" / "e").touch(), "params/e was not there when it was written"),
        (lambda folder: (folder / digests.FILE).unlink(), "SHA256SUMS is missing"),
        (lambda folder: (folder / digests.FILE).write_text(""), "SHA256SUMS is not as it was written"),
        (lambda folder: (folder / digests.FILE).write_bytes(b"\xff"), "SHA256SUMS is not as it was written"),
        (lambda folder: drop_last_line(folder / digests.FILE), "params/empty was not there when it was written"),
    ],
)
def test_what_is_said_of_damage(folder, change, reason: str) -> None:
    change(folder)
    assert digests.find_damage(folder, ENTRIES) == reason


def drop_last_line(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def test_only_what_matters_is_looked_at(folder) -> None:
    (folder / "params" / "d" / "part 1").unlink()
    assert digests.find_damage(folder, ["config.json"]) is None


def test_what_cannot_be_read_is_not_called_damage(folder, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(digests, "_digest", fail)
    with pytest.raises(CheckpointError, match="cannot be read .*Input/output error.*; try again"):
        digests.find_damage(folder, ENTRIES)


def test_hosts_share_the_work(folder) -> None:
    """Each file is hashed by one process, and they have about as many bytes."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    shares = [digests._share(folder, names, Processes(index, 3)) for index in range(3)]
    assert sorted(name for share in shares for name in share) == names
    loads = [sum((folder / name).stat().st_size for name in share) for share in shares[1:]]  # the first has the sums
    assert max(loads) - min(loads) <= 20
