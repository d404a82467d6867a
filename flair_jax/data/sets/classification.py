"""Labelled pictures as users have them on disk: one table row and one small reader for each layout. Imports no JAX."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from flair_jax.buckets import is_remote
from flair_jax.data.folders import pictures_below
from flair_jax.data.names import is_hidden, is_picture
from flair_jax.data.sets.cifar import read_binary, read_pickle
from flair_jax.data.sets.labelled import ArrayExamples, Examples, FileExamples, TfdsExamples
from flair_jax.data.sets.prompts import cifar_names, imagenet_names, read_class_names, template_lists
from flair_jax.errors import DatasetError, plural
from flair_jax.files import expand

_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ClassificationData:
    """Labelled pictures and the names of their classes.

    Attributes:
      examples: the pictures.
      keys: the set's own identifiers of its C classes: synsets, folders.
      names: their names in texts.
      templates: sentences with `{}` for the name, unless the user has others.
      whole: how many pictures the whole set has; None if that is not known.
    """

    examples: Examples
    keys: list[str]
    names: list[str]
    templates: tuple[str, ...]
    whole: int | None = None

    def digest(self) -> str:
        """A hash of the pictures, their labels, and the names of the classes."""
        listing = "\0".join([self.examples.identity(), *self.keys, *self.names])
        return hashlib.sha256(listing.encode("utf-8", "surrogatepass")).hexdigest()


Reader = Callable[[Path], tuple[Examples, list[str], list[str]]]


@dataclasses.dataclass(frozen=True)
class ClassificationSet:
    """One set.

    Attributes:
      name: for `--dataset`.
      layouts: for each form in which users have the set, a pattern of files that mark its folder, and a reader of the
        folder: -> examples, keys, names. Without a pattern any folder is accepted, and none is detected.
      templates: name of its list of templates.
      whole: how many pictures the whole set has; None if that is not known.
      source: where users get it.
    """

    name: str
    layouts: tuple[tuple[str, Reader], ...]
    templates: str
    whole: int | None
    source: str

    def find(self, folder: Path) -> Reader | None:
        """The reader of the first layout that `folder` shows, or None."""
        return next((read for mark, read in self.layouts if mark and next(folder.glob(mark), None)), None)

    def load(self, folder: str | Path, class_names: str | Path | None = None) -> ClassificationData:
        """Lists the pictures; they are not opened.

        Args:
          folder: the set's.
          class_names: file of names to use in place of the set's; see `prompts.read_class_names`.

        Raises:
          DatasetError: if the folder or a file in it is not as the set has them.
        """
        folder = expand(folder)
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; it must be {self.name}'s")
        marks = [mark for mark, _ in self.layouts if mark]
        read = self.find(folder) if marks else self.layouts[0][1]
        if read is None:
            raise DatasetError(f"{folder}: {self.name} needs one of {', '.join(marks)} there, found none")
        examples, keys, names = read(folder)
        if class_names is not None:
            names = read_class_names(class_names, keys)
        return ClassificationData(examples, keys, names, template_lists()[self.templates], self.whole)


def _class_folders(root: Path) -> list[Path]:
    """Those that are not hidden; on a disk, a link that leads back to where it lies would hold all pictures again."""
    folders = [path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)]
    if is_remote(root):
        return sorted(folders)
    above = {root.resolve(), *root.resolve().parents}
    return sorted(path for path in folders if path.resolve() not in above)


def _read_folder(root: Path) -> tuple[Examples, list[str], list[str]]:
    folders = _class_folders(root)
    found = [pictures_below(folder) for folder in folders]
    files = [(path, label) for label, (pictures, _) in enumerate(found) for path in pictures]
    if not files:
        found_folders = plural(len(folders), "folder")
        raise DatasetError(f"{root}: needs a folder for each class with pictures in it, found {found_folders}")
    empty = [folder.name for folder, (pictures, _) in zip(folders, found, strict=True) if not pictures]
    if empty:
        raise DatasetError(
            f"{root}: {plural(len(empty), 'class folder')} without a picture: {', '.join(empty[:5])}; fill or remove "
            "them"
        )
    outside = sum(is_picture(path.name) and not is_hidden(path.name) for path in root.iterdir() if path.is_file())
    if outside:
        logging.warning("%s: passes over %s outside of the class folders", root, plural(outside, "picture"))
    passed_over = sum(count for _, count in found)
    if passed_over:
        logging.warning(
            "%s: passes over %s, links to folders or files not named as pictures",
            root,
            plural(passed_over, "hidden file"),
        )
    keys = [folder.name for folder in folders]
    synsets = imagenet_names()
    if set(keys) <= set(synsets):  # a part or a variant of ImageNet
        return FileExamples(files), keys, [synsets[key] for key in keys]
    return FileExamples(files), keys, [key.replace("_", " ") for key in keys]


def _read_imagenet_folders(folder: Path) -> tuple[Examples, list[str], list[str]]:
    examples, keys, names = _read_folder(folder / "val")
    if keys != list(imagenet_names()):
        raise DatasetError(
            f"{folder / 'val'}: has {plural(len(keys), 'class folder')}, not ImageNet's 1,000 (n01440764 and so on); "
            "for a part of ImageNet use the set `folder`"
        )
    return examples, keys, names


def _read_imagenet_flat(folder: Path) -> tuple[Examples, list[str], list[str]]:
    """The 50,000 pictures as their tar holds them: the number in a picture's name says its class."""
    import tensorflow_datasets as tfds  # ships the classes, which its authors checked against those of ImageNet's kit

    synset_of = (Path(tfds.__file__).parent / "datasets/imagenet2012/validation_labels.txt").read_text().split()
    names = imagenet_names()
    number_of = {synset: number for number, synset in enumerate(names)}
    files: list[tuple[Path, int]] = []
    passed_over = 0
    for path in sorted((folder / "val").iterdir()):
        match = _VALIDATION_NAME.fullmatch(path.name)
        if match and 1 <= int(match[1]) <= len(synset_of):
            files.append((path, number_of[synset_of[int(match[1]) - 1]]))
        else:
            passed_over += 1
    if passed_over:
        logging.warning("%s: passes over %s not of ImageNet", folder / "val", plural(passed_over, "file"))
    return FileExamples(files), list(names), list(names.values())


