"""Zero-shot classification: scores, metrics, and the command."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from labelled import COLOURS, png, random_cifar, write_binary, write_folders, write_tfds
from numeric import assert_close

from flair_jax import checkpoint, normalize, preprocess, tokenize
from flair_jax.cli import main
from flair_jax.data.classification_sets import CLASSIFICATION_SETS, FileExamples
from flair_jax.data.prompts import cifar_names
from flair_jax.errors import FlairError
from flair_jax.evaluate import classification
from flair_jax.evaluate.blocks import BlockStore
from flair_jax.evaluate.classification import (
    ClassificationSettings,
    Classifier,
    class_features,
    classify,
)
from flair_jax.evaluate.metrics import class_ranks, classification_metrics
from flair_jax.evaluate.retrieval import Retriever

TEMPLATES = ("{}", "a photo of a {}.", "the {} thing in a long sentence about it")


def test_ranks_by_hand() -> None:
    """Ties count against the model, but between classes of one name the lower number ranks first."""
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.1], [0.2, 0.3, 0.3], [0.4, 0.4, 0.4]])
    apart = np.arange(3)
    assert class_ranks(scores, apart, np.array([0, 1, 0, 2, 1])).tolist() == [0, 1, 1, 1, 2]
    # Four classes with three names: the first and the last have the same.
    shared = np.array([0, 1, 2, 0])
    assert class_ranks(scores, shared, np.array([0, 3, 0, 3, 2])).tolist() == [0, 1, 1, 3, 3]
    assert class_ranks(scores[:1], shared, np.array([1])).tolist() == [2], "both classes of the better name are before"


def test_a_constant_score_earns_nothing() -> None:
    ranks = class_ranks(np.zeros((4, 6)), np.arange(6), np.array([0, 1, 2, 5]))
    assert classification_metrics(np.array([0, 1, 2, 5]), ranks) == {"top1": 0, "top5": 0, "mean_per_class_top1": 0}


def test_metrics_by_hand() -> None:
    """Class 0: 2 of 3 right; class 2: none; class 1 has no pictures."""
    metrics = classification_metrics(np.array([0, 0, 0, 2]), np.array([0, 0, 4, 5]))
    assert metrics == {"top1": 0.5, "top5": 0.75, "mean_per_class_top1": pytest.approx(1 / 3)}


def test_a_broken_model_is_one_sentence() -> None:
    with pytest.raises(FlairError, match="the scores hold NaN"):
        class_ranks(np.array([[0.0, np.nan]]), np.arange(2), np.array([0]))


def test_class_features_by_hand() -> None:
    """Direction: mean of (1, 0) and (0, 1). Length: mean of 1 and 3."""
    feature = class_features(np.array([[[1, 0], [0, 3]]], np.float32))
    np.testing.assert_allclose(feature, [[2 * 0.5**0.5, 2 * 0.5**0.5]], rtol=1e-6)
    one = np.random.default_rng(0).normal(size=(5, 1, 16)).astype(np.float32)
    np.testing.assert_allclose(class_features(one), one[:, 0], rtol=1e-6)
    assert np.all(np.isfinite(class_features(np.zeros((1, 2, 4), np.float32))))


@pytest.fixture(scope="module")
def pictures(small_model) -> np.ndarray:
    size = small_model[0].config.vision.image_size
    return np.random.default_rng(1).integers(0, 256, (11, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("mode", ["text-conditioned", "global"])
def test_scores_are_the_models_logits(small_model, pictures, mode: str, devices: int) -> None:
    """With one sentence a class, up to scale and bias, on any number of devices."""
    model, params = small_model
    tokens = tokenize([f"a photo of a {name}." for name in COLOURS])
    logits = jax.jit(model.logits if mode == "text-conditioned" else model.global_logits)
    expected = np.asarray(logits(params, normalize(pictures), tokens))
    expected = (expected - (params["logit_bias"] if mode == "text-conditioned" else 0)) / np.exp(params["logit_scale"])
    retriever = Retriever(model, params, jax.devices()[:devices])
    features = class_features(retriever.encode_texts(tokens)[:, None])
    assert_close(Classifier(retriever, features, mode).scores(pictures), expected)


@pytest.mark.parametrize("mode", ["text-conditioned", "global"])
def test_several_sentences(small_model, pictures, mode: str) -> None:
    """Against the definition: mean direction of the normalised features, which pools, and is compared."""
    model, params = small_model
    retriever = Retriever(model, params)
    each = np.stack(
        [retriever.encode_texts(tokenize([template.format(name) for template in TEMPLATES])) for name in COLOURS]
    )
    features = class_features(each)
    mean = (each / np.linalg.norm(each, axis=-1, keepdims=True)).mean(axis=1)
    image, local = jax.jit(model.encode_image)(params, normalize(pictures))
    seen = jax.jit(model.pool)(params, local, features) if mode == "text-conditioned" else np.asarray(image)[:, None]
    dots = (np.asarray(seen) * mean).sum(axis=-1)
    cosines = dots / np.linalg.norm(seen, axis=-1) / np.linalg.norm(mean, axis=-1)
    assert_close(Classifier(retriever, features, mode).scores(pictures), cosines)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    write_folders(root, (*COLOURS, "sea_green", "teal", "maroon", "sunglasses"), each=3)
    return root


def classified(small_model, folders: Path, settings: ClassificationSettings, devices: int = 8, **changes):
    model, params = small_model
    data = CLASSIFICATION_SETS["folder"].load(folders)
    data = type(data)(**{**vars(data), **changes})
    return classify(model, Retriever(model, params, jax.devices()[:devices]), data, settings, BlockStore(None))


@pytest.mark.parametrize("mode", ["text-conditioned", "global"])
def test_outcome_from_the_models_own_logits(small_model, folders, mode: str) -> None:
    """Metrics and classes, from logits of one picture at a time; the same on 1 and 8 devices, in any block size."""
    model, params = small_model
    data = CLASSIFICATION_SETS["folder"].load(folders)
    tokens = tokenize([f"the {name} one" for name in data.names])
    logits_of = jax.jit(model.logits if mode == "text-conditioned" else model.global_logits)
    examples = [data.examples[number] for number in range(len(data.examples))]
    pixels = [preprocess(each.picture, model.config.vision.image_size) for each in examples]
    logits = np.concatenate([np.asarray(logits_of(params, normalize(each[None]), tokens)) for each in pixels])
    labels = np.array([each.label for each in examples])
    order = np.argsort(-logits, axis=1)

    outcomes = [
        classified(small_model, folders, ClassificationSettings(mode, ("the {} one",), None, size), devices)
        for devices, size in ((1, 64), (8, 5))
    ]
    for outcome in outcomes:
        assert outcome.metrics["top1"] == np.mean(order[:, 0] == labels)
        assert outcome.metrics["top5"] == np.mean((order[:, :5] == labels[:, None]).any(axis=1))
        assert outcome.images == 21
        for number, each in enumerate(outcome.classes):
            own = labels == number
            assert (each["key"], each["pictures"]) == (data.keys[number], 3)
            assert each["top1"] == np.mean(order[own, 0] == number)
            wrong = [first for first in order[own, 0] if first != number]
            names = {data.names[first] for first in wrong if wrong.count(first) == max(map(wrong.count, wrong))}
            assert each["taken_for"] in (names or {None})
        assert outcome.classes == outcomes[0].classes


def test_texts_in_several_blocks(small_model, folders, monkeypatch) -> None:
    settings = ClassificationSettings("global", TEMPLATES)
    expected = classified(small_model, folders, settings)
    monkeypatch.setattr(classification, "_TEXTS_PER_BLOCK", 7)
    assert classified(small_model, folders, settings).classes == expected.classes


def test_classes_of_one_name_and_without_pictures(small_model, folders) -> None:
    """Of two classes of one name, the first wins all that the name wins, and the second nothing."""
    settings = ClassificationSettings("global", ("{}",))
    data = CLASSIFICATION_SETS["folder"].load(folders)
    files = [(data.examples[number].picture, number % 2) for number in range(len(data.examples))]
    outcome = classified(
        small_model, folders, settings, examples=FileExamples(files), keys=["a", "b", "c"], names=["x", "x", "x"]
    )
    assert [(each["pictures"], each["top1"], each["top5"]) for each in outcome.classes] == [
        (11, 1.0, 1.0),
        (10, 0.0, 1.0),
        (0, None, None),
    ]
    assert outcome.metrics == {"top1": 11 / 21, "top5": 1.0, "mean_per_class_top1": 0.5}


def evaluate(checkpoint: Path, *arguments: object) -> int:
    return main(["evaluate", "--task", "classify", "--checkpoint", str(checkpoint), *map(str, arguments)])


def test_the_command(small_checkpoint, folders, tmp_path, capsys) -> None:
    (tmp_path / "templates.txt").write_text("{}\na photo of a {}.\n")
    output = tmp_path / "folder.json"
    common = ("--dataset", "folder", "--data-dir", folders, "--output", output)
    assert not evaluate(small_checkpoint, *common, "--templates", tmp_path / "templates.txt")
    document = json.loads(output.read_text())
    assert set(document["metrics"]) == {"top1", "top5", "mean_per_class_top1"}
    assert document["templates"] == ["{}", "a photo of a {}."]
    assert (document["images"], document["images_of_whole_set"], document["skipped"]) == (21, None, [])
    assert document["settings"]["mode"] == "text-conditioned"
    assert document["settings"]["source"]["file"] == "small.safetensors"
    assert document["versions"]["jax"]
    assert len(document["classes"]) == 7
    printed = capsys.readouterr().out
    assert "classification, text-conditioned (top-k in per cent)" in printed
    assert "folder, worst classes" in printed
    assert "by others" not in printed
    assert not list(tmp_path.glob("*.partial*"))


def test_names_from_a_file_are_used(small_checkpoint, folders, tmp_path) -> None:
    names = {folder.name: f"thing {number}" for number, folder in enumerate(sorted(folders.iterdir()))}
    (tmp_path / "names.json").write_text(json.dumps(names))
    common = ("--dataset", "folder", "--data-dir", folders, "--output", tmp_path / "x.json")
    assert not evaluate(small_checkpoint, *common, "--class-names", tmp_path / "names.json", "--mode", "global")
    document = json.loads((tmp_path / "x.json").read_text())
    assert {each["key"]: each["name"] for each in document["classes"]} == names
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
    common = ("--dataset", "cifar10", "--data-dir", tmp_path)
    assert not evaluate(tmp_path / "merged", *common, "--templates", "cifar-9")
    printed = capsys.readouterr().out
    assert "by others (9 templates)" in printed
    assert "92.82" in printed
    assert "5 of 10,000" in printed
    assert not evaluate(tmp_path / "merged", *common, "--mode", "global")
    assert "92.82" not in capsys.readouterr().out
    checkpoint.save(tmp_path / "cc3m", *small_model, {"file": "flair-cc3m-recap.pt"})
    assert not evaluate(tmp_path / "cc3m", *common)
    assert "by others" not in capsys.readouterr().out


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
    document = json.loads(output.read_text())
    assert document["images"] == 20
    assert len(document["skipped"]) == 1
    assert {each["key"]: each["pictures"] for each in document["classes"]}["red"] == 2


def test_a_broken_record_is_named(small_checkpoint, tmp_path, capsys) -> None:
    write_cifar10(tmp_path, picture=png(random_cifar(1, 1)[0][0])[:200])
    assert evaluate(small_checkpoint, "--dataset", "cifar10", "--data-dir", tmp_path) == 2
    assert f"{tmp_path / 'cifar10'}, test, record 3: cannot be read as a picture" in capsys.readouterr().err


def test_a_killed_run_goes_on_where_it_was(small_checkpoint, folders, tmp_path, monkeypatch) -> None:
    common = ("--dataset", "folder", "--data-dir", folders, "--batch-size", 4, "--output")
    assert not evaluate(small_checkpoint, *common, tmp_path / "whole.json")
    script = (
        "import os, signal, sys\n"
        "from flair_jax.cli import main\n"
        "from flair_jax.evaluate.retrieval import Retriever\n"
        "score, calls = Retriever.score_all, []\n"
        "def killing(self, *a, **k):\n"
        "    calls.append(1)\n"
        "    return score(self, *a, **k) if len(calls) < 3 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "Retriever.score_all = killing\n"
        "main(sys.argv[1:])\n"
    )
    words = ["evaluate", "--task", "classify", "--checkpoint", small_checkpoint, *common, tmp_path / "killed.json"]
    killed = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
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
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "killed.json"))
    assert (first["metrics"], first["classes"]) == (second["metrics"], second["classes"])
    assert not (tmp_path / "killed.json.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "imagenet-1k"], "dataset imagenet-1k: no such set; did you mean imagenet?"),
        (["--dataset", "coco"], "dataset coco: no such set; choose from imagenet, cifar10, cifar100, folder"),
        (
            ["--dataset", "folder", "--mode", "top-k"],
            "--mode top-k is not for --task classify; choose text-conditioned",
        ),
        (
            ["--dataset", "folder", "--top-k", "5"],
            "--top-k is an option of --task retrieval; leave it out of --task cl",
        ),
        (["--dataset", "folder", "--templates", "gone"], "templates gone: no such file"),
        (["--dataset", "folder", "--templates", ""], "templates : no such file"),
        (
            ["--dataset", "folder", "--task", "retrieval", "--templates", "{}"],
            "--templates is an option of --task clas",
        ),
        (
            ["--dataset", "folder", "--task", "retrieval", "--class-names", "x"],
            "--class-names is an option of --task c",
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
