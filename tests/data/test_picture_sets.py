"""Folders of pictures with an annotation file, read for training."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flair_jax.cli import main
from flair_jax.data.pipeline import SampleSettings, load_sample
from flair_jax.data.sets.pictures import PICTURE_SETS, PictureSource, is_pictures
from flair_jax.data.sets.training import open_sets
from flair_jax.data.tokenizer import tokenize
from flair_jax.errors import DatasetError, ImageError
from flair_jax.settings import TrainSettings


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def draw(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (level, 0, 0)).save(path)


@pytest.fixture
def coco(tmp_path) -> Path:
    images = [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}]
    captions = [{"image_id": 3, "caption": "one. "}, {"image_id": 7, "caption": "two"}, {"image_id": 3, "caption": "x"}]
    write(tmp_path / "annotations/captions_train2017.json", {"images": images, "annotations": captions})
    for number, image in enumerate(images):
        draw(tmp_path / "images/train2017" / image["file_name"], number)
    return tmp_path


def test_coco(coco) -> None:
    """Each picture once, in the order of the annotations, with whole captions, though they have full stops."""
    source = PictureSource("coco-train", coco)
    assert len(source) == 2
    assert [source[number].sentences for number in range(2)] == [["one.", "x"], ["two"]]
    assert source[0].image == (coco / "images/train2017/a.jpg").read_bytes()
    assert source.where(1) == f"coco-train: {coco}/images/train2017/b.jpg"
    copy = pickle.loads(pickle.dumps(source))  # workers get it so
    assert copy[1] == source[1]


def test_flickr30k(tmp_path) -> None:
    """One row a caption, as in ALBEF's file, and a folder of another name than in it."""
    rows = [{"image": "flickr30k-images/1.jpg", "caption": text, "image_id": 0} for text in ("a dog", "a cat")]
    write(tmp_path / "flickr30k_train.json", rows)
    draw(tmp_path / "1.jpg")
    source = PictureSource("flickr30k-train", tmp_path)
    assert [record.sentences for record in map(source.__getitem__, range(len(source)))] == [["a dog", "a cat"]]


def test_karpathys_split_of_coco(tmp_path) -> None:
    """train and restval, in this order, and nothing that is tested on."""
    images = [
        {"filepath": "val2014", "filename": f"{n}.jpg", "split": split, "sentences": [{"raw": f"{split} {n}."}]}
        for n, split in enumerate(("test", "restval", "val", "train"))
    ]
    write(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    for number in range(4):
        draw(tmp_path / f"images/val2014/{number}.jpg")
    source = PictureSource("coco-karpathy-train", tmp_path)
    assert [source[number].sentences for number in range(len(source))] == [["train 3."], ["restval 1."]]


def test_docci(tmp_path) -> None:
    rows = [
        {"example_id": n, "split": n, "image_file": f"{n}.jpg", "description": "A cat. It sits."}
        for n in ("train", "test", "qual_dev")
    ]
    (tmp_path / "docci_descriptions.jsonlines").write_text("\n".join(map(json.dumps, rows)))
    draw(tmp_path / "images/train.jpg")
    source = PictureSource("docci-train", tmp_path)
    assert [source[number].sentences for number in range(len(source))] == [["A cat", "It sits"]]


@pytest.mark.parametrize(("name", "skipped"), [("sharegpt4v", 0), ("sharegpt4v-pt", 10_000)])
def test_sharegpt4v(tmp_path, name: str, skipped: int) -> None:
    """The answer of each conversation, split; of the captioner's file without the records that others test on."""
    rows = [
        {
            "id": str(number),
            "image": f"sam/images/{number}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe it."},
                {"from": "gpt", "value": f"Picture {number}. It is red.\n\nNothing else."},
            ],
        }
        for number in range(skipped + 2)
    ]
    write(tmp_path / PICTURE_SETS[name].pairs.annotations, rows)
    draw(tmp_path / f"sam/images/{skipped + 1}.jpg")
    source = PictureSource(name, tmp_path)
    assert len(source) == 2
    assert source[1].sentences == [f"Picture {skipped + 1}", "It is red", "Nothing else"]
    with pytest.raises(ImageError, match="no such picture"):
        source[0]


