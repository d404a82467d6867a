"""Sets for semantic segmentation as users have them on disk: one table row each. Imports no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from flair_jax.data.sets.scenes import (
    BACKGROUNDS,
    COLOURS,
    SIDE,
    Scene,
    SceneObject,
    describe_background,
    describe_object,
)
from flair_jax.data.sets.segmentation_data import IGNORED, THINGS, SegmentationData, labels, labels_of, open_files
from flair_jax.errors import DatasetError
from flair_jax.files import expand


@dataclasses.dataclass(frozen=True)
class SegmentationSet:
    """One set.

    Attributes:
      name: for `--dataset`.
      folder: where it usually lies under a folder of sets. `--data-dir` may be this folder or any above it.
      marker: the file or folder that marks the set's folder.
      open: (the set's folder, the file or folder that marks it) -> the data.
      source: where users get it.
      whole: how many pictures the whole set has, as published; None if that is not known.
      beside: a folder of the set's that must be there too; others have pictures where this set has them.
    """

    name: str
    folder: str
    marker: str
    open: Callable[[Path, Path], SegmentationData]
    source: str
    whole: int | None = None
    beside: str = ""

    def _folders(self, data_dir: Path) -> Iterator[tuple[Path, Path]]:
        """Where the set may be, with what marks it."""
        parts = Path(self.folder).parts
        for folder in (data_dir.joinpath(*parts[start:]) for start in range(len(parts) + 1)):
            yield from ((folder, found) for found in sorted(folder.glob(self.marker))[:1])

    def find(self, data_dir: Path) -> Path | None:
        """What marks the set's folder, in `data_dir` or in `folder` below it; None if the set is not there."""
        for folder, marker in self._folders(data_dir):
            named = folder.resolve().name == Path(self.folder).name
            if (folder / self.beside).is_dir() if self.beside else named:
                return marker
        return None

    def load(self, data_dir: str | Path) -> SegmentationData:
        """Lists the pictures; none is opened.

        Raises:
          DatasetError: if the folder is not as the set has it.
        """
        data_dir = expand(data_dir)
        if not data_dir.is_dir():
            raise DatasetError(f"{data_dir}: no such folder; it must hold {self.name}'s {self.marker}")
        for folder, marker in self._folders(data_dir):
            data = self.open(folder, marker)
            if not data.names:
                raise DatasetError(f"{marker}: holds no pictures of {self.name}")
            return dataclasses.replace(data, dataset=self.name)
        raise DatasetError(f"{data_dir}: {self.name} needs {self.marker} there or in {self.folder} below it")


def _open_scenes(folder: Path, marker: Path) -> SegmentationData:
    """The drawn scenes: a class for each colour of objects and each background, in words as they were trained on."""
    from flair_jax.data.sets import scenes_builder

    if folder.resolve().name != "scenes":
        raise DatasetError(f"{folder}: name the folder that holds `scenes`, and not this one")
    scenes = scenes_builder.read(folder.resolve().parent, "test", marker.parent.parent.name)
    classes = (*COLOURS, *(f"{name} background" for name in BACKGROUNDS))
    objects = [describe_object(SceneObject("", "", colour, "", ""), {"colour"}) for colour in COLOURS]
    texts = (*objects, *(describe_background(Scene(name, ())) for name in BACKGROUNDS))

    def read(number: int) -> tuple[Image.Image, np.ndarray]:
        labelled = scenes[number]
        drawn = (f"{labelled.scene.background} background", *(item.colour for item in labelled.scene.objects))
        numbers = np.array([classes.index(name) for name in drawn], np.uint8)
        return Image.fromarray(labelled.pixels), numbers[labelled.mask.reshape(labelled.pixels.shape[:2])]

    names = [f"{number:04}" for number in range(len(scenes))]
    colours = (*COLOURS.values(), *BACKGROUNDS.values())  # in which they are drawn
    return SegmentationData(names, classes, tuple((text,) for text in texts), ("{}",), SIDE, read, colours=colours)


# COCO-Stuff's raw values are its ids less 1; these do not occur. The others, in order, are the train ids from 0.
_COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_COCO_RAW = [value for value in range(182) if value not in _COCO_GAPS]
# cityscapesScripts, labels.py: ids of the classes that are judged, in the order of the train ids; 0 to 33 occur.
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_voc = partial(open_files, classes="voc", pictures="JPEGImages/{}.jpg", annotations="SegmentationClass/{}")
_context = partial(
    open_files, classes="context", pictures="JPEGImages/{}.jpg", annotations="SegmentationClassContext/{}"
)
_coco = partial(
    open_files, classes="coco-stuff", pictures="images/val2017/{}.jpg", annotations="annotations/val2017/{}"
)

SEGMENTATION_SETS: dict[str, SegmentationSet] = {
    entry.name: entry
    for entry in (
        SegmentationSet(
            "voc20",
            "VOCdevkit/VOC2012",
            "ImageSets/Segmentation/val.txt",
            partial(_voc, labels={".png": labels(1, 20, 0)}),
            "host.robots.ox.ac.uk/pascal/VOC/voc2012",
            1_449,
            "SegmentationClass",
        ),
        SegmentationSet(
            "voc21",
            "VOCdevkit/VOC2012",
            "ImageSets/Segmentation/val.txt",
            partial(_voc, labels={".png": labels(0, 21)}, background=True),
            "as voc20, with background",
            1_449,
            "SegmentationClass",
        ),
        SegmentationSet(
            "context59",
            "VOCdevkit/VOC2010",
            "ImageSets/SegmentationContext/val.txt",
            partial(_context, labels={".png": labels(1, 59, 0)}),
            "VOC 2010 and mmsegmentation's pascal_context.py",
            beside="SegmentationClassContext",
        ),
        SegmentationSet(
            "context60",
            "VOCdevkit/VOC2010",
            "ImageSets/SegmentationContext/val.txt",
            partial(_context, labels={".png": labels(0, 60)}, background=True),
            "as context59, with background",
            beside="SegmentationClassContext",
        ),
        SegmentationSet(
            "ade20k",
            "ade/ADEChallengeData2016",
            "images/validation",
            partial(
                open_files,
                classes="ade20k",
                pictures="images/validation/{}.jpg",
                annotations="annotations/validation/{}",
                labels={".png": labels(1, 150, 0)},
            ),
            "sceneparsing.csail.mit.edu",
            2_000,
            "annotations/validation",
        ),
        SegmentationSet(
            "cityscapes",
            "cityscapes",
            "leftImg8bit/val",
            partial(
                open_files,
                classes="cityscapes",
                pictures="leftImg8bit/val/{}_leftImg8bit.png",
                annotations="gtFine/val/{}_gtFine",
                labels={
                    "_labelTrainIds.png": labels(0, 19),
                    "_labelIds.png": labels_of({raw: i for i, raw in enumerate(_CITYSCAPES)}, *range(34)),
                },
                short_side=560,
            ),
            "cityscapes-dataset.com",
            500,
            "gtFine/val",
        ),
        SegmentationSet(
            "coco-stuff",
            "coco_stuff164k",
            "images/val2017",
            partial(
                _coco,
                labels={
                    "_labelTrainIds.png": labels(0, 171),
                    ".png": labels_of({raw: i for i, raw in enumerate(_COCO_RAW)}),
                },
                short_side=448,
            ),
            "github.com/nightrome/cocostuff: stuffthingmaps",
            5_000,
            "annotations/val2017",
        ),
        SegmentationSet(
            "coco-object",
            "coco_stuff164k",
            "images/val2017",
            partial(
                _coco,
                labels={
                    "_instanceTrainIds.png": labels(0, 81),
                    "_labelTrainIds.png": labels_of({i: i + 1 if i < THINGS else 0 for i in (*range(171), IGNORED)}),
                    ".png": labels_of({raw: i + 1 if i < THINGS else 0 for i, raw in enumerate([*_COCO_RAW, IGNORED])}),
                },
                background=True,
                only_things=True,
            ),
            "as coco-stuff; its 80 objects and background",
            5_000,
            "annotations/val2017",
        ),
        SegmentationSet(
            "scenes", "scenes", "*/*/dataset_info.json", _open_scenes, "flair-jax demo: the held-out scenes"
        ),
    )
}