def _read_imagenet_tfds(folder: Path, *, name: str, split: str) -> tuple[Examples, list[str], list[str]]:
    names = imagenet_names()
    return TfdsExamples(name, folder, split, list(names)), list(names), list(names.values())


def _read_imagenet_v2(folder: Path, *, variant: str) -> tuple[Examples, list[str], list[str]]:
    """A folder for each class, named by the number of the label, 0 to 999, without leading zeros.

    See modestyachts/ImageNetV2_pytorch, ImageNetV2_dataset.py: folders sorted as text would give other labels.
    """
    names, root = imagenet_names(), folder / variant
    numbered = {str(number): number for number in range(len(names))}
    found = [pictures_below(root / number) if (root / number).is_dir() else ([], 0) for number in numbered]
    files = [(path, label) for label, (pictures, _) in enumerate(found) for path in pictures]
    if missing := [number for number, (pictures, _) in zip(numbered, found, strict=True) if not pictures]:
        raise DatasetError(
            f"{root}: {len(missing)} of the class folders 0 to 999 are missing or without a picture, such as "
            f"{', '.join(missing[:5])}; unpack the archive again"
        )
    others = sum(not is_hidden(path.name) and path.name not in numbered for path in root.iterdir())
    if passed_over := others + sum(count for _, count in found):
        logging.warning("%s: passes over %s not of the set", root, plural(passed_over, "entry"))
    return FileExamples(files), list(names), list(names.values())


def _imagenet_v2(name: str, variant: str, tfds_config: str) -> ClassificationSet:
    folder, prepared = f"imagenetv2-{variant}-format-val", f"imagenet_v2/{tfds_config}"
    layouts: tuple[tuple[str, Reader], ...] = (
        (f"{folder}/[0-9]*/", partial(_read_imagenet_v2, variant=folder)),
        (f"{prepared}/*/dataset_info.json", partial(_read_imagenet_tfds, name=prepared, split="test")),
    )
    return ClassificationSet(
        name, layouts, "imagenet-80", 10_000, "huggingface.co/datasets/vaishaal/ImageNetV2, or TFDS"
    )


def _read_cifar(
    folder: Path, *, name: str, file: str, read: Callable[[Path], tuple[np.ndarray, np.ndarray]]
) -> tuple[Examples, list[str], list[str]]:
    names = cifar_names(name)
    pictures, labels = read(folder / file)
    if labels.max() >= len(names):
        raise DatasetError(f"{folder / file}: has a label {labels.max()}, but {name} has {len(names)} classes")
    return ArrayExamples(folder / file, pictures, labels), names, names


def _read_cifar_tfds(folder: Path, *, name: str) -> tuple[Examples, list[str], list[str]]:
    names = cifar_names(name)
    return TfdsExamples(name, folder, "test", names), names, names


def _cifar(name: str, binary: str, label_bytes: int, pickled: str, entry: str) -> ClassificationSet:
    layouts: tuple[tuple[str, Reader], ...] = (
        (binary, partial(_read_cifar, name=name, file=binary, read=partial(read_binary, labels=label_bytes))),
        (pickled, partial(_read_cifar, name=name, file=pickled, read=partial(read_pickle, labels=entry))),
        (f"{name}/*/dataset_info.json", partial(_read_cifar_tfds, name=name)),
    )
    return ClassificationSet(name, layouts, "cifar-18", 10_000, "cs.toronto.edu/~kriz/cifar.html, or TFDS")


CLASSIFICATION_SETS: dict[str, ClassificationSet] = {
    entry.name: entry
    for entry in (
        ClassificationSet(
            "imagenet",
            (
                ("val/n[0-9]*/", _read_imagenet_folders),
                ("val/ILSVRC2012_val_*", _read_imagenet_flat),
                (
                    "imagenet2012/*/dataset_info.json",
                    partial(_read_imagenet_tfds, name="imagenet2012", split="validation"),
                ),
            ),
            "imagenet-80",
            50_000,
            "image-net.org, or TFDS imagenet2012",
        ),
        _imagenet_v2("imagenet-v2", "matched-frequency", "matched-frequency"),
        _imagenet_v2("imagenet-v2-threshold", "threshold0.7", "threshold-0.7"),
        _imagenet_v2("imagenet-v2-top", "top-images", "topimages"),
        _cifar("cifar10", "cifar-10-batches-bin/test_batch.bin", 1, "cifar-10-batches-py/test_batch", "labels"),
        _cifar("cifar100", "cifar-100-binary/test.bin", 2, "cifar-100-python/test", "fine_labels"),
        ClassificationSet("folder", (("", _read_folder),), "plain", None, "your own pictures"),
    )
}
