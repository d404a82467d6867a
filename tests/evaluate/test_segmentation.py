"""Segmentation from pictures on disk to metrics, with a small model of 2 x 2 patches of 16 pixels."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from killed import run_killed
from made_segmentation import make_ade, make_cityscapes, write_labels, write_picture
from parsed import parse
from PIL import Image

import flair_jax
from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.data.sets.segmentation import SEGMENTATION_SETS
from flair_jax.errors import DatasetError
from flair_jax.evaluate import segmentation, tasks
from flair_jax.evaluate.segmentation import PatchScorer, SegmentationSettings, segment
from flair_jax.evaluate.segmentation_metrics import confusion_matrix, segmentation_metrics
from flair_jax.models.flair import Flair
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever

PICTURES = 5


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC's layout with pictures of several sizes, whose pixels are of all classes."""
    root = tmp_path_factory.mktemp("voc")
    names = [f"2007_00000{number}" for number in range(PICTURES)]
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        size = (40 + 13 * number, 50)
        write_picture(root / "JPEGImages" / f"{name}.jpg", size, seed=number)
        values = rng.choice([*range(21), 255], size[0] * size[1]).tolist()
        write_labels(root / "SegmentationClass" / f"{name}.png", values, size, mode="P")
    return root


@pytest.fixture(scope="module")
def retriever(small_model) -> Retriever:
    """One for all tests, so that each shape is compiled once."""
    return Retriever(*small_model)


@pytest.fixture(scope="module")
def lively(small_model) -> tuple[Flair, dict]:
    """Without the biases that make all features of random parameters alike, so that several classes are predicted."""
    model, params = small_model

    def without_bias(path, leaf):
        names = [key.key for key in path]
        return leaf * 0 if names[-1] == "bias" and any(name.startswith("ln_") for name in names) else leaf

    return model, jax.tree_util.tree_map_with_path(without_bias, params)


@pytest.fixture
def compiled(retriever, monkeypatch) -> None:
    """The command with what is compiled already."""
    monkeypatch.setattr(tasks, "Retriever", lambda *_: retriever)


def evaluate(checkpoint: Path, *arguments: object) -> int:
    common = ["evaluate", "--task", "segment", "--checkpoint", str(checkpoint), "--batch-size", "8"]
    return main([*common, *map(str, arguments)])


@pytest.mark.parametrize("segment_by", segmentation.SEGMENT_BY)
def test_a_picture_of_one_window_is_scored_as_by_the_model_itself(small_model, retriever, segment_by: str) -> None:
    model, params = small_model
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    texts = ("a photo of a cat.", "a photo of a dog.", "a photo of a tree.")
    data = segmentation.SegmentationData(
        ["a", "b", "c"],
        ("cat", "dog", "tree"),
        (("cat",), ("dog",), ("tree",)),
        ("a photo of a {}.",),
        32,
        lambda _: None,
    )
    settings = SegmentationSettings(segment_by, batch_size=8)
    scorer = PatchScorer(model, retriever, data, settings)
    scored = dict(scorer.score(zip(data.names, pixels[:, None], strict=True)))
    _, local = jax.jit(model.encode_image)(params, flair_jax.normalize(pixels))
    text = jax.jit(model.encode_text)(params, flair_jax.tokenize(texts, model.config.text.context_length))
    if segment_by == "patches":
        image = np.broadcast_to(local[:, :, None], (3, 4, 3, local.shape[-1]))
    else:
        image = np.reshape(jax.jit(model.pool)(params, local.reshape(12, 1, -1), text), (3, 4, 3, -1))
    image, text = np.asarray(image), np.asarray(text)
    expected = np.sum(image * text, -1) / np.linalg.norm(image, axis=-1) / np.linalg.norm(text, axis=-1)
    for number, name in enumerate(data.names):
        # Cosines of the block scoring are summed in another order than here; measured 3e-7.
        np.testing.assert_allclose(scored[name][0], expected[number], atol=3e-6)


def test_batches_run_over_pictures_and_change_nothing(small_model, retriever) -> None:
    model, _ = small_model
    rng = np.random.default_rng(2)
    counts = [3, 0, 1, 9, 2, 0]
    pictures = [(number, rng.integers(0, 256, (count, 32, 32, 3), np.uint8)) for number, count in enumerate(counts)]
    data = segmentation.SegmentationData(
        [], ("a", "b"), (("cat",), ("dog", "cow")), ("{}", "one {}"), 32, lambda _: None
    )
    results = []
    for size in (1, 8, 24):
        scorer = PatchScorer(model, retriever, data, SegmentationSettings(batch_size=size))
        scored = list(scorer.score(iter(pictures)))
        assert [number for number, _ in scored] == list(range(len(counts)))
        assert [len(scores) for _, scores in scored] == counts
        results.append(np.concatenate([scores for _, scores in scored if len(scores)]))
        assert results[-1].shape == (15, 4, 2)
    # Batches of another size are compiled to sums in another order; measured 1e-7.
    np.testing.assert_allclose(results[1], results[0], atol=2e-6)
    np.testing.assert_allclose(results[2], results[0], atol=2e-6)


