"""Whatever opens pictures for a model prepares them as the model's description says."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import flair_jax
from flair_jax import VisionConfig, checkpoint
from flair_jax.cli import main
from flair_jax.data.image import open_rgb, random_crop_box, resized_crop
from flair_jax.data.pipeline import SampleSettings, load_sample
from flair_jax.data.sources import Record
from flair_jax.scoring.scorer import Retriever
from flair_jax.show.page import read_upload


@pytest.fixture(scope="module")
def squashing(small_model) -> tuple[flair_jax.Flair, dict]:
    model, params = small_model
    vision = dataclasses.replace(model.config.vision, resize_mode="squash", interpolation="bilinear")
    return flair_jax.Flair(dataclasses.replace(model.config, vision=vision)), params


@pytest.fixture(scope="module")
def squashing_checkpoint(squashing, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("squashing") / "checkpoint"
    checkpoint.save(path, *squashing, {"file": "squashing.safetensors"})
    return path


@pytest.fixture
def seen(monkeypatch) -> list[np.ndarray]:
    """Pixels that the towers were given."""
    given: list[np.ndarray] = []
    encode = Retriever.encode_images

    def record(self, pixels, **settings):
        given.extend(np.asarray(pixels))
        return encode(self, pixels, **settings)

    monkeypatch.setattr(Retriever, "encode_images", record)
    return given


def expected(folder: Path, vision: VisionConfig) -> set[bytes]:
    pixels = {flair_jax.preprocess(path, vision).tobytes() for path in folder.iterdir()}
    assert not pixels & {flair_jax.preprocess(path, vision.image_size).tobytes() for path in folder.iterdir()}
    return pixels


def test_evaluation_and_search(squashing, squashing_checkpoint, photographs, tmp_path, seen) -> None:
    pictures = photographs / "images" / "val2017"
    wanted = expected(pictures, squashing[0].config.vision)
    common = ("--checkpoint", str(squashing_checkpoint))
    assert not main(["evaluate", *common, "--dataset", "coco", "--data-dir", str(photographs), "--mode", "global"])
    assert {pixels.tobytes() for pixels in seen} == wanted
    seen.clear()
    assert not main(["index", str(pictures), *common, "--output", str(tmp_path / "index")])
    assert {pixels.tobytes() for pixels in seen} >= wanted
    assert not main(["attend", str(pictures / "chelsea.png"), "a cat", *common, "--output", str(tmp_path / "maps")])
    assert np.load(tmp_path / "maps" / "maps.npz")["pixels"].tobytes() in wanted


def test_classification(squashing, squashing_checkpoint, photographs, tmp_path, seen) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes((photographs / "images/val2017/chelsea.png").read_bytes())
    common = ("--checkpoint", str(squashing_checkpoint), "--dataset", "folder", "--data-dir", str(tmp_path / "set"))
    assert not main(["evaluate", "--task", "classify", *common])
    wanted = flair_jax.preprocess(tmp_path / "set" / "cat" / "a.png", squashing[0].config.vision)
    assert (np.stack(seen[:2]) == wanted).all()


def test_the_page(squashing, photographs) -> None:
    vision, picture = squashing[0].config.vision, photographs / "images" / "val2017" / "chelsea.png"
    np.testing.assert_array_equal(read_upload(str(picture), vision, []), flair_jax.preprocess(picture, vision))


class _OneSample:
    """A source of one picture."""

    def __init__(self, image: bytes) -> None:
        self.image = image

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Record:
        return Record(self.image, ("a cat",))

    def where(self, number: int) -> str:
        return "here"


def test_training_crops(photographs) -> None:
    """Random crops have no resize mode, as open_clip's, but the model's interpolation."""
    path = photographs / "images" / "val2017" / "chelsea.png"
    settings = SampleSettings(seed=1, image_size=32, context_length=8, captions_per_image=1, interpolation="bilinear")
    sample = load_sample(_OneSample(path.read_bytes()), settings, 0, 0)
    box = random_crop_box(*open_rgb(path).size, np.random.default_rng([1, 0, 0]))
    np.testing.assert_array_equal(sample.pixels, resized_crop(path, box, 32, "bilinear"))
    assert (sample.pixels != resized_crop(path, box, 32)).any()
