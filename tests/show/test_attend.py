"""`flair-jax attend`, as users call it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numeric import assert_close
from PIL import Image

import flair_jax
from flair_jax.cli import main
from flair_jax.show.lettering import write_below
from flair_jax.show.maps import explain_picture

SENTENCES = ("The face of a tabby cat.", "a $5 note & <b>", "猫")


def attend(checkpoint: Path, picture: Path, output: Path, *arguments: str) -> int:
    return main(["attend", str(picture), *arguments, "--checkpoint", str(checkpoint), "--output", str(output)])


@pytest.fixture
def cat(photographs) -> Path:
    return photographs / "images" / "val2017" / "chelsea.png"


def test_maps_sheet_arrays_and_scores(small_checkpoint, cat, tmp_path, capsys) -> None:
    assert attend(small_checkpoint, cat, tmp_path / "a", *SENTENCES) == 0
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {
        *("attention.png", "maps.npz", "attention_1_the-face-of-a-tabby-cat.png", "attention_2_a-5-note-b.png"),
        "attention_3_sentence.png",
    }
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a" / "attention.png").convert("L")))) > 100, "shows pictures"

    model, params = flair_jax.load(small_checkpoint)
    pixels = flair_jax.preprocess(cat, model.config.vision.image_size)
    found = explain_picture(model, params, pixels, SENTENCES)
    arrays = np.load(tmp_path / "a" / "maps.npz")
    assert arrays["sentences"].tolist() == list(SENTENCES)
    np.testing.assert_array_equal(arrays["pixels"], pixels)
    assert_close(arrays["attention"], found.attention.heads)
    assert_close(arrays["empty"], found.attention.empty)
    assert_close(arrays["patches"], found.patches)
    assert_close(arrays["logits"], found.logits)
    assert_close(arrays["global_logits"], found.global_logits)
    assert arrays["attention"].shape == (3, 8, 2, 2)

    rows = [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()[1:4]]
    empty = found.attention.empty.mean(axis=1)
    for row, sentence, logit, other, nothing in zip(
        rows, SENTENCES, found.logits, found.global_logits, empty, strict=True
    ):
        assert row == [f"{logit:.2f}", f"{other:.2f}", f"{100 * nothing:.1f}", "%", sentence]
    first = Image.open(tmp_path / "a" / "attention_1_the-face-of-a-tabby-cat.png")
    above = flair_jax.overlay(pixels, found.attention.heads[0].mean(axis=0))
    np.testing.assert_array_equal(np.asarray(first)[: len(above)], above)
    described = [Image.open(path).text["Description"] for path in sorted((tmp_path / "a").glob("attention*.png"))]
    assert described == ["\n".join(SENTENCES), *SENTENCES]


def test_the_end_of_a_sentence_that_is_not_read_is_named(small_checkpoint, cat, tmp_path, capsys) -> None:
    assert attend(small_checkpoint, cat, tmp_path / "a", "a cat", "a cat" + " ," * 100) == 0
    remarks = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sentence ")]
    assert remarks == ["sentence 2 has 102 tokens, of which the model reads the first 75: its end changes nothing"]


def test_patches_and_heads(small_checkpoint, cat, tmp_path) -> None:
    assert attend(small_checkpoint, cat, tmp_path, "a cat", "--kind", "patches") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"patches.png", "patches_1_a-cat.png", "maps.npz"}
    arrays = np.load(tmp_path / "maps.npz")
    drawn = np.asarray(Image.open(tmp_path / "patches_1_a-cat.png"))
    above = flair_jax.overlay(arrays["pixels"], arrays["patches"][0])
    np.testing.assert_array_equal(drawn, write_below(above, "a cat"))

    assert attend(small_checkpoint, cat, tmp_path, "a cat", "--per-head") == 0
    for head, weights in enumerate(arrays["attention"][0], start=1):
        drawn = np.asarray(Image.open(tmp_path / f"attention_1_a-cat_head_{head}.png"))
        above = flair_jax.overlay(arrays["pixels"], weights)
        np.testing.assert_array_equal(drawn, write_below(above, "a cat", f"attention of head {head} of 8"))
    assert (tmp_path / "patches.png").exists(), "what another call wrote is left"


@pytest.mark.parametrize("size", [(40, 200), (301, 33), (1, 1)])
def test_pictures_of_any_size(small_checkpoint, tmp_path, size: tuple[int, int]) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "a.png")
    assert attend(small_checkpoint, tmp_path / "a.png", tmp_path / "out", "noise") == 0
    assert (tmp_path / "out" / "attention.png").stat().st_size > 1000


def test_bad_input_is_one_sentence_and_leaves_nothing(small_checkpoint, cat, tmp_path, monkeypatch, capsys) -> None:
    broken, text, output = tmp_path / "cut.png", tmp_path / "notes.txt", tmp_path / "out"
    broken.write_bytes(cat.read_bytes()[:9000])
    text.write_text("not a picture")
    (tmp_path / "empty.png").touch()

    def message(*arguments: str, picture: Path = cat, checkpoint: Path = small_checkpoint) -> str:
        assert attend(checkpoint, picture, output, *arguments) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("flair-jax: error: ")
        assert printed.err.count("\n") == 1
        assert not output.exists()
        return printed.err

    assert "gone.png: no such picture" in message("a cat", picture=tmp_path / "gone.png")
    assert "cut.png: cannot be read as a picture" in message("a cat", picture=broken)
    assert "the format is none of JPEG, PNG" in message("a cat", picture=text)
    assert "empty.png: the file is empty" in message("a cat", picture=tmp_path / "empty.png")
    assert "is a folder, not a picture" in message("a cat", picture=tmp_path)
    assert "no checkpoint here" in message("a cat", checkpoint=tmp_path / "gone")
    assert "sentence 2 of 2 is empty" in message("a cat", " ")
    assert 'the sentence "a \\udce9" is not in UTF-8' in message("a \udce9")
    assert "--per-head is for --kind attention" in message("a cat", "--kind", "patches", "--per-head")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'install "matplotlib>=3.9" "jinja2>=3.1" (the extra `demo`)' in message("a cat")


def test_an_output_that_is_a_file_is_one_sentence(small_checkpoint, cat, capsys) -> None:
    assert attend(small_checkpoint, cat, cat, "a cat") == 2
    assert "chelsea.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["attention.png", "attention_1_a-cat.png", "attention_1_a-cat_head_2.png"])
def test_the_picture_itself_is_not_replaced(small_checkpoint, cat, tmp_path, capsys, name: str) -> None:
    shutil.copy(cat, tmp_path / name)
    assert attend(small_checkpoint, tmp_path / name, tmp_path, "a cat", "--per-head") == 2
    assert f"{name}: is read by this command, which would replace it" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == cat.read_bytes()


def test_the_command_says_what_is_missing(cat) -> None:
    outcome = subprocess.run(
        [Path(sys.executable).with_name("flair-jax"), "attend", cat, "a cat"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 2
    assert "the following arguments are required: --checkpoint, --output" in outcome.stderr
