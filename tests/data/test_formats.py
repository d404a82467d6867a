"""What a stranger's file may reach and cost. The files are hostile and small."""

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flair_jax.data import formats, image
from flair_jax.data.formats import examine
from flair_jax.data.image import open_picture, open_rgb, open_training_picture, preprocess, remark_on
from flair_jax.data.names import PICTURE_ENDINGS
from flair_jax.data.sets.segmentation_data import _read_labels, labels
from flair_jax.errors import FlairError, ImageError, printable
from flair_jax.search.page import write_page
from flair_jax.search.searcher import Hit
from flair_jax.show.page import read_upload

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (16, 12), **how) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(stream, kind, **how)
    return stream.getvalue()


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, between: bytes = b"") -> bytes:
    """A PNG that declares a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + chunk(b"IDAT") + chunk(b"IEND")


def jpeg_with(between: bytes) -> bytes:
    data = saved("JPEG")
    return data[:2] + between + data[2:]


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = saved("JPEG", "L", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


def gif_with(extension: bytes) -> bytes:
    data = saved("GIF", "P")
    at = 13 + (3 << (data[10] & 7) + 1)
    return data[:at] + extension + data[at:]


def tiff(*tags: tuple[int, int, int, bytes], compression: int = 1) -> bytes:
    """A TIFF of 16 x 12 grey pixels with more tags: number, kind, count, and the value or where it lies."""
    usual = [(256, 16), (257, 12), (258, 8), (259, compression), (262, 1), (277, 1)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in usual]
    entries += [struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in tags]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4000)


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """Where a `gs`, the first on PATH, notes that it was started."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/started\n')
    program.chmod(0o755)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # what Pillow has found before
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "started"


@pytest.mark.parametrize("name", ["x.png", "x.eps"])
def test_no_program_is_started_whatever_a_file_is_called(log, tmp_path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(EPS)
    with pytest.raises(OSError, match="."), Image.open(path) as opened:  # the stand-in draws nothing
        opened.load()
    assert log.exists(), "Pillow alone starts it"
    log.unlink()
    for opens in (
        lambda: preprocess(path),
        lambda: open_training_picture(EPS),
        lambda: open_rgb(EPS),
        lambda: read_upload(str(path), 32, []),
        lambda: _read_labels(path, labels(0, 3), (9, 9)),
    ):
        with pytest.raises(ImageError, match="the format is none of JPEG, PNG, WebP, GIF, BMP, TIFF, PPM"):
            opens()
    write_page(tmp_path / "page.html", "x", [Hit(str(path), 0.0, 0.0)], 1)
    assert not log.exists()


def test_one_place_opens_pictures() -> None:
    root = Path(image.__file__).parents[2]
    sources = [
        path for part in ("flair_jax", "convert", "configs", "benchmarks") for path in (root / part).rglob("*.py")
    ]
    # But for a program that is written for others, and what a PNG of our own says in its header.
    assert sorted(path.name for path in sources if "Image.open(" in path.read_text()) == [
        "image.py",
        "onnx_guide.py",
        "overlays.py",
    ]


@pytest.mark.parametrize("kind", ["ICO", "ICNS", "PDF", "PCX", "TGA", "SGI", "JPEG2000", "AVIF", "DDS", "QOI"])
def test_formats_outside_the_list_are_named_as_such(kind: str) -> None:
    try:
        data = saved(kind, size=(32, 32))
    except (OSError, KeyError, ValueError):  # this Pillow cannot write it
        data = b"\0\0\1\0" + bytes(100)
    with pytest.raises(ImageError, match="the format is none of") as error:
        open_rgb(data)
    assert error.value.kind == "picture is of another format"


@pytest.mark.parametrize(
    "data",
    [
        saved("JPEG"),
        saved("JPEG", "CMYK"),
        saved("JPEG", progressive=True, exif=Image.Exif(), comment=b"x" * 999),
        saved("MPO", save_all=True, append_images=[Image.new("RGB", (16, 12))]),
        saved("PNG", "RGBA"),
        saved("PNG", "LA"),
        saved("PNG", "P", transparency=0, dpi=(9, 9)),
        saved("PNG", "I;16"),
        saved("PNG", save_all=True, append_images=[Image.new("RGB", (16, 12))]),
        saved("WEBP", "RGBA"),
        saved("WEBP", save_all=True, append_images=[Image.new("RGB", (16, 12))]),
        saved("GIF", "P", transparency=3, save_all=True, append_images=[Image.new("P", (16, 12))]),
        saved("GIF", "L", comment=b"x" * 999),
        saved("BMP"),
        saved("BMP", "1"),
        saved("PPM"),
        saved("PPM", "1"),
        saved("TIFF", "F"),
        saved("TIFF", "CMYK"),
        saved("TIFF", save_all=True, append_images=[Image.new("RGB", (16, 12))]),
        saved("TIFF", compression="tiff_adobe_deflate"),
        saved("TIFF", "1", compression="group4"),
        saved("TIFF", big_tiff=True),
    ],
    ids=lambda data: repr(data[:4]),
)
def test_pixels_are_those_of_plain_conversion(data: bytes) -> None:
    """What is left out of a file, or walked over in it, changes no pixel."""
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_rgb(data, [])), expected)


