"""A plain CLIP, converted and scored by its global features alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from labelled import write_folders

import flair_jax
from flair_jax.cli import main
from flair_jax.data.sets.retrieval import find_retrieval_set
from flair_jax.models.config import FlairConfig
from flair_jax.models.description import config_to_json
from flair_jax.models.normalize import normalize

torch = pytest.importorskip("torch")

from made_clip import clip_tensors
from made_segmentation import make_voc

from flair_jax.convert.torch_forward import TorchFlair
from flair_jax.weights.param_map import complete, towers_of_clip

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def config(small_config) -> FlairConfig:
    vision = dataclasses.replace(small_config.vision, image_mean=MEAN, image_std=STD, resize_mode="squash")
    return dataclasses.replace(small_config, vision=vision, quick_gelu=True)


@pytest.fixture(scope="module")
def clip(config, tmp_path_factory) -> Path:
    """Of the form of open_clip's repositories, prepared with other means and squashed pictures; converted."""
    folder = tmp_path_factory.mktemp("clip")
    model = {name: value for name, value in config_to_json(config).items() if name != "pooling_heads"}
    preparation = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    description = {"model_cfg": model, "preprocess_cfg": preparation}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    safetensors.numpy.save_file(clip_tensors(config), folder / "open_clip_model.safetensors")
    assert not main(["convert", str(folder), str(folder / "converted")])
    return folder / "converted"


def test_its_recalls_are_those_of_its_features_in_torch(clip, config, photographs, tmp_path, capsys) -> None:
    """By PyTorch's own arithmetic, and a ranking written out here: exactly, as no scores are near each other."""
    output = tmp_path / "coco.json"
    common = ["--checkpoint", str(clip), "--dataset", "coco", "--data-dir", str(photographs)]
    assert not main(["evaluate", *common, "--mode", "global", "--output", str(output)])
    (result,) = json.loads(output.read_text())["results"]

    data = find_retrieval_set("coco").load(photographs)
    tensors = complete(towers_of_clip(clip_tensors(config)), config)
    reference = TorchFlair({name: torch.from_numpy(np.array(each)) for name, each in tensors.items()}, config)
    pixels = np.stack([flair_jax.preprocess(path, config.vision) for path in data.images])
    images = np.asarray(normalize(pixels, MEAN, STD)).transpose(0, 3, 1, 2).copy()
    with torch.no_grad():
        image, _ = reference.encode_image(torch.from_numpy(images))
        text = reference.encode_text(torch.from_numpy(np.asarray(flair_jax.tokenize(data.texts))).long())
    scores = (torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T).numpy()
    own = data.image_of_text
    rank_of_image = [(scores[:, number] > scores[own[number], number]).sum() for number in range(len(own))]
    rank_of_text = [
        min((scores[number] > scores[number, text]).sum() for text in np.flatnonzero(own == number))
        for number in range(len(data.images))
    ]
    for name, ranks in (("text_to_image", rank_of_image), ("image_to_text", rank_of_text)):
        assert result["metrics"][f"{name}_R@1"] == pytest.approx(np.mean([rank < 1 for rank in ranks]))
        assert result["metrics"][f"{name}_mean_rank"] == pytest.approx(1 + np.mean(ranks))


def test_it_classifies_globally(clip, tmp_path) -> None:
    write_folders(tmp_path / "set", ("red", "blue"), each=2)
    common = [
        "--task",
        "classify",
        "--checkpoint",
        str(clip),
        "--dataset",
        "folder",
        "--data-dir",
        str(tmp_path / "set"),
    ]
    assert not main(["evaluate", *common, "--mode", "global"])


def test_its_random_pooling_is_not_scored(clip, photographs, tmp_path, capsys) -> None:
    common = ["--checkpoint", str(clip), "--dataset", "coco", "--data-dir", str(photographs)]
    make_voc(tmp_path / "voc" / "VOC2012", [0, 1, 15, 255])
    voc = ["--dataset", "voc20", "--data-dir", str(tmp_path / "voc")]
    picture = str(photographs / "images" / "val2017" / "chelsea.png")
    for command in (
        ["evaluate", *common],
        ["evaluate", *common, "--mode", "top-k"],
        ["evaluate", "--task", "segment", *voc, "--checkpoint", str(clip), "--segment-by", "pooled-patches"],
        ["attend", picture, "a cat", "--checkpoint", str(clip), "--output", str(tmp_path / "maps")],
    ):
        assert main(command) == 2
        assert "has the towers of a CLIP; the pooling is random and must be trained: " in capsys.readouterr().err
    assert not main(["index", str(photographs), "--checkpoint", str(clip), "--output", str(tmp_path / "index")])
    assert main(["search", str(tmp_path / "index"), "a cat"]) == 2
    assert "search re-ranks with it, so train it first" in capsys.readouterr().err
