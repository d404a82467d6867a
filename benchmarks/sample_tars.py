"""Tars of training samples for the benchmarks, as img2dataset writes them: photographs and made sentences."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from flair_jax.data import tokenizer
from flair_jax.data.captions import CAPTION_LISTS
from flair_jax.data.image import open_rgb, random_crop_box
from flair_jax.data.workers import parallel

IN_A_TAR = 1000
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)


def add_tars(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the tars."""
    parser.add_argument("--folder", type=Path, required=True, help="for the tars, some 1 GB for 20,000 samples; kept")
    parser.add_argument(
        "--samples", type=int, default=20_000, help=f"a multiple of {IN_A_TAR}, which a tar holds (default %(default)s)"
    )


def pattern(options: argparse.Namespace) -> str:
    """Pattern of all tars."""
    return f"{options.folder}/tars/{{00000..{options.samples // IN_A_TAR - 1:05}}}.tar"


def make_tars(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Tars as img2dataset writes them; those that are there are kept."""
    if options.samples % IN_A_TAR or options.samples <= 0:
        parser.error(f"--samples {options.samples} must be a multiple of {IN_A_TAR}")
    (options.folder / "tars").mkdir(parents=True, exist_ok=True)
    names = [options.folder / "tars" / f"{number:05}.tar" for number in range(options.samples // IN_A_TAR)]
    missing = [name for name in names if not name.exists()]
    for _ in parallel(make_tar, missing, description="make", unit="tar"):
        pass


def make_tar(path: Path) -> None:
    """Crops of photographs at 500 x 375 pixels, each with seven lists of sentences."""
    rng = np.random.default_rng(int(path.stem))
    sources = photographs()
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for number in range(IN_A_TAR):
            picture = sources[int(rng.integers(len(sources)))]
            top, left, height, width = random_crop_box(*picture.size, rng, (0.3, 1.0), (1.32, 1.34))
            cut = picture.crop((left, top, left + width, top + height)).resize((500, 375), Image.Resampling.BICUBIC)
            stream = io.BytesIO()
            cut.save(stream, "jpeg", quality=int(rng.integers(85, 96)))
            key = f"{int(path.stem):05}{number:04}"
            document = {
                "url": f"https://pictures.example/{key}.jpg",
                "key": key,
                "status": "success",
                "error_message": None,
            }
            document |= {"width": 500, "height": 375, "original_width": 500, "original_height": 375, "exif": "{}"}
            for name in CAPTION_LISTS:
                # Drawn captions then have some 41 tokens, as measured of the recaptioned sets' own; see `mix_lengths`.
                long = name.startswith("long")
                count, words = (int(rng.integers(4, 9)), (8, 35)) if long else (1, (5, 16))
                document[name] = [sentence(rng, *words) for _ in range(count)]
            for suffix, data in (
                ("jpg", stream.getvalue()),
                ("json", json.dumps(document).encode()),
                ("txt", document["raw_caption"][0].encode()),
            ):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    partial.rename(path)


@functools.cache
def photographs() -> list[Image.Image]:
    """Those of scikit-image that have colours."""
    package = importlib.util.find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "data"
    return [open_rgb(folder / name) for name in PHOTOGRAPHS]


@functools.cache
def vocabulary() -> tuple[list[str], np.ndarray]:
    """Words of CLIP's vocabulary and how often each comes: by Zipf's law, as in texts."""
    ids = tokenizer.clip_vocabulary()[0]
    found = [
        name[:-4] for name in ids if name.endswith("</w>") and name[:-4].isalpha() and name.isascii() and len(name) > 5
    ]
    frequency = 1 / np.arange(1, len(found) + 1)
    return found, np.cumsum(frequency / frequency.sum())


def sentence(rng: np.random.Generator, fewest: int, most: int) -> str:
    """So many words, `most` not included."""
    found, sums = vocabulary()
    chosen = np.searchsorted(sums, rng.random(int(rng.integers(fewest, most))))
    return " ".join(found[min(int(index), len(found) - 1)] for index in chosen).capitalize()