def test_of_16_bits_in_colour_the_upper_8_are_seen() -> None:
    row = b"\0" + bytes.fromhex("12ff 34ff 56ff") * 9
    header = struct.pack(">IIBBBBB", 9, 9, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 9)) + chunk(b"IEND")
    assert open_rgb(data).getpixel((3, 3)) == (0x12, 0x34, 0x56)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(1, 170_000_000), "1x170000000 pixels, over the limit of 65,535 a side"),
        (png(30_000, 30_000), "exceeds limit of 178956970 pixels"),
        (png(65_535, 2_500), "65535x2500 pixels, over the limit of 134,217,728 for a PNG file"),
        (scans(101), "a JPEG file of more than 100 scans"),
        (jpeg_with(b"\xff" * 100_001), "a JPEG file of more than 100,000 segments"),
        (png(9, 9, chunk(b"TEXt") * 100_001), "a PNG file of more than 100,000 chunks"),
        (gif_with(b"!\xfe" + b"\1x" * 100_001 + b"\0"), "a GIF file of more than 100,000 blocks"),
        (gif_with(b"\1" * 100_001), "a GIF file of more than 100,000 blocks"),
        (saved("WEBP") + b"JUNK\0\0\0\0" * 100_001, "a WebP file of more than 100,000 chunks"),
        (tiff(*((n, 4, 1, b"\0\0\1\0") for n in range(322, 326)), compression=8), "in tiles of 65536x65536"),
        (tiff((258, 3, 600_000, bytes(4))) + bytes(1_200_000), "a list of 600,000 numbers, over the limit of 524,288"),
        (tiff(*((n, 7, 3000, bytes(4)) for n in range(999, 1009))), "tags take more than twice its length"),
        (tiff(compression=34925), "compressed as lzma, which is not read"),
        (tiff(compression=50001), "compressed as webp, which is not read"),
        (tiff()[:40], "whose directory is cut off"),
        (b"P6 #" + b"x" * 9000 + b"\n9 9 255\n" + bytes(243), "a PPM file without a header"),
        (b"P6 9 9 100\n" + bytes(243), "a rare kind of PPM file"),
        (b"P3 1 1 255\n1 2 3 ", "the format is none of"),
        (b"", "the file is empty"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_costs_too_much_is_refused_unread(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_rgb(data)


@pytest.mark.parametrize(
    ("data", "bytes_per_pixel"),
    [
        (saved("JPEG"), 8),
        (saved("JPEG", progressive=True), 10),
        (saved("JPEG", "CMYK", progressive=True), 12),
        (saved("PNG"), 8),
        (saved("GIF", "P"), 8),
        (saved("BMP"), 8),
        (saved("PPM"), 8),
        (saved("TIFF"), 12),
        (saved("WEBP"), 20),
    ],
    ids=lambda value: repr(value[:4]) if isinstance(value, bytes) else "",
)
def test_memory_is_bounded_for_each_kind(monkeypatch, data: bytes, bytes_per_pixel: int) -> None:
    pixels = 16 * 12
    monkeypatch.setattr(formats, "MOST_MEMORY", pixels * bytes_per_pixel)
    assert open_rgb(data).size == (16, 12)
    monkeypatch.setattr(formats, "MOST_MEMORY", pixels * bytes_per_pixel - 1)
    with pytest.raises(ImageError, match=f"over the limit of {pixels - 1:,} for a") as error:
        open_rgb(data)
    assert error.value.kind == "picture is too large"


def test_scans_are_bounded_by_the_pixels_that_they_go_over(monkeypatch) -> None:
    data = scans(20)
    assert examine(data).scans > 20
    monkeypatch.setattr(formats, "_MOST_SCANNED", 20 * 16 * 12)
    with pytest.raises(ImageError, match=r"in \d\d scans, over the limit of 3,840 pixels over all scans"):
        open_rgb(data)


def test_metadata_is_not_given_to_the_decoder() -> None:
    junk = b"\xff\xfe\0\2" + bytes(100_000) + b"\xff\xe1\0\x09Exif\0\0x" * 1000
    assert len(examine(jpeg_with(junk)).data) < 2000
    with_bombs = png(9, 9, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**6))) * 9 + chunk(b"tRNS", b"\0\0"))
    assert len(examine(with_bombs).data) == len(png(9, 9, chunk(b"tRNS", b"\0\0")))


