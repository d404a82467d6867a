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
from photographs import PHOTOGRAPHS

import flair_jax
from flair_jax.cli import main
from flair_jax.data.sets.retrieval import RETRIEVAL_SETS

CONSOLE = Path(sys.executable).with_name("flair-jax")


def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CONSOLE, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


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
        (["convert", "a.pt", f"{__file__}/x"], f"DST: {__file__}/x is below {__file__}, which is a file; name another"),
        (["convert", "a.pt", __file__], f"DST: {__file__} is a file; name a folder"),
        *(
            (["export", "a", f"{__file__}/x{ending}"], f"DST: {__file__}/x{ending} is below {__file__}, which")
            for ending in ("", "/", ".onnx", ".safetensors")
        ),
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