def test_the_best_word_of_a_class_counts_and_templates_are_averaged(small_model, retriever) -> None:
    model, _ = small_model
    window = np.random.default_rng(3).integers(0, 256, (1, 32, 32, 3), np.uint8)

    def scores(texts, templates=("{}",)) -> np.ndarray:
        data = segmentation.SegmentationData([], ("x",) * len(texts), texts, templates, 32, lambda _: None)
        scorer = PatchScorer(model, retriever, data, SegmentationSettings(batch_size=8))
        return next(scorer.score([(0, window)]))[1]

    apart = scores((("cat",), ("dog",), ("cow",)))
    joined = scores((("cat",), ("dog", "cow")))
    np.testing.assert_allclose(joined[..., 1], apart[..., 1:].max(-1), atol=1e-6)
    one, other, both = (scores((("cat",),), templates) for templates in (("a {}",), ("the {}",), ("a {}", "the {}")))
    text = retriever.encode_texts(flair_jax.tokenize(["a cat", "the cat"]), pad_to=8)
    length = np.linalg.norm(sum(each / np.linalg.norm(each) for each in text))
    np.testing.assert_allclose(both, (one + other) / length, atol=2e-6)


def test_metrics_of_a_set_are_those_of_its_pixels(lively, voc, monkeypatch) -> None:
    """The same prediction, computed picture by picture from public functions, with no blocks and no batches."""
    model, params = lively
    retriever = Retriever(model, params)
    data = dataclasses.replace(SEGMENTATION_SETS["voc21"].load(voc), templates=("{} {} {}",))
    settings = SegmentationSettings(short_side=32, batch_size=8)
    result = segment(model, retriever, data, settings, BlockStore(None))
    assert result.images == PICTURES
    total = np.zeros((21, 21), int)
    encode_image = jax.jit(model.encode_image)
    tokens = flair_jax.tokenize([" ".join(words * 3) for words in data.texts])
    text = np.asarray(jax.jit(model.encode_text)(params, tokens))
    text = text / np.linalg.norm(text, axis=-1, keepdims=True)
    for number in range(PICTURES):
        picture, truth = data.read(number)
        short = min(picture.size)
        columns, rows = (max(round(length * 2 / short), 2) for length in picture.size)
        pixels = np.asarray(picture.resize((columns * 16, rows * 16), Image.Resampling.BICUBIC))
        total_scores, counts = np.zeros((rows, columns, 21)), np.zeros((rows, columns, 1))
        for top in range(rows - 1):  # windows of 2 patches, 1 apart
            for left in range(columns - 1):
                cut = pixels[top * 16 : top * 16 + 32, left * 16 : left * 16 + 32]
                local = np.asarray(encode_image(params, flair_jax.normalize(cut[None]))[1][0])
                cosines = local @ text.T / np.linalg.norm(local, axis=-1, keepdims=True)
                total_scores[top : top + 2, left : left + 2] += np.reshape(cosines, (2, 2, 21))
                counts[top : top + 2, left : left + 2] += 1
        patches = (total_scores / counts).astype(np.float32)
        enlarged = jax.image.resize(patches, (*truth.shape, 21), "linear", antialias=False)
        total += confusion_matrix(truth, np.asarray(enlarged.argmax(-1), np.uint8), 21)
    expected = segmentation_metrics(total, data.classes)
    assert (total.sum(axis=0) > 0).sum() >= 3, "several classes are predicted"
    # A pixel where two classes tie but for rounding may fall either way.
    assert result.metrics["pixel_accuracy"] == pytest.approx(expected["pixel_accuracy"], abs=1e-3)
    assert result.metrics["mean_iou"] == pytest.approx(expected["mean_iou"], abs=1e-3)
    monkeypatch.setattr(segmentation, "_BLOCK", 2)
    assert segment(model, retriever, data, settings, BlockStore(None)).metrics == result.metrics