def test_empty_captions_are_passed_over_and_counted(tmp_path, capsys) -> None:
    """A picture that has no other caption is left out."""
    rows = [{"image": "a.jpg", "captions": ["one", "", " "]}, {"image": "b.jpg", "caption": ""}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    draw(tmp_path / "a.jpg", 1)
    draw(tmp_path / "b.jpg", 2)
    source = PictureSource("folder", tmp_path)
    assert [source[number].sentences for number in range(2)] == [["one"], []]
    assert main(["data", "check", "folder", "--data-dir", str(tmp_path), "--processes", "1"]) == 1
    printed = capsys.readouterr()
    assert "b.jpg: no caption" in printed.err
    assert "empty captions, passed over                  2\n" in printed.out


def test_a_set_of_tfds_keeps_its_name(tmp_path) -> None:
    assert is_pictures("sharegpt4v", tmp_path)
    assert not is_pictures("recaptioned/cc3m", tmp_path)
    assert not is_pictures("sharegpt4v", "gs://bucket/tfds")
    (tmp_path / "sharegpt4v/full/1.0.0").mkdir(parents=True)
    (tmp_path / "sharegpt4v/full/1.0.0/dataset_info.json").write_text("{}")
    assert not is_pictures("sharegpt4v", tmp_path)
    assert is_pictures("folder", tmp_path)


def test_a_missing_picture_is_replaced_and_named(coco, caplog) -> None:
    (coco / "images/train2017/a.jpg").unlink()
    settings = SampleSettings(seed=0, image_size=16, context_length=12, captions_per_image=3, merged_sentences=1)
    sample = load_sample(PictureSource("coco-train", coco), settings, 0, 0)
    assert sample.number == 1
    np.testing.assert_array_equal(sample.tokens, tokenize(["two"] * 3, 12))
    assert "a.jpg): no such picture" in caplog.text
    (coco / "images/train2017/b.jpg").unlink()
    (coco / "images/train2017/b.jpg").mkdir()
    with pytest.raises(
        DatasetError, match=r"2 samples from number 0 on cannot .* reason: coco-train: .*a.jpg: no such picture"
    ):
        load_sample(PictureSource("coco-train", coco), settings, 0, 0)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"[{", "cannot be read as JSON"),
        (b"[]", "holds no captions"),
        (b'[{"image": "a.jpg"}]', "record 1: `conversations` is missing"),
        (b'[{"image": "a.jpg", "conversations": [{}]}]', "record 1: conversations: `1` is missing"),
        (b'[{"image": "a.jpg", "conversations": [{}, {"value": ["a"]}]}]', "must be a str, found list"),
        (b'[{"image": 3, "conversations": [{}, {"value": "a"}]}]', "`image` must be a str, found int"),
        (b'[{"image": "a.jpg", "conversations": [{}, {"value": "\\ud83d"}]}]', "half a surrogate pair"),
    ],
)
def test_damaged_annotations(tmp_path, document: bytes, message: str) -> None:
    (tmp_path / "sharegpt4v_instruct_gpt4-vision_cap100k.json").write_bytes(document)
    with pytest.raises(DatasetError, match=message):
        PictureSource("sharegpt4v", tmp_path)
    with pytest.raises(DatasetError, match="coco-train needs exactly one annotations/captions_train2017.json"):
        PictureSource("coco-train", tmp_path)


@pytest.mark.parametrize("name", ["finetune_long", "finetune_coco", "finetune_flickr30k"])
def test_the_recipes_name_sets_that_training_opens(name: str, coco, tmp_path) -> None:
    from importlib import import_module

    settings = TrainSettings.from_config(import_module(f"flair_jax.configs.{name}").get_config())
    assert settings.data.name in PICTURE_SETS
    model = settings.model_config()
    assert model.text.context_length == (248 if name == "finetune_long" else 77)
    assert settings.packing.row_tokens >= model.text.context_length
    if name == "finetune_coco":
        config = import_module(f"flair_jax.configs.{name}").get_config()
        config.data.dir = str(coco)
        (source,) = open_sets(TrainSettings.from_config(config).data)
        assert len(source) == 2


def test_stats_and_check(coco, capsys) -> None:
    (coco / "images/train2017/a.jpg").write_bytes(b"no picture")
    arguments = ["coco-train", "--data-dir", str(coco), "--processes", "1"]
    assert main(["data", "check", *arguments]) == 1
    printed = capsys.readouterr()
    assert "a.jpg" in printed.err
    assert "  249 and more" in printed.out
