"""The colours of classes: fixed for a set, no two alike, and those that names say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_segmentation import make_ade, make_cityscapes, make_coco, make_voc

import flair_jax.data.sets as sets
from flair_jax.data.sets import scenes, scenes_builder
from flair_jax.data.sets.segmentation import SEGMENTATION_SETS
from flair_jax.data.sets.segmentation_colours import _seen, choose_colours
from flair_jax.data.sets.segmentation_data import SegmentationData

KNOWN = json.loads((Path(sets.__file__).parent / "segmentation_classes.json").read_text())


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, SegmentationData]:
    """Every set, from small copies of their layouts."""
    root = tmp_path_factory.mktemp("sets")
    context = {"folder": "SegmentationClassContext", "listed": "SegmentationContext"}
    make_voc(root / "voc", [1])
    make_voc(root / "context", [1], **context)
    make_ade(root / "ade", [1])
    make_cityscapes(root / "cityscapes", [7])
    make_coco(root / "coco", [0])
    scenes_builder.prepare(root, "small")
    folders = {"ade20k": "ade", "scenes": "", "cityscapes": "cityscapes", "voc20": "voc", "voc21": "voc"}
    folders |= dict.fromkeys(("context59", "context60"), "context")
    folders |= dict.fromkeys(("coco-stuff", "coco-object"), "coco")
    return {name: entry.load(root / folders[name]) for name, entry in SEGMENTATION_SETS.items()}


# The least distance of two classes of a set in OKLab, for three kinds of vision at once. Of 171 classes whose colours
# are chosen it is 0.090, of 59 it is 0.149; the colours that PASCAL VOC and Cityscapes publish come as near as 0.036.
NEAREST = {"cityscapes": 0.03, "voc20": 0.03, "voc21": 0.03, "context59": 0.14, "context60": 0.14}


@pytest.mark.parametrize("name", SEGMENTATION_SETS)
def test_no_two_classes_of_a_set_look_alike(loaded, name) -> None:
    palette = loaded[name].palette
    assert len(palette) == len(loaded[name].classes) == len(set(palette))
    assert all(0 <= channel <= 255 and type(channel) is int for colour in palette for channel in colour)
    seen = _seen(palette)
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(len(seen), 1)]
    assert apart.min() > NEAREST.get(name, 0.085)


def test_a_title_can_name_the_set(loaded) -> None:
    assert [data.dataset for data in loaded.values()] == list(SEGMENTATION_SETS)


def test_scenes_are_painted_as_they_were_drawn(loaded) -> None:
    data = loaded["scenes"]
    colour = dict(zip(data.classes, data.palette, strict=True))
    assert colour["red"] == scenes.COLOURS["red"] == (214, 39, 40)
    assert colour["navy background"] == scenes.BACKGROUNDS["navy"]
    assert set(colour) == {*scenes.COLOURS, *(f"{name} background" for name in scenes.BACKGROUNDS)}
    picture, truth = data.read(0)
    # A plain background has grain of a few levels, and objects have dark stripes or dots.
    for number in range(len(scenes.COLOURS), len(data.classes)):
        if (truth == number).any():
            assert abs(np.median(np.asarray(picture)[truth == number], axis=0) - data.palette[number]).max() < 40


def test_pascals_colours_are_those_of_its_development_kit(loaded) -> None:
    def voc(number: int) -> tuple[int, int, int]:
        """Bits of the number, lowest first, become bits of R, G and B in turn, highest first."""
        channels = [0, 0, 0]
        for bit in range(24):
            channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
        return tuple(channels)

    assert loaded["voc21"].palette == tuple(map(voc, range(21)))
    assert loaded["voc20"].palette == tuple(map(voc, range(1, 21)))
    assert dict(zip(loaded["voc21"].classes, loaded["voc21"].palette, strict=True))["person"] == (192, 128, 128)


def test_cityscapes_colours_are_published(loaded) -> None:
    colour = dict(zip(loaded["cityscapes"].classes, loaded["cityscapes"].palette, strict=True))
    assert (colour["road"], colour["sky"], colour["bicycle"]) == ((128, 64, 128), (70, 130, 180), (119, 11, 32))


def test_names_of_colours_are_painted_in_them() -> None:
    names = ("cat", "red", "Navy", "background", "dog", "orange", "gray", "grey", "redder")
    colour = dict(zip(names, choose_colours(names), strict=True))
    assert (colour["red"], colour["Navy"], colour["orange"]) == ((255, 0, 0), (0, 0, 128), (255, 165, 0))
    assert colour["background"] == (0, 0, 0)
    assert colour["gray"] == (128, 128, 128), "its other spelling would be the same, and gets another"
    assert len(set(colour.values())) == len(names)


def test_colours_depend_on_the_classes_alone() -> None:
    """In another process with other hashes, and not on what was asked for before."""
    names = tuple(KNOWN["coco-stuff"]["names"])
    script = (
        "import json; from flair_jax.data.sets.segmentation_colours import choose_colours; "
        f"print(json.dumps(choose_colours({names!r})))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert [tuple(each) for each in json.loads(printed)] == list(choose_colours(names))
    assert choose_colours(("cat", "dog"))[0] == choose_colours(("cat", "cow", "dog"))[0]


def test_as_many_classes_as_an_annotation_can_have() -> None:
    names = tuple(f"class {number}" for number in range(255))
    assert len(set(choose_colours(names))) == 255
