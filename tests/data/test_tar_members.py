"""Tars of every kind of damage: what is whole is read, and all else is named with its reason."""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc

import pytest
from made_tars import picture, sample, write_tar

from flair_jax.cli import main
from flair_jax.data.damage import FOLDER, HIDDEN
from flair_jax.data.tar_index import index_shard

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields) -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in {"size": size, **fields}.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def members(*pairs: tuple[str, bytes]) -> bytes:
    return b"".join(header(name, len(data)) + data + bytes(-len(data) % BLOCK) for name, data in pairs)


def with_size(field: bytes, name: str = "bad.jpg") -> bytes:
    """A header with this for its size, and the right checksum."""
    block = bytearray(header(name))
    block[124:136] = field.ljust(12, b"\0")
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block)


def index_of(tmp_path, data: bytes) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of the pictures that can be used, and what is left out, with the reasons."""
    (tmp_path / "0.tar").write_bytes(data)
    index = index_shard(str(tmp_path / "0.tar"))
    return index.names, [(harm.place, harm.reason) for harm in index.damage]


def names(*numbers: int) -> list[str]:
    return [f"{number:09}.jpg" for number in numbers]


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (b"\x80" + (2**62).to_bytes(11, "big"), "cut off, or its size is damaged"),
        (b"\x80" + b"\xff" * 11, "cut off, or its size is damaged"),
        (b"77777777777", "cut off, or its size is damaged"),
        (b"\xff" * 9 + b"\xfc\x00\x00", ""),  # negative, which later versions of Python call no header
        (b"9abc", "no header where one is due"),
    ],
)
def test_a_size_that_cannot_be_costs_one_member(tmp_path, field: bytes, reason: str) -> None:
    data = members(*sample(0)) + with_size(field) + bytes(BLOCK) + members(*sample(1)) + END
    found, damage = index_of(tmp_path, data)
    assert found == names(0, 1)
    (harm,) = damage
    assert harm[0] in ("bad.jpg", f"after {0:09}.txt")
    assert harm[1] == reason or not reason


def test_a_damaged_header_costs_one_member(tmp_path) -> None:
    data = bytearray(members(*sample(0), *sample(1), *sample(2)) + END)
    data[len(members(*sample(0))) + 5] ^= 1
    found, damage = index_of(tmp_path, bytes(data))
    assert found == names(0, 2)
    assert damage[0] == (f"after {0:09}.txt", "no header where one is due")
    assert (f"{1:09}.json", "no picture") in damage
    data[0] ^= 1
    assert index_of(tmp_path, bytes(data))[0] == names(2)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_without_its_long_name_a_member_is_not_used(tmp_path, kind: int) -> None:
    """Its own header has only a part of the name, which may be another's."""
    member = tarfile.TarInfo(f"{'é' * 60}.jpg")
    member.size = BLOCK
    long = bytearray(member.tobuf(kind, "utf-8", "surrogateescape"))
    long[0] ^= 1
    found, damage = index_of(tmp_path, members(*sample(0)) + long + bytes(BLOCK) + members(*sample(1)) + END)
    assert found == names(0, 1)
    assert [reason for _, reason in damage] == ["no header where one is due", "its long name is damaged"]


def test_garbage_between_members(tmp_path) -> None:
    data = members(*sample(0)) + b"garbage" * 512 + members(*sample(1)) + END
    assert index_of(tmp_path, data) == (names(0, 1), [(f"after {0:09}.txt", "no header where one is due")])


def test_members_after_the_end_mark_are_named(tmp_path) -> None:
    """As in tars that were joined by `cat`."""
    found, damage = index_of(tmp_path, members(*sample(0)) + END + members(*sample(1)) + END)
    assert found == names(0)
    assert damage == [(name, "after the end mark, where tars end (joined with `cat`?)") for name, _ in sample(1)]


@pytest.mark.parametrize("end", [END[:BLOCK], END + bytes(10_240)])
def test_forms_of_the_end_mark(tmp_path, end: bytes) -> None:
    assert index_of(tmp_path, members(*sample(0)) + end) == (names(0), [])


