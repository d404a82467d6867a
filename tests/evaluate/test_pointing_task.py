"""`flair-jax evaluate --task point`, from files to a table and a JSON file, with a small model of 2 x 2 patches."""

import json
from pathlib import Path

import pytest
from killed import run_killed
from made_grounding import CODE, make_entities, make_folder, make_mdetr

from flair_jax.cli import main
from flair_jax.data.sets.grounding_data import GroundingData
from flair_jax.evaluate import tasks
from flair_jax.evaluate.pointing import BASELINES, METRICS
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.maps import MAPS
from flair_jax.scoring.scorer import Retriever

MEASURED = (*MAPS, *BASELINES)


@pytest.fixture(scope="module")
def retriever(small_model) -> Retriever:
    """One for all tests, so that each shape is compiled once."""
    return Retriever(*small_model)


@pytest.fixture
def compiled(retriever, monkeypatch) -> None:
    """The command with what is compiled already."""
    monkeypatch.setattr(tasks, "Retriever", lambda *_: retriever)


def evaluate(checkpoint: Path, *arguments: object) -> int:
    common = ["evaluate", "--task", "point", "--checkpoint", str(checkpoint), "--batch-size", "8"]
    return main([*common, *map(str, arguments)])


def test_from_a_folder_to_a_table_and_a_file(compiled, small_checkpoint, tmp_path, capsys) -> None:
    make_entities(tmp_path / "data")
    output = tmp_path / "out.json"
    common = ("--dataset", "flickr30k-entities-test", "--data-dir", tmp_path / "data", "--output", output)
    assert not evaluate(small_checkpoint, *common)
    printed = capsys.readouterr().out
    document = json.loads(output.read_text())
    (result,) = document["results"]
    assert tuple(result["metrics"]) == MEASURED
    rows = [line.split() for line in printed.splitlines() if any(f" {name} " in line for name in MEASURED)][:5]
    for row, name in zip(rows, MEASURED, strict=True):
        assert row[-5:] == [name, *(f"{100 * result['metrics'][name][metric]:.1f}" for metric in METRICS)]
    assert rows[0][:5] == ["flickr30k-entities-test", "2", "of", "1,000", "6"]
    assert (
        "a patch counts of which 25 % are covered; maps are cut at 0.5 of their range; boxes match from an IoU of 0.5"
        in (printed)
    )
    assert result["thresholds"] == {"covered": 0.25, "chosen": 0.5, "matching": 0.5}
    assert "flickr30k-entities-test: 6 phrases with boxes\n" in printed
    assert "not judged: 2 more phrases (nothing that is seen)" in printed
    assert "not judged: 4 more phrases (no box: the whole scene, or not in the picture)" in printed
    assert "0.0 % of the texts are longer than the model's 77 tokens" in printed
    kinds = printed[printed.index("pointing by kind") :].splitlines()
    assert [line.split()[:2] for line in kinds[1:4]] == [["people", "4"], ["clothing", "2"], ["other", "2"]]
    assert not (tmp_path / "out.json.partial").exists()


def test_what_has_outlines_and_what_is_too_small_is_said(compiled, small_checkpoint, tmp_path, capsys) -> None:
    make_folder(tmp_path, segmentation=CODE | {"counts": [0, 1, 31]})
    assert not evaluate(small_checkpoint, "--dataset", "folder", "--data-dir", tmp_path)
    printed = capsys.readouterr().out
    assert "folder: 2 phrases with outlines\n" in printed
    assert "folder: counted as missed: 2 phrases for what covers 25 % of no patch, so that no map points at" in printed
    assert "by kind" not in printed


def test_all_finds_every_set(compiled, small_checkpoint, tmp_path, capsys) -> None:
    make_entities(tmp_path / "flickr")
    make_mdetr(tmp_path / "coco", "refcoco+", "testB")
    make_folder(tmp_path / "own")
    output = tmp_path / "all.json"
    assert not evaluate(small_checkpoint, "--dataset", "all", "--data-dir", tmp_path, "--output", output)
    found = {each["dataset"]: each["images"] for each in json.loads(output.read_text())["results"]}
    assert found == {"flickr30k-entities-val": 1, "flickr30k-entities-test": 2, "refcoco+-testB": 1, "folder": 1}


def test_a_killed_run_resumes_where_it_was(compiled, small_checkpoint, tmp_path, monkeypatch) -> None:
    make_entities(tmp_path / "data")
    common = ("--dataset", "flickr30k-entities-test", "--data-dir", tmp_path / "data", "--batch-size", 1, "--output")
    words = ["evaluate", "--task", "point", "--checkpoint", small_checkpoint]
    output = tmp_path / "killed.json"
    run_killed(BlockStore, "put", 3, *words, *common, output)  # the texts, the first picture, and not the second
    assert not output.exists()
    read = []
    read_one = GroundingData.read
    monkeypatch.setattr(GroundingData, "read", lambda self, number: read.append(number) or read_one(self, number))
    assert not main([str(word) for word in (*words, *common, output)])
    assert read == [1], "the first picture is not read again"
    assert not main([str(word) for word in (*words, *common, tmp_path / "whole.json")])
    first, second = (json.loads((tmp_path / name).read_text())["results"][0] for name in ("killed.json", "whole.json"))
    assert first["metrics"] == second["metrics"]
    assert first["kinds"] == second["kinds"]


def test_broken_pictures_are_listed_and_fail_or_are_left_out(compiled, small_checkpoint, tmp_path, capsys) -> None:
    make_entities(tmp_path)
    (tmp_path / "flickr30k-images/20.jpg").write_bytes(b"no picture")
    common = ("--dataset", "flickr30k-entities-test", "--data-dir", tmp_path, "--output", tmp_path / "out.json")
    assert evaluate(small_checkpoint, *common) == 2
    assert "1 of 2 pictures cannot be read; mend them, or pass --skip-broken" in capsys.readouterr().err
    assert not evaluate(small_checkpoint, *common, "--skip-broken")
    assert "left out 1 broken picture:" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert (result["images"], result["phrases"], len(result["skipped"])) == (1, 3, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "refcoco"), "dataset refcoco: no such set; did you mean refcoco"),
        (("--dataset", "folder", "--top-k", "5"), "--top-k: is for --task retrieval only, not for point"),
        (("--dataset", "folder"), "folder needs phrases.json there"),
        (("--dataset", "refcocog-test"), "refcocog-test needs annotations/refcocog-umd/instances_test.json or"),
    ],
)
def test_bad_input_is_one_sentence(small_checkpoint, tmp_path, capsys, arguments, message: str) -> None:
    assert evaluate(small_checkpoint, "--data-dir", tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("flair-jax: error: ")
    assert message in error
    assert error.count("\n") == 1
