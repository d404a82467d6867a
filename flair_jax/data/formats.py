"""Which files are pictures, and what decoding one may cost, checked before a decoder sees it. Imports no JAX.

The raster formats that training sets hold are read, recognised by their first bytes, whatever the file's name. Pillow's
other formats are never tried: some of them start programs (EPS starts Ghostscript), and all of them are code that an
untrusted file could reach.

A small file can demand a lot: thousands of scans, millions of empty blocks, lists longer than the file. So headers are
checked here first. The limits:

- 256 MiB as a file, 65,535 pixels a side, and 1 GiB of memory beside the file while it is decoded: that is 134 million
  pixels as PNG, GIF, BMP, PPM or JPEG (107 million as a progressive one, 89 million if it has four inks too), 89
  million as TIFF, 53 million as WebP, whose decoder keeps several copies;
- 100 scans of a JPEG, and 2 thousand million pixels over all of its scans;
- 100,000 segments, chunks or blocks; half a million strips or tiles of a TIFF.

Not read, for their cost or their dangers: TIFF's rarer compressions, and what Pillow decodes in Python (run-length
coded BMP, PPM as text or with other depths than 8 bits).
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin  # noqa: F401  (the last registers its format)

from flair_jax.bucket_reads import BucketFile
from flair_jax.buckets import is_remote
from flair_jax.errors import ImageError

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "PPM")
MOST_BYTES, MOST_SIDE, MOST_MEMORY = 1 << 28, 65_535, 1 << 30
_MOST_PARTS, _MOST_SCANS, _MOST_SCANNED, _MOST_VALUES = 100_000, 100, 2_000_000_000, 1 << 19

# Bytes per pixel at the peak: Pillow keeps 4 per coloured pixel, and conversions and crops are copies.
_USUAL_BYTES, _TIFF_BYTES, _WEBP_BYTES = 8, 12, 20

_TIFF_COMPRESSIONS = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg"} | {
    *("tiff_ccitt", "group3", "group4")
}
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_BYTE_KINDS = {1, 2, 6, 7}  # kept as bytes; values of the other kinds become lists of numbers

_PNM = re.compile(rb"P[456](?:(?:\s|#[^\r\n]*[\r\n])+\d{1,10}){2,3}\s")
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Examined(NamedTuple):
    """A file that may be given to Pillow.

    Attributes:
      format: the only one to try.
      data: the file without metadata, which changes no pixel and could be made costly.
      bytes_per_pixel: peak memory per pixel.
      scans: number of passes over the pixels.
    """

    format: str
    data: bytes
    bytes_per_pixel: int = _USUAL_BYTES
    scans: int = 1


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, or of an object in a bucket; never waits for a pipe or device.

    Raises:
      ImageError: if it is not a file, or too large; the message does not name it.
      OSError: if it cannot be read.
      StorageError: if a bucket refuses, or does not answer for minutes.
    """
    if is_remote(path):
        with BucketFile(str(path)) as file:
            _check_length(file.seek(0, os.SEEK_END))
            file.seek(0)
            return file.readall()
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"is {what_is(status.st_mode)}, not a picture", "picture is not a file")
        _check_length(status.st_size)
        return stream.read(status.st_size)


def what_is(mode: int) -> str:
    """The kind of a file that is neither a regular one nor a folder, from its `st_mode`."""
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def examine(data: bytes) -> Examined:
    """Tells a file's format and walks through its structure.

    Raises:
      ImageError: if it is empty, of no format that is read, or over a bound; the message does not name the file.
    """
    if not data:
        raise ImageError("the file is empty", "picture is empty")
    _check_length(len(data))
    for start, walk in _WALKS:
        if start.match(data):
            return walk(data)
    raise ImageError(
        f"cannot be read as a picture (the format is none of {', '.join(FORMATS)})", "picture is of another format"
    )


def check_cost(opened: ImageFile.ImageFile, file: Examined, most_pixels: int = MOST_MEMORY) -> None:
    """Makes sure that the pixels of a picture that was opened may be decoded; raises ImageError if they may not."""
    width, height = opened.size
    pixels, size = width * height, f"a picture of {width}x{height} pixels"
    if pixels > most_pixels:
        raise too_large(f"{size}, over the limit of {most_pixels:,}; make it smaller")
    if max(width, height) > MOST_SIDE:
        raise too_large(f"{size}, over the limit of {MOST_SIDE:,} a side")
    tile = opened.tag_v2 if isinstance(opened, TiffImagePlugin.TiffImageFile) else {}
    tile_width, tile_height = int(tile.get(322, 0)), int(tile.get(323, 0))  # which may be larger than the picture
    if max(pixels, tile_width * tile_height) * file.bytes_per_pixel > MOST_MEMORY:
        size += f" in tiles of {tile_width}x{tile_height}" if tile_width else ""
        raise too_large(
            f"{size}, over the limit of {MOST_MEMORY // file.bytes_per_pixel:,} for a {opened.format} file of its kind"
        )
    if any(each[0] in Image.DECODERS for each in opened.tile):  # those in Python
        raise ImageError(
            f"cannot be read as a picture (a rare kind of {opened.format} file, which Pillow decodes too slowly)",
            "picture is of another format",
        )
    if pixels * file.scans > _MOST_SCANNED:
        raise too_large(f"{size} in {file.scans} scans, over the limit of {_MOST_SCANNED:,} pixels over all scans")


def too_large(what: str) -> ImageError:
    """The error about a picture over a bound."""
    return ImageError(what, "picture is too large")


