"""`flair-jax train --dry-run`: what it finds, and that it changes nothing."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from made_tars import document, picture, sample, write_tar, write_tars
from PIL import Image

from flair_jax.cli import main
from flair_jax.data.pipeline import SampleSettings
from flair_jax.data.tars import TarSource
from flair_jax.data.tokenizer import TOKENIZERS, decode, tokenize
from flair_jax.dry_run import memory, workdir
from flair_jax.dry_run import run as dry_run
from flair_jax.dry_run.batch import read_first
from flair_jax.errors import CheckpointError
from flair_jax.files import locked
from flair_jax.settings import TrainSettings
from flair_jax.train.flags import parse_config
from flair_jax.train.goodput import Record, Start
from flair_jax.train.identity import describe_run

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 24, "layers": 1, "head_width": 8},
    "text_cfg": {"width": 16, "layers": 1, "heads": 2, "context_length": 8},
}
SAMPLES = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Tars with their indexes, and a model's file."""
    folder = tmp_path_factory.mktemp("made")
    TarSource(write_tars(folder / "tars", 2, SAMPLES // 2), processes=1, progress=False)
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder


@pytest.fixture
def words(made, tmp_path, monkeypatch) -> list[str]:
    """A command line without a fault, whose step is not compiled."""
    monkeypatch.setattr(memory, "_SMALL", 0)
    monkeypatch.chdir(tmp_path)
    fields = {
        "model": made / "model.json",
        "dtype": "float32",
        "batch_size": 8,
        "captions_per_image": 2,
        "steps": 12,
        "data.name": "*.tar",
        "data.dir": made / "tars",
        "data.workers": 0,
        "loss.group_size": 4,
        "optimizer.warmup_steps": 2,
        "compilation_cache": "",
    }
    return ["--config=default", *(f"--config.{name}={value}" for name, value in fields.items())]


@pytest.fixture
def run(words, tmp_path, capsys) -> Callable[..., tuple[int, str]]:
    """The dry run with more words: its status, and what it printed."""

    def rehearse(*more: str) -> tuple[int, str]:
        status = main(["train", "--dry-run", *words, f"--workdir={tmp_path / 'run'}", *more])
        return status, capsys.readouterr().out

    return rehearse


def problems(out: str) -> list[str]:
    """The numbered sentences at the end."""
    _, _, listed = out.partition("to mend before training:\n")
    return [line.strip().partition(". ")[2] for line in listed.splitlines() if line.startswith("  ")]


def run_of(words: list[str], **others: object) -> dict:
    return describe_run(TrainSettings.from_config(parse_config(words)), SAMPLES) | others


def fake_checkpoint(folder: Path, step: int, run: dict) -> None:
    """As far as it is read: of a version without digests."""
    place = folder / "checkpoints" / str(step)
    for name, values in (("progress", {"next_batch": step, "run": run}), ("description", {})):
        (place / name).mkdir(parents=True)
        (place / name / "metadata").write_text(json.dumps(values))


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [each for each in folder.glob("**/*") if each.is_file()]
    return {str(each): (each.stat().st_mtime_ns, each.read_bytes()) for each in files}


def test_a_run_without_a_fault(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "_SMALL", 10**7)
    status, out = run()
    assert status == 0, out
    assert "dry run: no problem found" in out
    assert f"{SAMPLES} samples, 12 steps; an epoch has 3.0 steps, so these are 4.00 epochs" in out
    assert f"mesh data={jax.device_count()}, fsdp=1, tensor=1; 1 image on each at once, 8 in a step" in out
    assert "the run would start at step 1" in out
    assert f"as planned for cpu:{jax.device_count()}: " in out
    assert re.search(
        r"checkpoints +every [\d,]+ steps and at the end, up to \S+ MB each \(compressed\); the last ", out
    )
    assert re.search(r"captions +16 captions of 8 images: \d+ to \d+ tokens with start and end, median \d+; ", out)
    assert not (tmp_path / "run").exists(), "nothing is written"
    page = (tmp_path / "dry-run.html").read_text()
    assert page.count('src="data:image/png') == 8
    assert page.count("2 groups of 4 images") == 1
    assert "All 8 images of the first\nstep" in page
    assert "image 8</b>, group 2" in page
    assert "a red picture" in page
    assert "tokens cut off" in page, "the longest caption has more than 8 tokens"
    assert Image.open(tmp_path / "dry-run.png").size == (8 * 36 - 4, 32)


def test_the_batch_is_what_training_gets(words, made, run, tmp_path) -> None:
    from flair_jax.data.pipeline import batches

    settings = SampleSettings(0, 32, 8, 2)
    source = TarSource(f"{made / 'tars'}/*.tar", progress=False)
    (first, *_) = [next(stream := batches([source], settings, 8))]
    stream.close()
    found = read_first([source], settings, 8)
    np.testing.assert_array_equal(np.stack([row.pixels for row in found.rows]), first.pixels)
    room = 6
    for caption, ids in zip(found.captions, first.tokens, strict=True):
        assert caption.text == decode(ids[1 : 1 + min(caption.tokens - 2, room)].tolist())
        assert caption.cut == max(caption.tokens - 8, 0)
        assert not caption.empty
    assert run("--contact-sheet", "other.html")[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "other.png"))
    for number, pixels in enumerate(first.pixels):
        np.testing.assert_array_equal(sheet[:, number * 36 : number * 36 + 32], pixels)


def test_all_problems_are_named_at_once(run, tmp_path) -> None:
    (tmp_path / "run").write_text("a file")
    evaluation = ("--config.evaluation.every_steps=5", f"--config.evaluation.dir={tmp_path / 'nowhere'}")
    status, out = run(f"--config.data.dir={tmp_path / 'gone'}", "--config.checkpoint.keep=0", *evaluation)
    assert status == 1
    found = problems(out)
    assert len(found) == 4, out
    assert found[0] == "config.checkpoint.keep=0 must be greater than 0"
    assert f"{tmp_path / 'gone'}" in found[1]
    assert f"{tmp_path / 'nowhere'}" in found[2]
    assert found[3] == f"{tmp_path / 'run'}: {tmp_path / 'run'} is a file; choose another folder"
    assert not (tmp_path / "dry-run.html").exists()


@pytest.mark.parametrize(("words_of", "tokens", "longer", "lost"), [(6, 8, "0.0%", "0.0%"), (7, 9, "100.0%", "11.1%")])
def test_captions_are_counted_as_the_model_reads_them(run, tmp_path, words_of, tokens, longer, lost) -> None:
    """With start and end, as the context is: 6 words fill the 8 tokens, and the end is never what is cut off."""
    said = json.dumps({"caption": " ".join(["a"] * words_of)}).encode()
    write_tar(tmp_path / "tars" / "0.tar", [("0.jpg", picture(0)), ("0.json", said)])
    TarSource(f"{tmp_path / 'tars'}/0.tar", processes=1, progress=False)
    where = (f"--config.data.dir={tmp_path / 'tars'}", "--config.data.name=0.tar")
    status, out = run(*where, "--config.data.merged_sentences=1")
    assert status == 0, out
    wanted = f"16 captions of 8 images: {tokens} tokens each with start and end, median {tokens}; "
    assert f"{wanted}{longer} are longer than the context of 8, {lost} of all tokens are cut off" in out
    assert "a step takes 8 images, more than the 1 sample: the same picture is in it several times" in out


def test_an_empty_caption_is_marked(run, tmp_path) -> None:
    said = json.dumps({"caption": "&nbsp;"}).encode()
    write_tar(tmp_path / "tars" / "0.tar", [("0.jpg", picture(0)), ("0.json", said)])
    TarSource(f"{tmp_path / 'tars'}/0.tar", processes=1, progress=False)
    where = (f"--config.data.dir={tmp_path / 'tars'}", "--config.data.name=0.tar")
    assert run(*where, "--config.data.merged_sentences=1")[0] == 0
    assert (tmp_path / "dry-run.html").read_text().count("<b>empty</b>") == 16


def test_wrong_fields(run, words, capsys, monkeypatch) -> None:
    status, out = run("--config.batch_sise=8")
    assert (status, len(problems(out))) == (1, 1)
    assert 'no such field; `flair-jax configs default` lists all. Did you mean "batch_size"?' in out
    status, out = run("--config.batch_size=6", "--config.loss.terms=('tcs','xyz')")
    assert status == 1
    assert any("batch_size=6 is not a multiple of config.loss.group_size=4" in each for each in problems(out))
    assert any("xyz" in each for each in problems(out))
    (problem,) = problems(run("--config.optimizer.warmup_steps=50")[1])
    assert problem.startswith(
        "config.optimizer.warmup_steps=50 does not fit in a run of 12 steps; set it to at most 12"
    )
    assert Path("dry-run.html").exists(), "the optimiser has no part in the batch"
    monkeypatch.setitem(sys.modules, "wandb", None)
    (problem,) = problems(run("--config.wandb_project=mine")[1])
    assert "config.wandb_project is set: " in problem
    assert main(["train", "--dry-run", *words]) == 1
    assert "PROBLEM: --workdir is needed; usage: " in capsys.readouterr().out
    assert main(["train", *words, "--workdir=w", "--contact-sheet=a.html"]) == 2
    assert main(["train", "--dry-run", *words, "--workdir=w", "--distributed"]) == 2
    assert main(["train", "--dry-run", *words, "--workdir=w", "--contact-sheet=a.txt"]) == 2


def test_broken_pictures_are_counted(run, tmp_path, caplog) -> None:
    members = [each for number in range(8) for each in sample(number)]
    members[3] = (members[3][0], b"no picture")
    write_tar(tmp_path / "tars" / "0.tar", members)
    TarSource(f"{tmp_path / 'tars'}/0.tar", processes=1, progress=False)
    status, out = run(f"--config.data.dir={tmp_path / 'tars'}")
    assert status == 0, out
    assert "1 of the first 8 samples cannot be used, and the run would take the next ones instead" in out
    assert "000000001.jpg" in caplog.text
    write_tar(tmp_path / "tars" / "1.tar", [(name, b"?" if name.endswith("jpg") else data) for name, data in members])
    status, out = run(f"--config.data.dir={tmp_path / 'tars'}", "--config.data.name=1.tar")
    assert status == 1
    assert problems(out)[0].startswith("the training data: 8 samples from number ")
    assert "from number 0 on cannot be used, the first for this reason: " in problems(out)[0]
    assert ".jpg: the picture: cannot be read as a picture" in problems(out)[0]
    assert "; `flair-jax data check` names all" in problems(out)[0]


def test_tars_without_an_index_are_not_indexed(run, tmp_path) -> None:
    write_tars(tmp_path / "tars", 3, 4)
    before = state_of(tmp_path / "tars")
    status, out = run(f"--config.data.dir={tmp_path / 'tars'}", "--config.steps=0")
    assert status == 0, out
    assert "3 of 3 tars have no index yet" in out
    assert state_of(tmp_path / "tars") == before
    assert (tmp_path / "dry-run.html").exists()


def test_of_several_sets_each_is_looked_at(run, tmp_path) -> None:
    """With weights, in tars without an index; and all that cannot be opened are named."""
    for name in ("a", "b"):
        write_tars(tmp_path / name, 1, 4)
    before = state_of(tmp_path / "a"), state_of(tmp_path / "b")
    where = f"--config.data.dir={tmp_path}"
    joined = "--config.data.name=a/*.tar::b/*.tar"
    status, out = run(where, joined, "--config.data.weights=(3.0,1.0)", "--config.data.epoch_samples=8")
    assert status == 0, out
    assert out.count("1 of 1 tar has no index yet") == 2
    assert (state_of(tmp_path / "a"), state_of(tmp_path / "b")) == before
    (problem,) = problems(run(where, joined, "--config.data.weights=(3.0,)")[1])
    assert problem == "config.data.weights has 1 number for 2 data sets"
    found = problems(run(where, "--config.data.name=gone/*.tar::folder::a/*.tar::lost/*.tar")[1])
    assert len(found) == 3, found
    for problem, name in zip(found, ("gone", str(tmp_path), "lost"), strict=True):
        assert name in problem
    assert (state_of(tmp_path / "a"), state_of(tmp_path / "b")) == before


def test_a_page_that_cannot_be_written_is_no_problem_of_training(run, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "dry-run.png")

    monkeypatch.setattr(dry_run, "write_picture", refused)
    status, out = run()
    assert status == 0, out
    assert "note: the batch is not shown (" in out
    assert "--contact-sheet names another place" in out
    assert "first batch  " not in out


def test_a_run_whose_checkpoints_are_gone_would_not_start(run, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    Record({}, [Start(0.0, 0, 12, state="finished")]).write(tmp_path / "run")
    (problem,) = problems(run()[1])
    assert problem.startswith(
        f"{tmp_path / 'run'}: has no checkpoint, but its health.json tells of 12 steps and of one;"
    )


def test_a_start_that_does_not_fit(run, small_checkpoint, tmp_path) -> None:
    status, out = run(f"--config.init={small_checkpoint}")
    assert status == 1
    assert "is not the model config.model names; they differ in vision_cfg, text_cfg" in problems(out)[0]
    status, out = run(f"--config.init={tmp_path / 'none'}")
    assert status == 1
    assert "no checkpoint here" in problems(out)[0]
    own = tmp_path / "own.json"
    own.write_bytes((small_checkpoint / "config.json").read_bytes())
    status, out = run(f"--config.init={small_checkpoint}", f"--config.model={own}")
    assert (status, f"{small_checkpoint}: read, and fits the model" in out) == (0, True), out


def test_what_is_in_the_workdir(run, words, tmp_path) -> None:
    folder = tmp_path / "run"
    fake_checkpoint(folder, 4, run_of(words))
    before = state_of(folder)
    status, out = run()
    assert status == 0, out
    assert f"{folder}: the run would resume after step 4 of 12" in out
    status, out = run("--config.log_every_steps=7", "--config.init=nothing")
    assert status == 0, out
    assert re.search(r"note: config.log_every_steps was \d+, is 7", out)
    assert "nothing is not read, for the run does not begin" in out
    status, out = run("--config.optimizer.learning_rate=0.5")
    assert status == 1
    assert "holds another run (config.optimizer.learning_rate was" in problems(out)[0]
    assert run("--config.optimizer.learning_rate=0.5", "--accept-changes")[0] == 0
    status, out = run("--config.steps=3")
    assert "the run has 4 steps behind it, and 3 are asked for" in problems(out)[0]
    fake_checkpoint(folder, 12, run_of(words))
    assert "the run is finished" in run()[1]
    shutil.rmtree(folder / "checkpoints" / "12")
    assert state_of(folder) == before, "nothing has changed"
    (folder / "checkpoints" / "4" / "progress" / "metadata").write_text("{")
    status, out = run()
    assert (status, "cannot be resumed from" in problems(out)[0]) == (1, True)
    shutil.move(folder / "checkpoints" / "4", folder / "damaged" / "4-0")
    status, out = run()
    assert (status, "some of this run were set aside" in problems(out)[0]) == (1, True)


def test_a_workdir_that_cannot_be_used(run, tmp_path, monkeypatch) -> None:
    with locked(tmp_path / "run", CheckpointError("busy")):
        status, out = run()
        assert (status, "another run is at work in this folder" in problems(out)[0]) == (1, True)
    assert run()[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(workdir.os, "access", lambda *_: False)
        assert f"{tmp_path / 'run'} may not be written to; ask for the permission" in problems(run()[1])[0]


def test_room_on_the_disk(run, monkeypatch) -> None:
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    status, out = run()
    assert status == 1
    assert "MB, and the disk has 1.0 kB left; make room there" in problems(out)[0]
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: SimpleNamespace(free=15_000_000))
    status, out = run("--config.checkpoint.keep=5")
    assert status == 0
    assert "the 6 checkpoints that are there at once have up to" in out


def test_an_evaluation_that_is_there(run, photographs) -> None:
    status, out = run("--config.evaluation.every_steps=5", f"--config.evaluation.dir={photographs}")
    assert status == 0, out
    assert "config.evaluation: retrieval, coco, " in out
    assert "every 5 steps and at the end, 3 in all" in out


def test_captions_are_text(run, tmp_path) -> None:
    """What users wrote never becomes markup, and long words do not go missing."""
    said = document(0) | dict.fromkeys(("raw_caption",), "<script>alert(1)</script> &amp; \x1b[2J 日本語")
    said = {"url": "", "raw_caption": said["raw_caption"]}
    members = [
        each
        for number in range(8)
        for each in ((f"{number}.jpg", picture(number)), (f"{number}.json", json.dumps(said).encode()))
    ]
    write_tar(tmp_path / "tars" / "<b>.tar", members)
    status, out = run(f"--config.data.dir={tmp_path / 'tars'}", "--config.data.name=<b>.tar")
    assert status == 0, out
    page = (tmp_path / "dry-run.html").read_text()
    assert "<script" not in page
    assert "&lt; script &gt;" in page
    assert "<b>.tar" not in page


@pytest.mark.parametrize("text", ["a red dog", "ein schönes haus", "日本語 🐶", "", "x" * 50, "it 's 1 2 3 !"])
def test_ids_become_text_again(text: str) -> None:
    (ids,) = tokenize([text], 77).tolist()
    own = ids[1 : ids.index(49407)]
    assert TOKENIZERS["clip"].decode(own) == text
    assert decode(ids[:1] + own) == text
    assert decode([own[0]] if own else []) == decode(own[:1])
