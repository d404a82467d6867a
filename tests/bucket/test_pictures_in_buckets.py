"""Pictures and annotations in buckets, as evaluations and indexes read them."""

import json
from pathlib import Path

import jax
import pytest
from labelled import write_folders
from made_choices import make_sugarcrepe
from made_grounding import make_folder
from made_parquet import write_parquet
from made_segmentation import make_voc, write_picture
from own_bucket import Bucket
from photographs import write_photographs

from flair_jax import buckets, checkpoint
from flair_jax.cli import main
from flair_jax.files import expand
from flair_jax.models.config import FlairConfig, TextConfig, VisionConfig
from flair_jax.models.flair import Flair

pytestmark = pytest.mark.bucket


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    """A checkpoint on a disk."""
    vision = VisionConfig(image_size=32, patch_size=16, width=24, layers=1, head_width=8)
    model = Flair(FlairConfig(16, vision, TextConfig(context_length=16, width=16, heads=2, layers=1)))
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    checkpoint.save(folder, model, model.init(jax.random.key(0)), {})
    return str(folder)


def write_rows(folder: Path) -> None:
    """Two pictures in a parquet file."""
    pictures = []
    for seed in range(2):
        write_picture(folder / "a.png", seed=seed)
        pictures.append({"bytes": (folder / "a.png").read_bytes(), "path": None})
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", pictures, ["a cat", "a dog"])


# A set of each task, and what writes it into a folder.
SETS = {
    ("retrieval", "coco"): write_photographs,
    ("retrieval", "parquet"): write_rows,
    ("classify", "folder"): write_folders,
    ("segment", "voc20"): lambda folder: make_voc(folder, [0, 1, 2, 255]),
    ("point", "folder"): make_folder,
    ("choose", "sugarcrepe"): make_sugarcrepe,
}


def metrics(words: list[str], data: object, output: Path) -> object:
    assert main(["evaluate", *words, "--data-dir", str(data), "--output", str(output)]) == 0
    (result,) = json.loads(output.read_text())["results"]
    return result["metrics"]


@pytest.mark.parametrize(("task", "name"), SETS)
def test_evaluations_are_those_from_a_disk(task: str, name: str, bucket: Bucket, small, tmp_path) -> None:
    (tmp_path / "set").mkdir()
    SETS[task, name](tmp_path / "set")
    words = ["--checkpoint", small, "--task", task, "--dataset", name]
    expected = metrics(words, tmp_path / "set", tmp_path / "disk.json")
    buckets.upload(tmp_path / "set", expand(f"{bucket.url}/{task}-{name}"))
    assert metrics(words, f"{bucket.url}/{task}-{name}", tmp_path / "bucket.json") == expected


def test_an_index_follows_a_folder(bucket: Bucket, small, tmp_path, capsys) -> None:
    write_folders(tmp_path / "pictures", each=2)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    folder = expand(f"{bucket.url}/pictures")
    buckets.upload(tmp_path / "pictures", folder)
    words = ["index", str(folder), "--checkpoint", small, "--output", str(tmp_path / "index")]
    assert main(words) == 0
    assert "6 pictures, 6 embedded now, 0 dropped" in capsys.readouterr().out
    buckets.upload(tmp_path / "pictures" / "red" / "0-0.png", folder / "blue" / "2-1.png")
    (folder / "red" / "0-1.png").unlink()
    assert main(words) == 0
    assert "5 pictures, 1 embedded now, 2 dropped (gone or changed)" in capsys.readouterr().out
    words = ["search", str(tmp_path / "index"), "red", "--checkpoint", small, "--html", str(tmp_path / "a.html")]
    assert main(words) == 0
    assert f"{folder}/red/0-0.png" in capsys.readouterr().out


def test_what_is_missing_is_named(bucket: Bucket, small, tmp_path, capsys) -> None:
    """A picture, and a folder."""
    folder = expand(f"{bucket.url}/incomplete")
    (folder / "a.jsonl").write_text(json.dumps({"image": "gone.png", "caption": "something"}))
    words = ["evaluate", "--checkpoint", small, "--dataset", "folder", "--data-dir"]
    assert main([*words, str(folder)]) == 2
    assert f"{folder}/gone.png: no such picture" in capsys.readouterr().err
    assert main([*words, f"{bucket.url}/none"]) == 2
    assert f"{bucket.url}/none: no such folder" in capsys.readouterr().err
