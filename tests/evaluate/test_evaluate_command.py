"""`flair-jax evaluate` on retrieval sets: what does not change the figures, what is left out, failures and resuming."""

import json
import shutil
from pathlib import Path

import pytest
from killed import run_killed
from photographs import PHOTOGRAPHS

from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.scoring.scorer import Retriever


def evaluate(checkpoint: Path, *arguments: object) -> int:
    return main(["evaluate", "--checkpoint", str(checkpoint), *map(str, arguments)])


def only_result(document: dict) -> dict:
    (result,) = document["results"]
    return result


@pytest.mark.parametrize("mode", ["text-conditioned", "top-k", "global"])
def test_batch_size_changes_nothing(small_checkpoint, photographs, tmp_path, mode: str) -> None:
    documents = []
    for size in (1, 3, 64):
        output = tmp_path / f"{size}.json"
        assert not evaluate(
            small_checkpoint,
            *("--dataset", "coco", "--data-dir", photographs, "--mode", mode, "--top-k", 5),
            *("--batch-size", size, "--output", output),
        )
        documents.append(json.loads(output.read_text()))
    first, *others = (only_result(document) for document in documents)
    for other in others:
        assert (other["metrics"], other["ties"]) == (first["metrics"], first["ties"])
    assert documents[0]["settings"]["mode"] == mode
    assert not list(tmp_path.glob("*.partial*"))


def test_top_k_of_all_texts_is_text_conditioned(small_checkpoint, photographs, tmp_path) -> None:
    common = ("--dataset", "coco", "--data-dir", photographs, "--output")
    assert not evaluate(small_checkpoint, *common, tmp_path / "a.json")
    assert not evaluate(small_checkpoint, *common, tmp_path / "k.json", "--mode", "top-k", "--top-k", 9999)
    first, second = (only_result(json.loads((tmp_path / name).read_text())) for name in ("a.json", "k.json"))
    assert first["metrics"] == second["metrics"]


@pytest.fixture
def with_broken(photographs, tmp_path) -> Path:
    """The photographs, one of them cut short and one gone."""
    folder = tmp_path / "coco"
    shutil.copytree(photographs, folder)
    pictures = folder / "images" / "val2017"
    (pictures / "coffee.png").write_bytes((pictures / "coffee.png").read_bytes()[:9000])
    (pictures / "coins.png").unlink()
    return folder


def test_broken_pictures_are_listed_and_fail(small_checkpoint, with_broken, tmp_path, capsys) -> None:
    output = tmp_path / "metrics.json"
    assert evaluate(small_checkpoint, "--dataset", "coco", "--data-dir", with_broken, "--output", output) == 2
    message = capsys.readouterr().err
    assert f"2 of {len(PHOTOGRAPHS)} pictures cannot be read; mend them, or pass --skip-broken" in message
    assert "coffee.png: cannot be read as a picture" in message
    assert "coins.png: no such picture" in message
    assert not output.exists()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_broken_pictures_can_be_left_out(small_checkpoint, with_broken, tmp_path, capsys, batch_size: int) -> None:
    output, reports = tmp_path / "metrics.json", [tmp_path / "report.html", tmp_path / "report.md"]
    common = ("--dataset", "coco", "--data-dir", with_broken, "--batch-size", batch_size, "--output", output)
    pages = [word for each in reports for word in ("--report", each)]
    assert not evaluate(small_checkpoint, *common, "--skip-broken", *pages)
    result = only_result(json.loads(output.read_text()))
    assert result["images"] == len(PHOTOGRAPHS) - 2
    assert result["texts"] == 2 * (len(PHOTOGRAPHS) - 2)
    assert len(result["skipped"]) == 2
    for page in (report.read_text() for report in reports):
        assert "left out 2 broken pictures: " in page
    assert "left out 2 broken pictures:" in capsys.readouterr().out


def test_all_runs_what_it_finds(small_checkpoint, photographs, tmp_path, capsys) -> None:
    shutil.copytree(photographs, tmp_path / "data" / "COCO")
    folder = tmp_path / "data" / "mine"
    folder.mkdir()
    shutil.copy(photographs / "images" / "val2017" / "rocket.jpg", folder)
    (folder / "captions.jsonl").write_text('{"image": "rocket.jpg", "caption": "A rocket."}\n')
    (tmp_path / "data" / "notes").mkdir()
    output = tmp_path / "all.json"
    assert not evaluate(small_checkpoint, "--dataset", "all", "--data-dir", tmp_path / "data", "--output", output)
    results = json.loads(output.read_text())["results"]
    assert [(result["dataset"], result["images"]) for result in results] == [("coco", len(PHOTOGRAPHS)), ("folder", 1)]
    printed = capsys.readouterr().out
    assert printed.count("retrieval, text-conditioned") == 1, "one table"


