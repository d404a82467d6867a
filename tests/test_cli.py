"""The console command, as users call it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from killed import run_killed
from photographs import PHOTOGRAPHS

import flair_jax
from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.data.sets.retrieval import RETRIEVAL_SETS
from flair_jax.scoring.scorer import Retriever

CONSOLE = Path(sys.executable).with_name("flair-jax")


def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CONSOLE, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def evaluate(checkpoint: Path, *arguments: object) -> int:
    return main(["evaluate", "--checkpoint", str(checkpoint), *map(str, arguments)])


def only_result(document: dict) -> dict:
    (result,) = document["results"]
    return result


@pytest.mark.golden
def test_from_a_pytorch_file_to_metrics(golden, photographs, tmp_path) -> None:
    """The main job: a training checkpoint in, numbers out. Real photographs, the console command, nothing mocked."""
    from flair_jax.models.presets import PRESETS
    from flair_jax.weights.param_map import torch_shapes

    rng = np.random.default_rng(0)
    torch = pytest.importorskip("torch")
    state = {
        f"module.{name}": torch.from_numpy(np.asarray(rng.normal(0, 0.1, shape), np.float32))
        for name, shape in torch_shapes(PRESETS["tiny"]).items()
    }
    torch.save({"epoch": 32, "name": "flair", "state_dict": state, "optimizer": {"lr": 5e-4}}, tmp_path / "model.pt")

    converted = run("convert", tmp_path / "model.pt", tmp_path / "checkpoint", "--verify")
    assert converted.returncode == 0, converted.stderr
    assert "pooled features" in converted.stdout
    scored = run(
        *("evaluate", "--checkpoint", tmp_path / "checkpoint", "--dataset", "coco", "--data-dir", photographs),
        *("--output", tmp_path / "metrics.json"),
    )
    assert scored.returncode == 0, scored.stderr
    assert "pairs/s" in scored.stderr, "a progress bar with a rate"
    document = json.loads((tmp_path / "metrics.json").read_text())
    (result,) = document["results"]
    assert (result["images"], result["images_of_whole_set"]) == (len(PHOTOGRAPHS), 5000)
    assert (result["texts"], result["texts_of_whole_set"]) == (sum(map(len, PHOTOGRAPHS.values())), 25014)
    assert result["cut_off"] == {"context_length": 77, "texts": 0, "texts_share": 0.0, "tokens_share": 0.0}
    assert "coco: 0.0 % of the texts are longer than the model's 77 tokens; 0.0 % of all tokens" in scored.stdout
    assert f"{len(PHOTOGRAPHS)} of 5,000" in scored.stdout
    assert document["settings"]["source"]["file"] == "model.pt"
    assert set(document["versions"]) >= {"flair-jax", "jax", "pillow", "python"}
    assert document["device"]["platform"] == "cpu"

    # The same numbers from the public functions, one picture at a time.
    model, params = flair_jax.load(tmp_path / "checkpoint")
    size = model.config.vision.image_size
    data = RETRIEVAL_SETS["coco"].load(photographs)
    tokens = flair_jax.tokenize(data.texts)
    logits_of = jax.jit(model.logits)
    logits = [
        logits_of(params, flair_jax.normalize(flair_jax.preprocess(path, size)[None]), tokens) for path in data.images
    ]
    assert result["metrics"] == flair_jax.retrieval_metrics(np.concatenate(logits), data.image_of_text)

    exported = run("export", tmp_path / "checkpoint", tmp_path / "back.pt")
    assert exported.returncode == 0, exported.stderr
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert all(torch.equal(back[name.removeprefix("module.")], tensor) for name, tensor in state.items())


@pytest.mark.golden
def test_convert_with_the_description_of_the_release(golden, tmp_path, capsys) -> None:
    arguments = ["convert", str(golden / "tiny.pt"), str(tmp_path / "x"), "--config", str(golden / "tiny_config.json")]
    assert main([*arguments, "--verify"]) == 0
    assert "text features" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "gone.safetensors", "x"], "gone.safetensors: no such file"),
        (
            ["convert", "a.safetensors", "x", "--config", "ViT-B-99"],
            "ViT-B-99: neither a JSON file nor a preset; the presets are ViT-B-16-FLAIR, ",
        ),
        (["convert", "hf://owner", "x"], "expected hf://OWNER/REPOSITORY/FILE"),
        (["export", "gone", "x.safetensors"], "gone: no checkpoint here"),
        (["export", "", "x.safetensors"], "the checkpoint's name is empty"),
        (["evaluate", "--checkpoint", "gone", "--dataset", "coco", "--data-dir", "."], "gone: no checkpoint here"),
        (["evaluate", "--checkpoint", "x", "--dataset", "coco_val", "--data-dir", "."], "did you mean coco or "),
        (["evaluate", "--checkpoint", "x", "--dataset", "flickr", "--data-dir", "."], "did you mean flickr30k-"),
        (
            ["evaluate", "--checkpoint", "x", "--dataset", "imagenet", "--data-dir", "."],
            "choose from coco, flickr30k-val",
        ),
        (["evaluate", "--checkpoint", "x", "--dataset", "all", "--data-dir", "gone"], "gone: no such folder"),
        (["evaluate", "--checkpoint", "x", "--dataset", "all", "--data-dir", "."], "no set found there or right below"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], message: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("flair-jax: error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_one_sentence(small_checkpoint, photographs, tmp_path) -> None:
    """In a process of its own, as its user sees it."""
    shutil.copytree(small_checkpoint, tmp_path / "damaged")
    files = [path for path in (tmp_path / "damaged" / "params").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    outcome = run("evaluate", "--checkpoint", tmp_path / "damaged", "--dataset", "coco", "--data-dir", photographs)
    assert outcome.returncode == 2
    assert "damaged: the checkpoint is damaged (params/" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr


def test_wrong_options_are_explained(capsys) -> None:
    assert main(["evaluate", "--checkpoint", "x", "--dataset", "coco", "--data-dir", ".", "--top-k", "0"]) == 2
    assert capsys.readouterr().err == (
        "flair-jax: error: argument --top-k: '0' is not a whole number of at least 1; "
        "`flair-jax evaluate --help` explains\n"
    )
    assert main(["evaluate", "--checkpoint", "x", "--dataset", "coco", "--data-dir", ".", "--top-k", "5"]) == 2
    said = "--top-k 5 is not used: it is for --mode top-k, and this is text-conditioned\n"
    assert capsys.readouterr().out == said
    for words, hint in (
        (["evalute"], "argument COMMAND: no 'evalute'. Did you mean \"evaluate\"? `flair-jax --help` explains\n"),
        (
            ["search", "a", "b", f"--html={__file__}/x.html"],
            f"/x.html is below {__file__}, which is a file; name a file",
        ),
        (["index", "a", f"--output={__file__}/x"], f"/x is below {__file__}, which is a file; name another folder"),
        (["evaluate", "--dtype=float16"], "no 'float16'; choose from float32, bfloat16. Did you mean"),
        (["convert", "a.pt", "b", "--config=ViT-B-16-FLIAR"], '. Did you mean "ViT-B-16-FLAIR"?'),
        (["zzz"], "no 'zzz'; choose from convert, export, "),
        (["data", "stat"], '"stats"? `flair-jax data --help` explains'),
        (
            ["search", "an.index", "a", "red", "car"],
            "arguments: red car; a sentence or name of several words wants quot",
        ),
        (["search", "an.index", "a", "--tpo=3"], '--tpo=3. Did you mean "--top"? `flair-jax search --help` explains'),
    ):
        assert main(words) == 2
        assert hint in capsys.readouterr().err
    assert main(["evaluate", "--chekpoint", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["convert", "export", "evaluate", "attend", "demo"])
def test_every_command_has_help_with_examples(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "flair-jax" in text
    assert len(text.splitlines()) > 8
    if command == "evaluate":
        assert all(name in text for name in RETRIEVAL_SETS)


@pytest.mark.parametrize(
    ("command", "needed"),
    [("train", "--config=NAME|FILE --workdir=DIR "), ("plan", "--config=NAME|FILE --topology NAME ")],
)
def test_usage_lines_name_what_is_needed_and_all_options(command: str, needed: str, capsys) -> None:
    """Those that are written by hand, since absl's flags take part of the words."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: flair-jax {command} {needed}")
    listed = re.findall(r"^(?:  |)(--[a-z][a-z-]*)", rest, re.MULTILINE)
    assert len(listed) > 6
    assert {name for name in listed if name not in usage} <= {"--help"}


def test_a_file_that_is_not_in_the_cache_offline_is_one_sentence(tmp_path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    outcome = run("convert", "hf://owner/models/a.safetensors", tmp_path / "x", env=environment)
    assert outcome.returncode == 2
    assert "hf://owner/models/a.safetensors: cannot be downloaded" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data check x.tar --processes -3", "'-3' is not a whole number of at least 1"),
        (
            "data check somewhere",
            "no prepared data set somewhere there; correct the name or the folder; tars are named as in",
        ),
        ("data check a.tar::folder", "a.tar::folder: is not the name of a data set"),
        ("data attach t.csv x.tar --output FILE", "is a file; name a folder"),
        ("attend x.png a --checkpoint c --output FILE", "is a file; name a folder"),
        ("demo --output FILE", "is a file; name a folder"),
    ],
)
def test_what_is_typed_wrong_is_one_sentence_before_any_work(tmp_path, capsys, arguments: str, message: str) -> None:
    (tmp_path / "file").touch()
    assert main(arguments.replace("FILE", str(tmp_path / "file")).split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err.splitlines()[-1]