def test_without_an_end_mark(tmp_path) -> None:
    whole = members(*sample(0), *sample(1))
    for cut in (0, 100, BLOCK - 1):
        assert index_of(tmp_path, whole[: len(whole) - cut])[1][-1][1] == "no end mark, so the tar may be cut off"


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_long_headers_are_not_believed(tmp_path, kind: bytes) -> None:
    """A name of 2^40 bytes, and of 16 MB that are there."""
    for size, room in ((2**40, 0), (2**24, 2**24)):
        with (tmp_path / "0.tar").open("wb") as stream:
            stream.write(members(*sample(0)) + header("././@LongLink", size, kind))
            stream.seek(room, io.SEEK_CUR)
            stream.write(members(("next.txt", b"x"), *sample(1)) + END)
        tracemalloc.start()
        index = index_shard(str(tmp_path / "0.tar"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**23
        assert index.names == names(0, 1)
        assert index.damage[0].reason == "no header where one is due"
        assert [harm.place for harm in index.damage[1:]] == ["next.txt"]


def test_headers_within_headers_without_end(tmp_path) -> None:
    nested = header("././@LongLink", 1, tarfile.GNUTYPE_LONGNAME) + b"x" + bytes(BLOCK - 1)
    found, damage = index_of(tmp_path, members(*sample(0)) + nested * 2000 + members(*sample(1)) + END)
    assert found[0] == names(0)[0]
    assert {reason for _, reason in damage} >= {"no header where one is due"}


def test_what_is_no_file(tmp_path) -> None:
    data = (
        header("folder", kind=tarfile.DIRTYPE)
        + header("a.jpg", kind=tarfile.SYMTYPE, linkname="/etc/passwd")
        + header("b.jpg", kind=tarfile.LNKTYPE, linkname="x")
        + header("c.jpg", kind=tarfile.FIFOTYPE)
        + header("d.jpg", kind=tarfile.CHRTYPE)
        + header("e.jpg", kind=b"V")
        + members(("._0.jpg", b"x"), ("__MACOSX/folder/0.jpg", b"x"), (".DS_Store", b"x"), *sample(0))
        + END
    )
    link, other = "a link; tars for training hold the files themselves", "neither a file nor a folder"
    assert index_of(tmp_path, data) == (
        names(0),
        [
            ("folder", FOLDER),
            ("a.jpg", link),
            ("b.jpg", link),
            *((f"{letter}.jpg", other) for letter in "cde"),
            *((name, HIDDEN) for name in ("._0.jpg", "__MACOSX/folder/0.jpg", ".DS_Store")),
        ],
    )


def test_sparse_files(tmp_path) -> None:
    """As GNU tar writes them, in its own format and in POSIX's."""
    block = bytearray(header("s.jpg", BLOCK, tarfile.GNUTYPE_SPARSE))
    block[386:410] = b"%011o\0%011o\0" % (0, BLOCK)
    block[483:495] = b"%011o\0" % 2**20
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    member = tarfile.TarInfo("p.jpg")
    member.size = 2 * BLOCK
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "p.jpg"}
    pax = member.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n512\n".ljust(BLOCK, b"\0") + bytes(BLOCK)
    found, damage = index_of(tmp_path, bytes(block) + bytes(BLOCK) + pax + members(*sample(0)) + END)
    assert found == names(0)
    assert damage == [(f"{letter}.jpg", "a sparse file; make the tar without --sparse") for letter in "sp"]


def test_keys_with_a_dot_are_named(tmp_path) -> None:
    caption = b'{"caption": "a"}'
    dot, ending = "a dot in the key, which ends at the first dot; rename it", "neither a picture nor JSON by its ending"
    assert index_of(
        tmp_path,
        members(("img0.v2.jpg", picture(0)), ("img0.v2.json", caption), ("b/1.5.PNG", picture(0)), ("n.txt", b"x"))
        + END,
    ) == ([], [("img0.v2.jpg", dot), ("img0.v2.json", dot), ("b/1.5.PNG", dot), ("n.txt", ending)])
    # Beside a usable sample a mask is no sample, and a whole second sample is one.
    whole = [("k.jpg", picture(0)), ("k.json", caption), ("k.mask.png", picture(0)), ("k.txt", b"x")]
    (tmp_path / "0.tar").write_bytes(members(*whole) + END)
    index = index_shard(str(tmp_path / "0.tar"))
    assert (index.names, index.damage, index.beside) == (["k.jpg"], [], 2)
    more = [("k.v2.jpg", picture(0)), ("k.v2.json", caption)]
    assert index_of(tmp_path, members(("l.jpg", picture(0)), ("l.v2.json", caption), ("l.txt", b"x")) + END)[1] == [
        ("l.jpg", "no json"),
        ("l.v2.json", dot),
    ]
    assert index_of(tmp_path, members(*whole, *more) + END) == (["k.jpg"], [(name, dot) for name, _ in more])


def test_every_ending_of_pictures(tmp_path) -> None:
    endings = ("jpg", "JPEG", "jpe", "jfif", "Png", "webp", "TIF", "bmp")
    pairs = [(f"{n}.{ending}", picture(n)) for n, ending in enumerate(endings)]
    texts = [(f"{n}.JSON", b'\xef\xbb\xbf{"caption": "a"}') for n in range(len(endings))]
    assert index_of(tmp_path, members(*pairs, *texts) + END) == ([name for name, _ in pairs], [])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (END, "empty tar"),
        (b"# A text\n", "not a tar"),
        (bytes(range(1, 256)) * 99, "not a tar"),
        (gzip.compress(members(*sample(0))), "compressed with gzip; unpack it"),
        (bz2.compress(members(*sample(0))), "compressed with bzip2; unpack it"),
        (lzma.compress(members(*sample(0))), "compressed with xz; unpack it"),
    ],
)
def test_what_is_no_tar_leaves_nothing_behind(tmp_path, capsys, data: bytes, reason: str) -> None:
    assert index_of(tmp_path, data) == ([], [("", reason)])
    shard = tmp_path / "0.tar"
    assert main(["data", "index", str(shard), "--processes=1"]) == 2
    assert f"{shard}: no usable sample ({reason}: 1); `flair-jax data check` names each\n" in capsys.readouterr().err
    assert main(["data", "check", str(shard), "--processes=1"]) == 1
    said = capsys.readouterr()
    assert f"{shard}: {reason}\n" in said.err
    assert f"  {reason}: 1\n" in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar"]
    good = write_tar(tmp_path / "1.tar", sample(0))
    assert main(["data", "index", f"{shard}::{good}", "--processes=1"]) == 0
    assert "1 sample in 2 tars" in capsys.readouterr().out