def _check_length(length: int) -> None:
    if length > MOST_BYTES:
        raise too_large(f"a file of {length:,} bytes, over the limit of {MOST_BYTES:,}")


def _broken(what: str) -> ImageError:
    return ImageError(f"cannot be read as a picture ({what})")


def _jpeg(data: bytes) -> Examined:
    """Leaves out all metadata but the two segments that say how colours are stored."""
    kept, at, layers, progressive = [data[:2]], 2, 0, False
    for _ in range(_MOST_PARTS):
        at = data.find(b"\xff", at)
        marker = data[at + 1 : at + 2]
        if at < 0 or not marker:
            raise _broken("it ends before its pixels")
        if marker in b"\x00\xff":
            at += 1
            continue
        if marker == b"\x01" or b"\xd0" <= marker <= b"\xd9":  # these have no length
            kept.append(data[at : at + 2])
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == b"\xda":
            progressive = progressive or int.from_bytes(data[at + 4 : at + 5]) < layers
            scans = _count_scans(data, at) if progressive else 1
            memory = max(_USUAL_BYTES, 4 + 2 * layers) if progressive else _USUAL_BYTES
            return Examined("JPEG", b"".join([*kept, data[at:]]), memory, scans)
        if b"\xc0" <= marker <= b"\xcf" and marker not in b"\xc4\xc8\xcc":
            layers, progressive = int.from_bytes(data[at + 9 : at + 10]), marker in b"\xc2\xc6\xca\xce"
        if not (b"\xe1" <= marker <= b"\xed" or marker in b"\xef\xfe"):
            kept.append(data[at:end])
        at = max(end, at + 4)
    raise too_large(f"a JPEG file of more than {_MOST_PARTS:,} segments")


def _count_scans(data: bytes, at: int) -> int:
    """Scans from the one at hand to the end of the picture."""
    scans = 0
    while (found := _JPEG_MARKER.search(data, at)) and found[0] != b"\xff\xd9":
        scans += found[0] == b"\xff\xda"
        if scans > _MOST_SCANS:
            raise too_large(f"a JPEG file of more than {_MOST_SCANS} scans")
        at = max(found.end(), found.start() + 2 + int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return scans


def _png(data: bytes) -> Examined:
    """Leaves out all chunks but the critical ones and the one that says what is transparent."""
    kept, at = [data[:8]], 8
    for _ in range(_MOST_PARTS):
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if name == b"tRNS" or not name[:1].islower():
            kept.append(data[at:end])
        at = end
        if at >= len(data) or name == b"IEND":
            return Examined("PNG", b"".join(kept))
    raise too_large(f"a PNG file of more than {_MOST_PARTS:,} chunks")


def _gif(data: bytes) -> Examined:
    """Counts the blocks before the first picture."""
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    in_extension = False
    for _ in range(_MOST_PARTS):
        block = data[at : at + 1]
        if not block or (not in_extension and block in b",;"):
            return Examined("GIF", data)
        if in_extension:
            in_extension, at = block != b"\x00", at + 1 + block[0]
        else:
            in_extension = block == b"!"
            at += 2 if in_extension else 1
    raise too_large(f"a GIF file of more than {_MOST_PARTS:,} blocks before its picture")


def _webp(data: bytes) -> Examined:
    """Counts the chunks, among which are the pictures of an animation."""
    at = 12
    for _ in range(_MOST_PARTS):
        if at >= len(data):
            return Examined("WEBP", data, _WEBP_BYTES)
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    raise too_large(f"a WebP file of more than {_MOST_PARTS:,} chunks")


def _tiff(data: bytes) -> Examined:
    """Looks at the first directory: values larger than the file, long lists, and how the pixels are compressed."""
    order = "<" if data[:1] == b"I" else ">"
    big = 43 in data[2:4]
    number, entry, room = ("Q", "HHQ", 8) if big else ("H", "HHL", 4)
    pointer = "Q" if big else "L"
    try:
        (at,) = struct.unpack_from(order + pointer, data, room)
        (count,) = struct.unpack_from(order + number, data, at)
        at += struct.calcsize(order + number)
        step = struct.calcsize(order + entry) + room
        total = 0
        if count > _MOST_PARTS:
            raise too_large(f"a TIFF file of more than {_MOST_PARTS:,} tags")
        for place in range(at, at + count * step, step):
            tag, kind, values = struct.unpack_from(order + entry, data, place)
            size = values * _TIFF_SIZES.get(kind, 1)
            total += size if size <= len(data) else 0  # a length beyond the end of the file reads nothing
            if size <= len(data) and values > _MOST_VALUES and kind not in _TIFF_BYTE_KINDS:
                raise too_large(f"a TIFF file with a list of {values:,} numbers, over the limit of {_MOST_VALUES:,}")
            if tag == 259:
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "L"), data, place + step - room)
                compression = TiffImagePlugin.COMPRESSION_INFO.get(value, str(value))
                if compression not in _TIFF_COMPRESSIONS:
                    raise _broken(f"a TIFF file whose pixels are compressed as {compression}, which is not read")
    except struct.error:
        raise _broken("a TIFF file whose directory is cut off") from None
    if total > 2 * len(data):
        raise too_large("a TIFF file whose tags take more than twice its length")
    return Examined("TIFF", data, _TIFF_BYTES)


def _bmp(data: bytes) -> Examined:
    return Examined("BMP", data)


def _pnm(data: bytes) -> Examined:
    if not _PNM.match(data[:4096]):
        raise _broken("a PPM file without a header")
    return Examined("PPM", data)


_WALKS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Examined]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), _tiff),
    (re.compile(rb"P[456]\s"), _pnm),
)
