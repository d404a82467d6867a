"""Real photographs with captions, as a data set in COCO's layout."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

# Photographs shipped in scikit-image's package (public domain or CC0), with captions written for this project.
PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "astronaut.png": (
        "A woman in an orange space suit smiles at the camera.",
        "An astronaut stands before a flag and a model of a space shuttle.",
    ),
    "camera.png": (
        "A man in a dark coat films with a camera on a tripod in a field.",
        "A black and white photograph of a cameraman, with tall buildings far behind him.",
    ),
    "chelsea.png": (
        "The face of a tabby cat with green eyes, from close up.",
        "A ginger cat with long white whiskers looks past the camera.",
    ),
    "coffee.png": (
        "A cup of espresso on a saucer on a wooden table.",
        "A small spoon lies beside a white cup filled with dark coffee.",
    ),
    "coins.png": (
        "Rows of old coins on a dark background.",
        "Ancient metal coins of different sizes, photographed in grey.",
    ),
    "hubble_deep_field.jpg": (
        "Hundreds of distant galaxies shine in the black sky.",
        "A telescope's view of deep space, full of small spirals and points of light.",
    ),
    "motorcycle_left.png": (
        "A motorcycle stands in a garage.",
        "A motorbike with a black seat and shining metal parts, parked indoors among tools.",
    ),
    "rocket.jpg": (
        "A rocket on its launch pad in the evening.",
        "A tall white rocket waits between steel towers under a dim sky.",
    ),
}


def write_photographs(folder: Path) -> None:
    """Writes the photographs and captions in COCO's layout."""
    package = importlib.util.find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    pictures = folder / "images" / "val2017"
    pictures.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, captions) in enumerate(PHOTOGRAPHS.items(), start=1):
        shutil.copyfile(Path(package.origin).parent / "data" / name, pictures / name)
        images.append({"id": number, "file_name": name})
        annotations += [{"id": len(annotations) + i, "image_id": number, "caption": c} for i, c in enumerate(captions)]
    text = json.dumps({"images": images, "annotations": annotations}, indent=1)
    (folder / "annotations" / "captions_val2017.json").write_text(text, encoding="utf-8")
