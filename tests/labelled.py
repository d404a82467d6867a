"""Labelled pictures in the layouts in which users have them."""

import io
import pickle
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (40, 70, 220)}


def write_folders(root: Path, names=tuple(COLOURS), each: int = 3, suffix: str = ".png", seed: int = 0) -> None:
    """A folder for each class, each with a few pictures of noise around the class's colour."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(names):
        colour = COLOURS.get(name, tuple(rng.integers(0, 256, 3)))
        (root / name).mkdir(parents=True)
        for picture in range(each):
            pixels = np.clip(np.array(colour) + rng.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}-{picture}{suffix}")


def random_cifar(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 32, 32, 3] and labels [N]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, classes, count, dtype=np.uint8)


def cifar_rows(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, 3072], channel by channel, as CIFAR's files have them."""
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).reshape(len(pictures), -1)


def write_binary(path: Path, pictures: np.ndarray, labels: np.ndarray, coarse: bool = False) -> None:
    path.parent.mkdir(parents=True)
    columns = [np.full((len(labels), 1), 7, np.uint8)] if coarse else []
    path.write_bytes(np.concatenate([*columns, labels[:, None], cifar_rows(pictures)], axis=1).tobytes())


def write_python2_pickle(path: Path, pictures: np.ndarray, labels: np.ndarray, entry: str) -> None:
    """A pickle as Python 2 and NumPy of 2009 wrote it, opcode by opcode; Python 3 writes texts in another way."""
    rows = cifar_rows(pictures)

    def text(value: bytes) -> bytes:
        return pickle.BINSTRING + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return pickle.BININT + int(value).to_bytes(4, "little", signed=True)

    def named(module: str, name: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{name}\n".encode()

    dtype = named("numpy", "dtype") + text(b"u1") + number(0) + number(1) + pickle.TUPLE3 + pickle.REDUCE
    dtype += pickle.MARK + number(3) + text(b"|") + pickle.NONE * 3 + number(-1) * 2 + number(0) + pickle.TUPLE
    dtype += pickle.BUILD
    array = named("numpy.core.multiarray", "_reconstruct")
    array += named("numpy", "ndarray") + number(0) + pickle.TUPLE1 + text(b"b") + pickle.TUPLE3 + pickle.REDUCE
    array += pickle.MARK + number(1) + number(len(rows)) + number(rows.shape[1]) + pickle.TUPLE2
    array += dtype + pickle.NEWFALSE + text(rows.tobytes()) + pickle.TUPLE + pickle.BUILD
    listed = pickle.EMPTY_LIST + pickle.MARK + b"".join(map(number, labels)) + pickle.APPENDS
    content = pickle.EMPTY_DICT + pickle.MARK + text(b"batch_label") + text(b"testing batch 1 of 1")
    content += text(entry.encode()) + listed + text(b"data") + array + pickle.SETITEMS
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.PROTO + b"\x02" + content + pickle.STOP)


def write_tfds(root: Path, name: str, split: str, pictures: list[bytes], labels: list[int], names: list[str]) -> None:
    """A prepared TFDS data set of encoded pictures, in the order given."""
    with tfds.core.registered.skip_registration():

        class Labelled(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=names)}
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples()}

            def _generate_examples(self):
                for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
                    yield number, {"image": io.BytesIO(picture), "label": label}

    Labelled.name = name
    Labelled(data_dir=str(root), file_format="array_record").download_and_prepare()


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()