def test_files_that_are_none(tmp_path, monkeypatch) -> None:
    pipe, large = tmp_path / "pipe.png", tmp_path / "large.png"
    os.mkfifo(pipe)
    with large.open("wb") as stream:
        stream.truncate(formats.MOST_BYTES + 1)
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the name of a socket has at most 107 bytes
        listening.bind("socket.png")
        with pytest.raises(ImageError, match=r"socket.png: cannot be read as a picture .*No such device"):
            preprocess("socket.png")
    for path, message, kind in (
        (pipe, "pipe.png: is a pipe, not a picture", "picture is not a file"),
        ("/dev/zero", "/dev/zero: is a device, not a picture", "picture is not a file"),
        (tmp_path, "is a folder, not a picture", "picture is not a file"),
        (large, "large.png: a file of 268,435,457 bytes, over the limit of 268,435,456", "picture is too large"),
        (tmp_path / "gone.png", "gone.png: no such picture", "picture is missing"),
    ):
        with pytest.raises(ImageError, match=message) as error:
            open_picture(path)
        assert error.value.kind == kind


@pytest.mark.golden
def test_more_than_8_bits_are_never_cut_off_silently(golden, caplog, monkeypatch) -> None:
    monkeypatch.setattr(image, "_said", set())
    deep = golden / "images" / "gray_16bit.png"
    remarks: list[str] = []
    preprocess(deep, remarks=remarks)
    open_training_picture(deep.read_bytes(), remarks)
    assert remarks == [f"{deep}: {image.TOO_DEEP}", f"the picture: {image.TOO_DEEP}"]
    assert not caplog.records
    for _ in range(2):
        preprocess(deep)
    assert [record.getMessage() for record in caplog.records] == [f"{remarks[0]}; more of these are not named"]
    for kind, mode in (("TIFF", "F"), ("TIFF", "I"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("PNG", "I;16")):
        assert remark_on(open_picture(saved(kind, mode))), mode
    for kind, mode in (("PNG", "RGBA"), ("PNG", "1"), ("GIF", "P"), ("JPEG", "CMYK")):
        assert not remark_on(open_picture(saved(kind, mode))), mode


def test_names_cannot_act_on_a_terminal(tmp_path) -> None:
    name = "a\x1b]0;x\x07\n\u202eé日本.png"
    with pytest.raises(ImageError) as error:
        preprocess(tmp_path / name)
    assert str(error.value).endswith("/a\\x1b]0;x\\x07\\n\\u202eé日本.png: no such picture")
    assert printable("\udcff\x9b") == "\\udcff\\x9b"
    assert str(FlairError("a list:\n  \x1b[2J")) == "a list:\n  \\x1b[2J"


def test_endings_are_those_of_the_formats() -> None:
    known = {ending: kind for ending, kind in Image.registered_extensions().items() if ending in PICTURE_ENDINGS}
    assert set(known.values()) == {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM"}
