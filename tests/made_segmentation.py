"""Small copies of the layouts of segmentation sets."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (6, 4)  # width, height


def write_picture(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_labels(path: Path, values: list[int], size: tuple[int, int] = SIZE, mode: str = "L") -> None:
    """The values from the upper left, the last one repeated to the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = np.array(values + values[-1:] * (size[0] * size[1] - len(values)), np.uint8)
    picture = Image.fromarray(flat.reshape(size[1], size[0]))
    if mode == "P":
        picture.putpalette([channel for number in range(256) for channel in (number, 255 - number, 0)])
    picture.save(path)


def make_voc(root: Path, values: list[int], folder: str = "SegmentationClass", listed: str = "Segmentation") -> None:
    (root / "ImageSets" / listed).mkdir(parents=True)
    (root / "ImageSets" / listed / "val.txt").write_text("2007_000033\n2007_000042 \n\n")
    for name in ("2007_000033", "2007_000042", "2007_009999"):  # the last is of another split
        write_picture(root / "JPEGImages" / f"{name}.jpg")
        write_labels(root / folder / f"{name}.png", values, mode="P")


def make_ade(root: Path, values: list[int]) -> None:
    for name in ("ADE_val_00000002", "ADE_val_00000001"):
        write_picture(root / "images/validation" / f"{name}.jpg")
        write_labels(root / "annotations/validation" / f"{name}.png", values)


def make_cityscapes(root: Path, values: list[int], ending: str = "labelIds") -> None:
    for name in ("munster/munster_000001_000019", "lindau/lindau_000000_000019"):
        write_picture(root / "leftImg8bit/val" / f"{name}_leftImg8bit.png")
        write_labels(root / "gtFine/val" / f"{name}_gtFine_{ending}.png", values)


def make_coco(root: Path, values: list[int], ending: str = ".png") -> None:
    for name in ("000000000139", "000000000285"):
        write_picture(root / "images/val2017" / f"{name}.jpg")
        write_labels(root / "annotations/val2017" / f"{name}{ending}", values)
