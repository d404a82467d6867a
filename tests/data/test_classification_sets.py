"""Every set in every layout, read as users have it, and every way in which it can be wrong."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from labelled import (
    COLOURS,
    png,
    random_cifar,
    write_binary,
    write_folders,
    write_python2_pickle,
    write_tfds,
)

from flair_jax.data.image import open_rgb
from flair_jax.data.sets.classification import CLASSIFICATION_SETS
from flair_jax.data.sets.prompts import cifar_names, imagenet_names
from flair_jax.errors import DatasetError


def load(name: str, folder: Path, class_names: Path | None = None):
    return CLASSIFICATION_SETS[name].load(folder, class_names)


def labels(data) -> list[int]:
    return [data.examples[number].label for number in range(len(data.examples))]


def pixels(data) -> np.ndarray:
    return np.stack([np.asarray(open_rgb(data.examples[number].picture)) for number in range(len(data.examples))])


def test_folder(tmp_path) -> None:
    write_folders(tmp_path, ("red", "sea_green", "blue"))
    (tmp_path / "blue" / "more").mkdir()
    shutil.copy(tmp_path / "blue" / "2-0.png", tmp_path / "blue" / "more" / "x.PNG")
    (tmp_path / "blue" / "notes.txt").write_text("not a picture")
    (tmp_path / ".cache").mkdir()
    data = load("folder", tmp_path)
    assert data.keys == ["blue", "red", "sea_green"]
    assert data.names == ["blue", "red", "sea green"]
    assert labels(data) == [0] * 4 + [1] * 3 + [2] * 3
    assert data.examples[3].where == str(tmp_path / "blue" / "more" / "x.PNG")
    assert data.templates == ("a photo of a {}.",)
    assert data.whole is None


def test_what_is_no_picture_is_passed_over_and_counted(tmp_path, caplog) -> None:
    write_folders(tmp_path, ("red", "blue"))
    data = load("folder", tmp_path)
    assert not caplog.records
    for junk in (".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png"):
        (tmp_path / "red" / junk).parent.mkdir()
        (tmp_path / "red" / junk).touch()
    for junk in ("._0.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "blue" / junk).touch()
    (tmp_path / "outside.png").touch()
    (tmp_path / "__MACOSX").mkdir()
    os.mkfifo(tmp_path / "red" / "pipe.png")
    (tmp_path / "red" / "loop").symlink_to(tmp_path / "red")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert load("folder", tmp_path).digest() == data.digest()
    assert "passes over 1 picture outside of the class folders" in caplog.text
    assert "passes over 7 hidden files, links to folders or files not named as pictures" in caplog.text
    (tmp_path / "red" / "gone.jfif").symlink_to("nothing")
    assert len(load("folder", tmp_path).examples) == len(data.examples) + 1  # reading it says what is missing
    (tmp_path / "empty" / ".cache").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"1 class folder without a picture: empty; fill or remove them"):
        load("folder", tmp_path)


def test_a_folder_of_synsets_has_imagenets_names(tmp_path) -> None:
    write_folders(tmp_path, ("n01443537", "n01440764"))
    assert load("folder", tmp_path).names == ["tench", "goldfish"]


def test_names_from_a_file(tmp_path) -> None:
    write_folders(tmp_path / "data")
    (tmp_path / "names.txt").write_text("azure\nlime\ncrimson\n")
    data = load("folder", tmp_path / "data", tmp_path / "names.txt")
    assert data.keys == sorted(COLOURS)
    assert data.names == ["azure", "lime", "crimson"]
    assert data.digest() != load("folder", tmp_path / "data").digest()


@pytest.mark.parametrize("layout", ["binary", "python", "tfds"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path, name: str, layout: str) -> None:
    names = cifar_names(name)
    pictures, expected = random_cifar(6, len(names))
    fine = name == "cifar100"
    if layout == "binary":
        file = "cifar-100-binary/test.bin" if fine else "cifar-10-batches-bin/test_batch.bin"
        write_binary(tmp_path / file, pictures, expected, coarse=fine)
    elif layout == "python":
        file = "cifar-100-python/test" if fine else "cifar-10-batches-py/test_batch"
        write_python2_pickle(tmp_path / file, pictures, expected, "fine_labels" if fine else "labels")
        with (tmp_path / file).open("rb") as stream:  # the file is a real one: Python's own reader gives the same
            content = pickle.load(stream, encoding="bytes")
        np.testing.assert_array_equal(content[b"data"], pictures.transpose(0, 3, 1, 2).reshape(6, -1))
    else:
        stored = [each.replace(" ", "_") for each in names]
        write_tfds(tmp_path, name, "test", [png(each) for each in pictures], expected.tolist(), stored)
    data = load(name, tmp_path)
    assert labels(data) == expected.tolist()
    np.testing.assert_array_equal(pixels(data), pictures)
    assert data.names == names
    assert (len(data.templates), data.whole) == (18, 10_000)
    assert load(name, tmp_path).digest() == data.digest()


def test_the_digest_sees_other_labels(tmp_path) -> None:
    pictures, expected = random_cifar(6, 10)
    write_binary(tmp_path / "a" / "cifar-10-batches-bin" / "test_batch.bin", pictures, expected)
    write_binary(tmp_path / "b" / "cifar-10-batches-bin" / "test_batch.bin", pictures, (expected + 1) % 10)
    assert load("cifar10", tmp_path / "a").digest() != load("cifar10", tmp_path / "b").digest()


class Malicious:
    """Runs a command when a plain unpickler reads it."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({b"data": Malicious(), b"labels": [1]}), "it asks for posix.system"),
        (pickle.dumps({b"labels": [1]}), "is not as CIFAR's Python version has it"),
        (b"no pickle", "is not as CIFAR's Python version has it"),
        (b"", "is not as CIFAR's Python version has it"),
    ],
)
def test_nothing_in_a_pickle_is_run(tmp_path, monkeypatch, content: bytes, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(DatasetError) as error:
        load("cifar10", tmp_path)
    assert message in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_with_fewer_labels_than_pictures(tmp_path) -> None:
    pictures, expected = random_cifar(6, 10)
    write_python2_pickle(tmp_path / "cifar-10-batches-py" / "test_batch", pictures, expected[:5], "labels")
    with pytest.raises(DatasetError, match="5 labels for 6 pictures"):
        load("cifar10", tmp_path)


def test_a_binary_file_cut_short(tmp_path) -> None:
    file = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    write_binary(file, *random_cifar(6, 10))
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DatasetError, match="18,437 bytes are not whole rows of 3073; unpack it again"):
        load("cifar10", tmp_path)