def test_all_reports_a_set_that_fails_and_goes_on_when_it_is_mended(
    small_checkpoint, photographs, tmp_path, capsys, monkeypatch
) -> None:
    shutil.copytree(photographs, tmp_path / "data" / "COCO")
    (tmp_path / "data" / "mine").mkdir()
    (tmp_path / "data" / "mine" / "captions.jsonl").write_text("not json\n")
    output, reports = tmp_path / "all.json", [tmp_path / "all.html", tmp_path / "all.md"]
    words = ("--dataset", "all", "--data-dir", tmp_path / "data", "--output", output)
    assert evaluate(small_checkpoint, *words, *(word for each in reports for word in ("--report", each))) == 2
    err = capsys.readouterr().err
    assert "1 of 2 sets failed:\nfolder:" in err
    assert f"what is done is kept in {output}.partial for the same command" in err
    written = json.loads(output.read_text())
    assert [result["dataset"] for result in written["results"]] == ["coco"]
    assert len(written["failed"]) == 1
    assert written["failed"][0] in err
    for page in (report.read_text() for report in reports):
        assert "Sets that failed" in page
        assert "captions.jsonl" in page

    # Mended, and started again: the set that was done is not evaluated again.
    shutil.copy(photographs / "images" / "val2017" / "rocket.jpg", tmp_path / "data" / "mine")
    (tmp_path / "data" / "mine" / "captions.jsonl").write_text('{"image": "rocket.jpg", "caption": "A rocket."}\n')
    scored = []
    score = Retriever.score_all
    monkeypatch.setattr(Retriever, "score_all", lambda *words, **how: scored.append(1) or score(*words, **how))
    assert evaluate(small_checkpoint, "--dataset", "all", "--data-dir", tmp_path / "data", "--output", output) == 0
    assert len(scored) == 1
    assert json.loads(output.read_text())["failed"] == []
    assert not Path(f"{output}.partial").exists()


def test_all_does_not_repeat_finished_sets(small_checkpoint, photographs, tmp_path, monkeypatch) -> None:
    """Stopped in the second set: the first one's result is there when it is started again."""
    for name in ("a", "b"):
        shutil.copytree(photographs, tmp_path / "data" / name)
    arguments = ("--dataset", "all", "--data-dir", tmp_path / "data", "--output", tmp_path / "all.json")
    calls = []
    score = Retriever.score_all

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, *arguments, **options)

    monkeypatch.setattr(Retriever, "score_all", interrupted)
    assert evaluate(small_checkpoint, *arguments) == 130
    assert not evaluate(small_checkpoint, *arguments)
    assert len(calls) == 3, "one for the first set, an interrupted and a whole one for the second"
    assert len(json.loads((tmp_path / "all.json").read_text())["results"]) == 2


def test_texts_that_are_cut_off_and_ties_are_said(small_checkpoint, photographs, tmp_path, capsys) -> None:
    """Three pictures that share a long caption, and a picture with a short one of its own; 7 words and 77 commas."""
    names = sorted(path.name for path in (photographs / "images" / "val2017").iterdir())[:4]
    for name in names:
        shutil.copy(photographs / "images" / "val2017" / name, tmp_path)
    captions = ["one two three four five six seven" + " ," * 77] * 3 + ["a coin"]
    lines = [json.dumps({"image": name, "caption": text}) for name, text in zip(names, captions, strict=True)]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    output = tmp_path / "out.json"
    assert not evaluate(small_checkpoint, "--dataset", "folder", "--data-dir", tmp_path, "--output", output)
    result = only_result(json.loads(output.read_text()))
    share = (3 * (84 - 75)) / (3 * 84 + 2)
    assert result["cut_off"] == {
        "context_length": 77,
        "texts": 3,
        "texts_share": 0.75,
        "tokens_share": pytest.approx(share),
    }
    assert result["ties"]["share"]["text_to_image"] == 0
    assert result["ties"]["share"]["image_to_text"] >= 0.5
    printed = capsys.readouterr().out
    assert f"folder: 75.0 % of the texts are longer than the model's 77 tokens; {100 * share:.1f} % of all" in printed
    assert "warning: folder: equal scores decide" in printed
    assert "\n  ties against" in printed


def test_published_numbers_stand_beside_a_released_checkpoint(small_model, photographs, tmp_path, capsys) -> None:
    checkpoint.save(tmp_path / "cc3m", *small_model, {"file": "flair-cc3m-recap.pt"})
    assert not evaluate(tmp_path / "cc3m", "--dataset", "coco", "--data-dir", photographs)
    assert "37.7 / 51.6" in capsys.readouterr().out
    assert not evaluate(tmp_path / "cc3m", "--dataset", "coco", "--data-dir", photographs, "--mode", "global")
    assert "published" not in capsys.readouterr().out


def test_a_killed_evaluation_resumes_where_it_was(small_checkpoint, photographs, tmp_path, monkeypatch) -> None:
    common = ("--dataset", "coco", "--data-dir", photographs, "--batch-size", 2, "--output")
    assert not evaluate(small_checkpoint, *common, tmp_path / "whole.json")
    output = tmp_path / "killed.json"
    run_killed(Retriever, "score_all", 3, "evaluate", "--checkpoint", small_checkpoint, *common, output)
    assert not output.exists()
    assert (tmp_path / "killed.json.partial").is_dir()

    calls = []
    score = Retriever.score_all

    def count(self, *arguments, **options):
        calls.append(1)
        return score(self, *arguments, **options)

    def never(*_, **__):
        raise AssertionError("features were there already")

    monkeypatch.setattr(Retriever, "score_all", count)
    monkeypatch.setattr(Retriever, "encode_images", never)
    monkeypatch.setattr(Retriever, "encode_texts", never)
    assert not evaluate(small_checkpoint, *common, output)
    assert len(calls) == -(-len(PHOTOGRAPHS) // 2) - 2
    first, second = (only_result(json.loads((tmp_path / name).read_text())) for name in ("whole.json", "killed.json"))
    assert first["metrics"] == second["metrics"]
    assert not (tmp_path / "killed.json.partial").exists()
