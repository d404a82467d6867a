"""`flair-jax evaluate --task choose`, from files to a table and a JSON file, with a small model of 2 x 2 patches."""

import json
from pathlib import Path

import pytest
from killed import run_killed
from made_choices import genome, make_fgovd, make_genome, make_order, make_sugarcrepe, make_winoground, write_json

from flair_jax.cli import main
from flair_jax.data.sets.choice_data import ChoiceData
from flair_jax.evaluate import tasks
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever


@pytest.fixture(scope="module")
def retriever(small_model) -> Retriever:
    """One for all tests, so that each shape is compiled once."""
    return Retriever(*small_model)


@pytest.fixture
def compiled(retriever, monkeypatch) -> None:
    """The command with what is compiled already."""
    monkeypatch.setattr(tasks, "Retriever", lambda *_: retriever)


def evaluate(checkpoint: Path, *arguments: object) -> int:
    common = ["evaluate", "--task", "choose", "--checkpoint", str(checkpoint), "--batch-size", "4"]
    return main([*common, *map(str, arguments)])


def test_from_a_folder_to_a_table_and_a_file(compiled, small_checkpoint, tmp_path, capsys) -> None:
    make_sugarcrepe(tmp_path / "data")
    output = tmp_path / "out.json"
    common = ("--dataset", "sugarcrepe", "--data-dir", tmp_path / "data", "--output", output)
    assert not evaluate(small_checkpoint, *common)
    printed = capsys.readouterr().out
    (result,) = json.loads(output.read_text())["results"]
    assert result["questions"] == 8
    assert result["metrics"]["chance"] == {"accuracy": 0.5}
    splits = [values["global"]["accuracy"] for values in result["kinds"].values()]
    assert result["mean_of_kinds"]["global"]["accuracy"] == pytest.approx(sum(splits) / 7)
    shown = {way: f"{100 * values['accuracy']:.1f}" for way, values in result["metrics"].items()}
    means = {way: f"{100 * result['mean_of_kinds'][way]['accuracy']:.1f}" for way in shown}
    lines = [line.split() for line in printed.splitlines()]
    assert ["sugarcrepe", "8", "2", "global", shown["global"], means["global"]] in lines
    assert ["text-conditioned", shown["text-conditioned"], means["text-conditioned"]] in lines
    assert ["chance", "50.0", "50.0"] in lines
    assert "sugarcrepe: the mean of kinds is over 7 of 7 kinds" in printed
    assert "0.0 % of the texts are longer than the model's 77 tokens" in printed
    kinds = printed[printed.index("accuracy by kind") :].splitlines()
    assert kinds[1].split()[:2] == ["add_att", "2"], "the most frequent first"
    assert not (tmp_path / "out.json.partial").exists()


def test_symmetric_relations_are_not_in_the_mean(compiled, small_checkpoint, tmp_path, capsys) -> None:
    make_genome(tmp_path)
    records = [genome(), genome(relation_name="near", bbox_x=1), genome(relation_name="we\x1b[1m", bbox_x=0)]
    write_json(tmp_path / "visual_genome_relation.json", records)
    write_json(tmp_path / "visual_genome_attribution.json", [genome(attributes=["red", "big"])])
    output = tmp_path / "out.json"
    for name in ("vg-relation", "vg-attribution"):
        assert not evaluate(small_checkpoint, "--dataset", name, "--data-dir", tmp_path, "--output", output)
        (result,) = json.loads(output.read_text())["results"]
        if name == "vg-relation":
            assert list(result["kinds"]) == ["near", "on", "we\x1b[1m"]
            assert result["mean_of_kinds"]["kinds"] == 2
            accuracies = [result["kinds"][kind]["box-tokens"]["accuracy"] for kind in ("on", "we\x1b[1m")]
            assert result["mean_of_kinds"]["box-tokens"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
            printed = capsys.readouterr().out
            assert "the mean of kinds is over 2 of 3 kinds" in printed
            assert "\x1b" not in printed, "it would reach the terminal"
    assert result["mean_of_kinds"] == {}, "25 questions are needed for a pair of attributes to count"


def test_all_finds_every_set(compiled, small_checkpoint, tmp_path, capsys) -> None:
    make_sugarcrepe(tmp_path / "coco")
    make_fgovd(tmp_path / "coco")
    make_winoground(tmp_path / "wino")
    make_order(tmp_path / "flickr", "flickr30k_order", "flickr30k-images/1.jpg")
    output = tmp_path / "all.json"
    assert not evaluate(small_checkpoint, "--dataset", "all", "--data-dir", tmp_path, "--output", output)
    found = {each["dataset"]: each["questions"] for each in json.loads(output.read_text())["results"]}
    assert found == {"sugarcrepe": 8, "winoground": 2, "flickr30k-order": 1, "fg-ovd-hard": 1}
    printed = capsys.readouterr().out
    heads = [line.split()[:1] + line.split()[4:7] for line in printed.splitlines() if line.startswith("set ")]
    assert [head[0] for head in heads] == ["set", "set"], "sets with one picture a question, and with several"
    assert "2 of 400" in printed
    assert "fg-ovd-hard: left out: boxes with fewer than 10 altered captions (1)" in printed
    assert "flickr30k-order: left out: false captions that are word for word a true one (1)" in printed


def test_a_killed_run_resumes_where_it_was(compiled, small_checkpoint, tmp_path, monkeypatch) -> None:
    make_winoground(tmp_path / "data")
    common = ("--dataset", "winoground", "--data-dir", tmp_path / "data", "--batch-size", 1, "--output")
    words = ["evaluate", "--task", "choose", "--checkpoint", small_checkpoint]
    output = tmp_path / "killed.json"
    run_killed(BlockStore, "put", 3, *words, *common, output)  # the captions, the first picture, and not the second
    assert not output.exists()
    read = []
    read_one = ChoiceData.read
    monkeypatch.setattr(ChoiceData, "read", lambda self, number: read.append(number) or read_one(self, number))
    assert not evaluate(small_checkpoint, *common, output)
    assert sorted(read) == [1, 2, 3]
    assert not evaluate(small_checkpoint, *common, tmp_path / "whole.json")
    results = [json.loads(path.read_text())["results"][0] for path in (output, tmp_path / "whole.json")]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


def test_bad_options_are_one_sentence(small_checkpoint, tmp_path, capsys) -> None:
    make_winoground(tmp_path)
    common = ("--dataset", "winoground", "--data-dir", tmp_path)
    assert evaluate(small_checkpoint, *common, "--mode", "top-k") == 2
    assert "--mode top-k is not for --task choose; choose global or text-conditioned" in capsys.readouterr().err
    assert evaluate(small_checkpoint, *common, "--top-k", 3) == 2
    assert "--top-k: is for --task retrieval only, not for choose" in capsys.readouterr().err
    assert evaluate(small_checkpoint, "--dataset", "winogrande", "--data-dir", tmp_path) == 2
    assert "did you mean winoground?" in capsys.readouterr().err