def test_a_label_that_is_no_class(tmp_path) -> None:
    pictures, expected = random_cifar(6, 10)
    write_binary(tmp_path / "cifar-10-batches-bin" / "test_batch.bin", pictures, expected + 10)
    with pytest.raises(DatasetError, match=r"has a label 1\d, but cifar10 has 10 classes"):
        load("cifar10", tmp_path)


def test_imagenet_in_class_folders(tmp_path) -> None:
    write_folders(tmp_path / "val", imagenet_names(), each=1, suffix=".JPEG")
    (tmp_path / "train").mkdir()
    data = load("imagenet", tmp_path)
    assert labels(data) == list(range(1000))
    assert (data.keys[1], data.names[1], len(data.templates), data.whole) == ("n01443537", "goldfish", 80, 50_000)
    shutil.rmtree(tmp_path / "val" / "n01440764")
    with pytest.raises(DatasetError, match=r"999 class folders, not ImageNet's 1,000 .* use the set `folder`"):
        load("imagenet", tmp_path)


def test_imagenet_as_its_tar_holds_it(tmp_path, caplog) -> None:
    """The first picture shows a sea snake, the second an alp, the third a Shetland sheepdog."""
    (tmp_path / "val").mkdir()
    for number in (3, 1, 2):
        (tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").touch()
    (tmp_path / "val" / "ILSVRC2012_val_00050001.JPEG").touch()
    data = load("imagenet", tmp_path)
    assert [data.keys[label] for label in labels(data)] == ["n01751748", "n09193705", "n02105855"]
    assert [data.names[label] for label in labels(data)] == ["sea snake", "mountain", "Shetland Sheepdog"]
    assert labels(data) == [65, 970, 230]
    assert "passes over 1 file not of ImageNet" in caplog.text


def test_imagenet_from_tfds(tmp_path) -> None:
    pictures = [png(each) for each in random_cifar(3, 1)[0]]
    write_tfds(tmp_path, "imagenet2012", "validation", pictures, [999, 0, 7], list(imagenet_names()))
    data = load("imagenet", tmp_path)
    assert labels(data) == [999, 0, 7]
    assert data.examples[1].picture == pictures[1]
    assert data.examples[1].where == f"{tmp_path / 'imagenet2012'}, validation, record 1"


@pytest.mark.parametrize(
    ("name", "variant", "config"),
    [
        ("imagenet-v2", "matched-frequency", "matched-frequency"),
        ("imagenet-v2-threshold", "threshold0.7", "threshold-0.7"),
        ("imagenet-v2-top", "top-images", "topimages"),
    ],
)
def test_imagenet_v2(tmp_path, caplog, name: str, variant: str, config: str) -> None:
    """Folder 10 is class 10, though it comes second in the order of names; the pictures are not opened."""
    root = tmp_path / f"imagenetv2-{variant}-format-val"
    for number in range(1000):
        (root / str(number)).mkdir(parents=True)
        (root / str(number) / f"{999 - number:040x}.jpeg").touch()
    data = load(name, tmp_path)
    assert labels(data) == list(range(1000))
    assert data.examples[10].where == str(root / "10" / f"{989:040x}.jpeg")
    assert (data.keys[1], data.names[1], len(data.templates), data.whole) == ("n01443537", "goldfish", 80, 10_000)
    assert not caplog.records
    (root / "1000").mkdir()
    (root / "7" / "notes.txt").touch()
    assert load(name, tmp_path).digest() == data.digest()
    assert "passes over 2 entries not of the set" in caplog.text
    (root / "7" / f"{992:040x}.jpeg").unlink()
    shutil.rmtree(root / "10")
    with pytest.raises(DatasetError, match="2 of the class folders 0 to 999 are missing or without a picture.* 7, 10;"):
        load(name, tmp_path)
    shutil.rmtree(root)
    pictures = [png(each) for each in random_cifar(2, 1)[0]]
    write_tfds(tmp_path / "imagenet_v2", config, "test", pictures, [999, 7], list(imagenet_names()))
    assert labels(load(name, tmp_path)) == [999, 7]


def test_tfds_with_other_labels(tmp_path) -> None:
    names = cifar_names("cifar10")[::-1]
    write_tfds(tmp_path, "cifar10", "test", [png(random_cifar(1, 1)[0][0])], [0], names)
    with pytest.raises(DatasetError, match="its labels are not those of cifar10; prepare it again"):
        load("cifar10", tmp_path)


def test_tfds_that_cannot_be_read_by_number(tmp_path) -> None:
    write_tfds(tmp_path, "cifar10", "test", [png(random_cifar(1, 1)[0][0])], [0], cifar_names("cifar10"))
    info = next(tmp_path.glob("cifar10/*/dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DatasetError, match="cifar10 is stored in a format that cannot be read by number; prepare it"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet", r"imagenet needs one of val/n\[0-9\]\*/, val/ILSVRC2012_val_\*, imagenet2012/"),
        (
            "cifar10",
            "cifar10 needs one of cifar-10-batches-bin/test_batch.bin, cifar-10-batches-py/test_batch, cifar10/",
        ),
        ("folder", r"needs a folder for each class with pictures in it, found 1 folder"),
    ],
)
def test_a_folder_without_the_set(tmp_path, name: str, message: str) -> None:
    (tmp_path / "something").mkdir()
    with pytest.raises(DatasetError, match=message):
        load(name, tmp_path)
    with pytest.raises(DatasetError, match=f"gone: no such folder; it must be {name}'s"):
        load(name, tmp_path / "gone")