def test_from_a_folder_to_a_table_a_file_and_pictures(small_checkpoint, voc, tmp_path, capsys) -> None:
    output, save = tmp_path / "voc20.json", tmp_path / "pictures"
    assert not evaluate(
        *(small_checkpoint, "--dataset", "voc20", "--data-dir", voc, "--output", output, "--save", save),
        *("--short-side", 48),
    )
    printed = capsys.readouterr()
    assert "images/s" in printed.err, "a progress bar with a rate"
    document = json.loads(output.read_text())
    (result,) = document["results"]
    assert result["metrics"]["mean_iou"] > 0
    row = next(line for line in printed.out.splitlines() if line.startswith("mean IoU"))
    assert row.split()[-1] == f"{100 * result['metrics']['mean_iou']:.1f}"
    assert (result["images"], result["images_of_whole_set"]) == (PICTURES, 1449)
    assert f"segmentation of {PICTURES} of 1,449 pictures" in printed.out
    assert result["cut_off"]["texts_share"] == 0
    assert "voc20: 0.0 % of the texts are longer than the model's 77 tokens" in printed.out
    assert document["settings"]["short_side"] == 48
    assert document["settings"]["templates"] == ["a photo of a {}."]
    assert len(result["metrics"]["iou"]) == 20
    assert "reported" not in printed.out
    files = [f"2007_00000{number}.png" for number in range(PICTURES)]
    assert sorted(path.name for path in save.iterdir()) == [*files, "index.html"]
    assert f"written: {save / 'index.html'}" in printed.out
    with Image.open(save / files[0]) as sheet:
        assert sheet.width == 3 * round(384 * 40 / 50) + 8
        assert sheet.height > 384
    page = parse((save / "index.html").read_text())
    assert f"mean IoU {100 * result['metrics']['mean_iou']:.1f} %" in page.text
    assert {attributes["src"] for tag, attributes in page.tags if tag == "img"} == set(files)
    assert not list(tmp_path.glob("*.partial*"))


def test_background_is_what_exceeds_no_threshold(compiled, small_checkpoint, voc, tmp_path) -> None:
    common = ("--dataset", "voc21", "--data-dir", voc, "--output")
    assert not evaluate(small_checkpoint, *common, tmp_path / "all.json", "--background-threshold", 1)
    assert not evaluate(small_checkpoint, *common, tmp_path / "none.json", "--background-threshold", -1)
    everything, nothing = (
        json.loads((tmp_path / f"{name}.json").read_text())["results"][0]["metrics"]["iou"] for name in ("all", "none")
    )
    assert everything["background"] > 0
    assert {value for name, value in everything.items() if name != "background"} <= {0, None}
    assert nothing["background"] == 0


def test_words_and_templates_change_the_texts(compiled, small_checkpoint, voc, tmp_path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"thing {number}, object {number}" for number in range(20)))
    (tmp_path / "templates.txt").write_text("{}\nsome {}\n")
    common = ("--dataset", "voc20", "--data-dir", voc, "--output")
    options = ("--class-names", tmp_path / "names.txt", "--templates", tmp_path / "templates.txt")
    assert not evaluate(small_checkpoint, *common, tmp_path / "a.json")
    assert not evaluate(small_checkpoint, *common, tmp_path / "b.json", *options)
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert first["results"][0]["metrics"] != second["results"][0]["metrics"]
    assert second["settings"]["templates"] == ["{}", "some {}"]


def test_what_users_report_stands_beside_a_released_checkpoint(compiled, small_model, voc, tmp_path, capsys) -> None:
    checkpoint.save(tmp_path / "merged30m", *small_model, {"file": "flair-merged30m.pt"})
    assert not evaluate(tmp_path / "merged30m", "--dataset", "voc20", "--data-dir", voc)
    assert "mean IoU reported by users  73.0" in capsys.readouterr().out
    assert not evaluate(
        tmp_path / "merged30m", "--dataset", "voc20", "--data-dir", voc, "--segment-by", "pooled-patches"
    )
    assert "reported" not in capsys.readouterr().out


@pytest.fixture
def with_broken(voc, tmp_path) -> Path:
    """The pictures, one gone, and one whose annotation is of another size."""
    folder = tmp_path / "broken"
    shutil.copytree(voc, folder)
    (folder / "JPEGImages/2007_000001.jpg").unlink()
    write_labels(folder / "SegmentationClass/2007_000003.png", [1])
    return folder


def test_broken_pictures_are_listed_and_fail_or_are_left_out(
    compiled, small_checkpoint, with_broken, tmp_path, capsys
) -> None:
    output = tmp_path / "out.json"
    save = tmp_path / "pictures"
    save.mkdir()
    (save / "2007_000001.png").write_bytes(b"of an earlier run, when the picture was there")
    common = ("--dataset", "voc20", "--data-dir", with_broken, "--output", output, "--save", save)
    assert evaluate(small_checkpoint, *common) == 2
    message = capsys.readouterr().err
    assert f"2 of {PICTURES} pictures cannot be read; mend them, or pass --skip-broken" in message
    assert "2007_000001.jpg: no such picture" in message
    assert "2007_000003.png: is 6x4 pixels, its picture 79x50" in message
    assert not output.exists()
    assert not evaluate(small_checkpoint, *common, "--skip-broken")
    (result,) = json.loads(output.read_text())["results"]
    assert result["images"] == PICTURES - 2
    assert len(result["skipped"]) == 2
    assert "left out 2 broken pictures:" in capsys.readouterr().out
    assert sorted(path.name for path in save.glob("*.png")) == [f"2007_00000{number}.png" for number in (0, 2, 4)]
    assert "Not shown: 2 of the set" in (save / "index.html").read_text()


