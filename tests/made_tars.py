"""Tars as img2dataset writes them."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (40, 32)) -> bytes:
    """A JPEG whose red is the number, modulo 256."""
    stream = io.BytesIO()
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0] = number % 256
    Image.fromarray(pixels).save(stream, "jpeg", quality=95)
    return stream.getvalue()


def document(number: int) -> dict:
    return {
        "url": f"http://pictures.example/{number:04}.jpg",
        "raw_caption": f"Picture {number}. It is red.",
        "shortIB_captions": ["a red picture"],
        "longSV_captions": ["There is nothing but red", f"Number {number} is written nowhere"],
    }


def sample(number: int) -> list[tuple[str, bytes]]:
    """Members of one sample."""
    key = f"{number:09}"
    return [
        (f"{key}.jpg", picture(number)),
        (f"{key}.json", json.dumps(document(number)).encode()),
        (f"{key}.txt", b"the web's caption"),
    ]


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_tars(folder: Path, tars: int, samples: int) -> str:
    """So many tars of so many samples; returns their pattern."""
    for tar in range(tars):
        members = [each for number in range(samples) for each in sample(tar * samples + number)]
        write_tar(folder / f"{tar:05}.tar", members)
    return f"{folder}/{{00000..{tars - 1:05}}}.tar"
