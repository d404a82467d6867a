"""TFDS builder of `scenes`: drawn from a seed, nothing to download."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from flair_jax.data.image import open_picture
from flair_jax.data.sets.scenes import (
    SIDE,
    VALUES,
    Scene,
    SceneObject,
    describe_long,
    draw_scene,
    draw_sentences,
    render,
)

# Each split draws from its own seed, so that no two share scenes by construction.
_SEEDS = {"train": 1, "validation": 2, "test": 3}


@dataclasses.dataclass
class ScenesConfig(tfds.core.BuilderConfig):
    """Numbers of scenes in the splits."""

    train: int = 0
    validation: int = 0
    test: int = 0


class Scenes(tfds.core.GeneratorBasedBuilder):
    """Pictures of 72 x 72 pixels with coloured objects, sentences about them, and masks.

    Features: `image`; `captions`, sentences about single objects, pairs and the background, and `caption_object`,
    the number from 0 of the only object each is about (-1: none or two); `long_caption`; `mask`, with the number of the
    object at each pixel from 1; `background` and `objects`, the contents of the scene.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {  # noqa: RUF012
        "1.0.0": "First.",
        "2.0.0": "72 pixels a side, eight shapes, three textures, up to six objects, more sentences.",
    }
    BUILDER_CONFIGS = [  # noqa: RUF012
        ScenesConfig(name="full", description="For training.", train=12_000, validation=512, test=512),
        ScenesConfig(name="small", description="For tests.", train=64, validation=16, test=16),
    ]

    def _info(self) -> Any:
        text = tfds.features.Text()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 3)),
                    "mask": tfds.features.Image(shape=(SIDE, SIDE, 1)),
                    "captions": tfds.features.Sequence(text),
                    "caption_object": tfds.features.Sequence(np.int32),
                    "long_caption": text,
                    "background": text,
                    "objects": tfds.features.Sequence(dict.fromkeys(VALUES, text)),
                }
            ),
            description="Drawn pictures with sentences about their parts, and a mask for every object.",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in _SEEDS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(getattr(self.builder_config, split)):
            rng = np.random.default_rng([_SEEDS[split], number])
            scene = draw_scene(rng, for_training=split == "train")
            pixels, mask = render(scene, rng)
            captions, objects = zip(*draw_sentences(scene, rng), strict=True)
            yield (
                number,
                {
                    "image": _png(pixels),
                    "mask": _png(mask),
                    "captions": list(captions),
                    "caption_object": list(objects),
                    "long_caption": describe_long(scene),
                    "background": scene.background,
                    "objects": [dataclasses.asdict(item) for item in scene.objects],
                },
            )


def prepare(data_dir: str | Path, config: str = "full") -> None:
    """Draws the data set into `data_dir`/scenes, unless it is there, with a progress bar.

    Args:
      data_dir: TFDS's folder.
      config: "full" or "small".
    """
    builder = Scenes(data_dir=str(data_dir), config=config, file_format="array_record")
    with contextlib.redirect_stdout(None):  # TFDS prints there that it downloads, also what is drawn
        builder.download_and_prepare()


@dataclasses.dataclass(frozen=True)
class LabelledScene:
    """One scene as it was stored.

    Attributes:
      scene: its contents.
      pixels: uint8 [72, 72, 3].
      mask: uint8 [72, 72], number of the object at each pixel from 1; 0 is background.
      captions: sentences.
      caption_object: for each the number from 0 of the only object it is about, or -1.
      long_caption: the background and two objects.
    """

    scene: Scene
    pixels: np.ndarray
    mask: np.ndarray
    captions: list[str]
    caption_object: list[int]
    long_caption: str


def read(data_dir: str | Path, split: str, config: str = "full") -> list[LabelledScene]:
    """All scenes of a split, in the order of their numbers' hashes, as TFDS stores them."""
    skip = tfds.decode.SkipDecoding()
    builder = Scenes(data_dir=str(data_dir), config=config, file_format="array_record")
    return [_labelled(record) for record in builder.as_data_source(split, decoders={"image": skip, "mask": skip})]


def _labelled(record: dict[str, Any]) -> LabelledScene:
    objects = record["objects"]
    rows = [{name: objects[name][i] for name in VALUES} for i in range(len(objects["size"]))]
    return LabelledScene(
        scene=Scene(
            record["background"].decode(),
            tuple(SceneObject(**{name: value.decode() for name, value in row.items()}) for row in rows),
        ),
        pixels=np.array(open_picture(record["image"])),
        mask=np.array(open_picture(record["mask"])),
        captions=[caption.decode() for caption in record["captions"]],
        caption_object=[int(number) for number in record["caption_object"]],
        long_caption=record["long_caption"].decode(),
    )


def _png(pixels: np.ndarray) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", compress_level=1)
    stream.seek(0)
    return stream