def test_a_killed_run_resumes_where_it_was(compiled, small_checkpoint, voc, tmp_path, monkeypatch) -> None:
    common = ("--dataset", "voc20", "--data-dir", voc, "--output")
    assert not evaluate(small_checkpoint, *common, tmp_path / "whole.json")
    output = tmp_path / "killed.json"
    rest = (output, "--save", tmp_path / "pictures")
    words = ["evaluate", "--task", "segment", "--checkpoint", small_checkpoint, "--batch-size", 8, *common, *rest]
    setup = "from flair_jax.evaluate import segmentation; segmentation._BLOCK = 2"
    run_killed(BlockStore, "put", 2, *words, setup=setup)
    assert not output.exists()
    assert len(list(tmp_path.glob("killed.json.partial/*/confusion-00000000.npy"))) == 1

    read = []
    monkeypatch.setattr(segmentation, "_BLOCK", 2)
    read_one = segmentation._read_one
    monkeypatch.setattr(segmentation, "_read_one", lambda *a: read.append(a[-1]) or read_one(*a))
    assert not evaluate(small_checkpoint, *common, *rest)
    assert sorted(read) == [2, 3, 4], "the first block's pictures are not read again"
    assert (tmp_path / "pictures" / "index.html").read_text().count("<section") == PICTURES, "but are on the page"
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "killed.json"))
    assert first["results"][0]["metrics"] == second["results"][0]["metrics"]
    assert not (tmp_path / "killed.json.partial").exists()


def test_a_block_with_gaps_is_not_kept(small_model, retriever, with_broken, tmp_path) -> None:
    """A picture that was mended after a failed run counts in the next one."""
    data = SEGMENTATION_SETS["voc20"].load(with_broken)
    store = BlockStore(tmp_path / "store")
    monitored = dataclasses.replace(data, names=data.names[:1] + data.names[1:2])
    with pytest.raises(DatasetError, match="1 of 2 pictures cannot be read"):
        segment(small_model[0], retriever, monitored, SegmentationSettings(short_side=32, batch_size=8), store)
    assert not list(tmp_path.glob("store/*.npy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "voc"), "dataset voc: no such set; did you mean voc2"),
        (("--dataset", "voc20", "--background-threshold", "0.1"), "--background-threshold: voc20 has no background"),
        (
            ("--dataset", "voc20", "--short-side", "16"),
            "--short-side 16: must be at least a window's side, which is 32",
        ),
        (
            ("--dataset", "voc20", "--mode", "global"),
            "--mode: is for --task retrieval, classify, choose only, not for segment",
        ),
        (("--dataset", "voc20", "--top-k", "5"), "--top-k: is for --task retrieval only, not for segment"),
        (("--dataset", "voc20", "--save", "FILE"), "is a file"),
        (("--dataset", "voc20", "--output", "FOLDER"), "is a folder; name a file"),
        (("--dataset", "voc20", "--templates", "gone.txt"), "templates gone.txt: no such file"),
        (("--dataset", "voc20", "--class-names", "gone.txt"), "gone.txt: cannot be read as text"),
        (("--dataset", "ade20k"), "ade20k needs images/validation there"),
    ],
)
def test_bad_input_is_one_sentence(small_checkpoint, voc, tmp_path, capsys, arguments, message: str) -> None:
    (tmp_path / "file").write_text("")
    places = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path)}
    words = [places.get(word, word) for word in arguments]
    assert evaluate(small_checkpoint, "--data-dir", voc, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("flair-jax: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_segmentations_options_are_refused_by_retrieval(small_checkpoint, voc, capsys) -> None:
    arguments = ["evaluate", "--checkpoint", str(small_checkpoint), "--dataset", "coco", "--data-dir", str(voc)]
    assert main([*arguments, "--short-side", "336"]) == 2
    assert "--short-side: is for --task segment only, not for retrieval" in capsys.readouterr().err


def test_a_set_with_folders_in_its_names_is_saved_flat(compiled, small_checkpoint, tmp_path) -> None:
    make_cityscapes(tmp_path / "data", [7, 33, 8])
    save = tmp_path / "pictures"
    assert not evaluate(small_checkpoint, "--dataset", "cityscapes", "--data-dir", tmp_path / "data", "--save", save)
    names = sorted(path.name for path in save.iterdir())
    assert names == ["index.html", "lindau_lindau_000000_000019.png", "munster_munster_000001_000019.png"]
    make_ade(tmp_path / "ade", [1, 150])
    assert not evaluate(small_checkpoint, "--dataset", "ade20k", "--data-dir", tmp_path / "ade")
