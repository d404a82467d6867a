"""`flair-jax evaluate --task classify`, as users call it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from killed import run_killed
from labelled import COLOURS, png, random_cifar, write_binary, write_folders, write_tfds

from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.data.sets.prompts import cifar_names
from flair_jax.evaluate.classification import ClassificationSettings
from flair_jax.evaluate.classification_task import MEASURED_BY_OTHERS, table
from flair_jax.evaluate.report import reported
from flair_jax.scoring.scorer import Retriever


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    write_folders(root, (*COLOURS, "sea_green", "teal", "maroon", "sunglasses"), each=3)
    return root


def evaluate(checkpoint: Path, *arguments: object) -> int:
    return main(["evaluate", "--task", "classify", "--checkpoint", str(checkpoint), *map(str, arguments)])


def test_the_command(small_checkpoint, folders, tmp_path, capsys) -> None:
    (tmp_path / "templates.txt").write_text("{}\na photo of a {}.\n")
    output = tmp_path / "folder.json"
    common = ("--dataset", "folder", "--data-dir", folders, "--output", output)
    assert not evaluate(small_checkpoint, *common, "--templates", tmp_path / "templates.txt")
    document = json.loads(output.read_text())
    (result,) = document["results"]
    assert set(result["metrics"]) == {"top1", "top5", "mean_per_class_top1"}
    assert result["templates"] == ["{}", "a photo of a {}."]
    assert (result["images"], result["images_of_whole_set"], result["skipped"]) == (21, None, [])
    assert result["cut_off"]["texts_share"] == 0
    assert set(result["ties"]["share"]) == {"class"}
    assert document["settings"]["mode"] == "text-conditioned"
    assert document["settings"]["source"]["file"] == "small.safetensors"
    assert document["versions"]["jax"]
    assert len(result["classes"]) == 7
    printed = capsys.readouterr().out
    assert "classification, text-conditioned (top-k in per cent)" in printed
    assert "folder, worst classes" in printed
    assert "by others" not in printed
    assert not list(tmp_path.glob("*.partial*"))


def test_the_table_shows_the_worst_classes_first() -> None:
    def each(name: str, pictures: int, top1: float | None, taken_for: str | None = None) -> dict:
        return {"name": name, "pictures": pictures, "top1": top1, "taken_for": taken_for}

    entry = {
        "dataset": "folder",
        "images": 1500,
        "images_of_whole_set": 2000,
        "templates": ["{}"],
        "metrics": {"top1": 0.5, "top5": 0.75, "mean_per_class_top1": 0.51234},
        "ties": {"share": {"class": 0.02}, "ties_for": {"top1": 0.51}, "ties_against": {}},
        "cut_off": {"context_length": 77, "texts": 1, "texts_share": 0.25, "tokens_share": 0.05},
        "measured_by_others_top1_percent": None,
        "classes": [each("a", 10, 0.5, "b"), each("b", 10, 1.0), each("c", 0, None), each("d", 4, 0.25, "a")],
    }
    assert table([entry], ClassificationSettings("global")).splitlines() == [
        "classification, global (top-k in per cent)",
        "set                 images  classes  templates  top-1  top-5  mean per class",
        "folder      1,500 of 2,000        4          1  50.00  75.00           51.23",
        "  ties for                                      51.00                       ",
        "folder: 25.0 % of the texts are longer than the model's 77 tokens; 5.0 % of all tokens are cut off",
        "warning: folder: equal scores decide 2.0 % (class) of the ranks, by their order in the set; trust the figures "
        "no further than what ties make of them",
        "",
        "folder, worst classes  images  top-1  most often taken for",
        "d                           4  25.00                     a",
        "a                          10  50.00                     b",
    ]
    assert len(table([{**entry, "classes": [each("b", 10, 1.0)]}], ClassificationSettings("global")).splitlines()) == 6


def test_names_from_a_file_are_used(small_checkpoint, folders, tmp_path) -> None:
    names = {folder.name: f"thing {number}" for number, folder in enumerate(sorted(folders.iterdir()))}
    (tmp_path / "names.json").write_text(json.dumps(names))
    common = ("--dataset", "folder", "--data-dir", folders, "--output", tmp_path / "x.json")
    assert not evaluate(small_checkpoint, *common, "--class-names", tmp_path / "names.json", "--mode", "global")
    document = json.loads((tmp_path / "x.json").read_text())
    assert {each["key"]: each["name"] for each in document["results"][0]["classes"]} == names
    assert document["settings"]["class_names"] == str(tmp_path / "names.json")


def write_cifar10(root: Path, picture: bytes | None = None) -> None:
    pictures = [png(each) for each in random_cifar(5, 10)[0]]
    if picture is not None:
        pictures[3] = picture
    write_tfds(root, "cifar10", "test", pictures, [0, 1, 2, 3, 3], cifar_names("cifar10"))


def test_what_others_measured_stands_beside_a_released_checkpoint(small_model, tmp_path, capsys) -> None:
    """And a set that is not whole is shown as such."""
    write_cifar10(tmp_path)
    checkpoint.save(tmp_path / "merged", *small_model, {"file": "flair-merged30m.pt"})
    common = ("--dataset", "cifar10", "--data-dir", tmp_path, "--templates", "cifar-9")
    assert not evaluate(tmp_path / "merged", *common)
    printed = capsys.readouterr().out
    assert "by others (9 templates)" in printed
    assert "92.82" in printed
    assert "5 of 10,000" in printed
    assert (
        reported(MEASURED_BY_OTHERS, {"file": "x/flair-merged30m.safetensors"}, "cifar10", "text-conditioned") == 92.82
    )
    for file, dataset, mode, number in (
        ("x/flair-merged30m.safetensors", "cifar10", "text-conditioned", 92.82),
        ("flair-merged30m.pt", "cifar10", "global", None),
        ("flair-merged30m.pt", "cifar100", "text-conditioned", None),
        ("flair-cc3m-recap.pt", "cifar10", "text-conditioned", None),
    ):
        assert reported(MEASURED_BY_OTHERS, {"file": file}, dataset, mode) == number


def test_all_runs_what_it_finds(small_checkpoint, tmp_path) -> None:
    """But not folders of folders, which may be anything."""
    write_binary(tmp_path / "a" / "cifar-10-batches-bin" / "test_batch.bin", *random_cifar(5, 10))
    write_binary(tmp_path / "b" / "cifar-100-binary" / "test.bin", *random_cifar(5, 100), coarse=True)
    write_folders(tmp_path / "c")
    output = tmp_path / "all.json"
    common = ("--dataset", "all", "--data-dir", tmp_path, "--templates", "plain", "--output", output)
    assert not evaluate(small_checkpoint, *common)
    results = json.loads(output.read_text())["results"]
    assert [(each["dataset"], each["images"], len(each["classes"])) for each in results] == [
        ("cifar10", 5, 10),
        ("cifar100", 5, 100),
    ]


def test_broken_pictures(small_checkpoint, folders, tmp_path, capsys) -> None:
    root, output = tmp_path / "folders", tmp_path / "x.json"
    shutil.copytree(folders, root)
    (root / "red" / "0-1.png").write_bytes((root / "red" / "0-1.png").read_bytes()[:300])
    common = ("--dataset", "folder", "--data-dir", root, "--batch-size", 4, "--output", output)
    assert evaluate(small_checkpoint, *common) == 2
    message = capsys.readouterr().err
    assert "1 of 21 pictures cannot be read; mend them, or pass --skip-broken" in message
    assert f"{root / 'red' / '0-1.png'}: cannot be read as a picture" in message
    assert not output.exists()
    assert not evaluate(small_checkpoint, *common, "--skip-broken")
    (result,) = json.loads(output.read_text())["results"]
    assert result["images"] == 20
    assert len(result["skipped"]) == 1
    assert {each["key"]: each["pictures"] for each in result["classes"]}["red"] == 2


def test_a_broken_record_is_named(small_checkpoint, tmp_path, capsys) -> None:
    write_cifar10(tmp_path, picture=png(random_cifar(1, 1)[0][0])[:200])
    assert evaluate(small_checkpoint, "--dataset", "cifar10", "--data-dir", tmp_path) == 2
    assert f"{tmp_path / 'cifar10'}, test, record 3: cannot be read as a picture" in capsys.readouterr().err


def test_a_killed_run_resumes_where_it_was(small_checkpoint, folders, tmp_path, monkeypatch) -> None:
    common = ("--dataset", "folder", "--data-dir", folders, "--batch-size", 4, "--output")
    assert not evaluate(small_checkpoint, *common, tmp_path / "whole.json")
    words = ["evaluate", "--task", "classify", "--checkpoint", small_checkpoint, *common, tmp_path / "killed.json"]
    run_killed(Retriever, "score_all", 3, *words)
    assert (tmp_path / "killed.json.partial").is_dir()
    assert not (tmp_path / "killed.json").exists()

    calls = []
    encode = Retriever.encode_images

    def count(self, *arguments, **options):
        calls.append(1)
        return encode(self, *arguments, **options)

    def never(*_, **__):
        raise AssertionError("the classes were embedded already")

    monkeypatch.setattr(Retriever, "encode_images", count)
    monkeypatch.setattr(Retriever, "encode_texts", never)
    assert not evaluate(small_checkpoint, *common, tmp_path / "killed.json")
    assert len(calls) == 6 - 2, "two of the blocks of 4 among 21 pictures were there"
    first, second = (json.loads((tmp_path / name).read_text())["results"][0] for name in ("whole.json", "killed.json"))
    assert (first["metrics"], first["classes"]) == (second["metrics"], second["classes"])
    assert not (tmp_path / "killed.json.partial").exists()


def test_one_class_leaves_nothing_to_choose(small_checkpoint, tmp_path, capsys) -> None:
    write_folders(tmp_path / "above", tuple(COLOURS)[:1], each=3)
    for names in ([], ["--class-names", str(tmp_path / "names")]):
        (tmp_path / "names").write_text("anything\n")
        common = ("--dataset", "folder", "--data-dir", tmp_path / "above", "--output", tmp_path / "out.json")
        assert evaluate(small_checkpoint, *common, *names) == 2
        assert "above: all pictures are of one class, " in capsys.readouterr().err
        assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "imagenet-1k"], "dataset imagenet-1k: no such set; did you mean imagenet or imagenet-v2"),
        (["--dataset", "coco"], "dataset coco: no such set; choose from imagenet, imagenet-v2, "),
        (
            ["--dataset", "folder", "--mode", "top-k"],
            "--mode top-k is not for --task classify; choose text-conditioned",
        ),
        (
            ["--dataset", "folder", "--top-k", "5"],
            "--top-k: is for --task retrieval only, not for classify",
        ),
        (["--dataset", "folder", "--templates", "gone"], "templates gone: no such file"),
        (["--dataset", "folder", "--templates", ""], "templates : no such file"),
        (
            ["--dataset", "folder", "--task", "retrieval", "--templates", "{}"],
            "--templates: is for --task classify, segment only, not for retrieval",
        ),
        (
            ["--dataset", "folder", "--task", "retrieval", "--class-names", "x"],
            "--class-names: is for --task classify, segment only, not for retrieval",
        ),
        (["--dataset", "folder"], "gone: no checkpoint here"),
        (["--dataset", "all"], "no set found there or right below"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], message: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate(Path("gone"), "--data-dir", ".", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("flair-jax: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not os.listdir(tmp_path)
