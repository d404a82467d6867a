"""The demonstration: a few photographs, a tiny checkpoint with random weights, conversion, evaluation."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import jax

from flair_jax.configs.demo import get_config
from flair_jax.convert.files import write_tensors
from flair_jax.convert.param_map import torch_from_params
from flair_jax.convert.transfer import convert
from flair_jax.errors import FlairError
from flair_jax.evaluate.command import run as evaluate
from flair_jax.evaluate.run import Settings
from flair_jax.models.config import PRESETS
from flair_jax.models.flair import Flair

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


def run(output: Path) -> None:
    """Writes the data set and the checkpoint under `output`, then does what the printed commands do.

    Raises:
      FlairError: if scikit-image is missing or a step fails.
    """
    config = get_config()
    output.mkdir(parents=True, exist_ok=True)
    write_photographs(output / "coco")
    print(f"{len(PHOTOGRAPHS)} photographs with captions, in COCO's layout: {output / 'coco'}")

    model = Flair(PRESETS[config.model])
    weights = output / "tiny.safetensors"
    params = jax.device_get(model.init(jax.random.key(config.seed)))
    write_tensors(weights, torch_from_params(params, model.config))
    print(f"a tiny model in the PyTorch release's layout, with RANDOM weights: {weights}")

    checkpoint, photographs = output / "checkpoint", output / "coco"
    print(f"\n$ flair-jax convert {weights} {checkpoint}", flush=True)
    convert(str(weights), checkpoint)
    for mode in config.modes:
        settings = Settings(mode, config.top_k, config.batch_size)
        result = output / f"{mode}.json"
        print(
            f"\n$ flair-jax evaluate --checkpoint {checkpoint} --dataset coco --data-dir {photographs} "
            f"--mode {mode} --top-k {config.top_k} --batch-size {config.batch_size} --output {result}",
            flush=True,
        )
        evaluate(checkpoint, "coco", photographs, settings, dtype="float32", output=result)
    print(
        "\nThe weights are random, so these scores are chance. They show that everything runs; a converted release "
        "checkpoint goes through the same commands."
    )


def write_photographs(folder: Path) -> None:
    """Writes the photographs and captions in COCO's layout.

    Raises:
      FlairError: if scikit-image, which ships the photographs, is not installed.
    """
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise FlairError('the photographs come with scikit-image: pip install "flair-jax[demo]"')
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
