"""Evaluation shared by several real processes, against one."""

import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from runs import finish, spawn_all

from flair_jax.cli import main
from flair_jax.data.sets.retrieval import RETRIEVAL_SETS
from flair_jax.errors import DatasetError
from flair_jax.evaluate.retrieval import RETRIEVAL_MODES, Evaluation, RetrievalSettings, evaluate
from flair_jax.parallel.processes import Processes, check_cluster
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever

SCRIPT = Path(__file__).with_name("shared_run.py")


def write_set(folder: Path, images: int) -> None:
    """Noise, each picture with one to three captions, in another order than the pictures."""
    rng = np.random.default_rng(images)
    folder.mkdir(parents=True)
    lines = []
    for number in range(images):
        Image.fromarray(rng.integers(0, 256, (40, 36 + number, 3), np.uint8)).save(folder / f"{number}.png")
        for each in range(1 + number % 3):
            caption = " ".join(["word"] * (1 + (5 * number + each) % 11)) + f" {number}"
            lines.append(json.dumps({"image": f"{number}.png", "caption": caption}))
    (folder / "captions.jsonl").write_text("\n".join(rng.permutation(lines)))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """13 pictures, which neither 2 nor 4 processes divide; 3, of which one of 4 processes gets none; and 5, the last
    two of which, read by the last process, are cut short and gone."""
    folder = tmp_path_factory.mktemp("sets")
    for name, images in (("a", 13), ("b", 3), ("broken", 5)):
        write_set(folder / name, images)
    *_, short, gone = RETRIEVAL_SETS["folder"].load(folder / "broken").images
    os.truncate(short, 900)
    gone.unlink()
    return folder


@pytest.fixture(scope="module")
def retriever(small_model) -> Retriever:
    return Retriever(*small_model, jax.devices()[:1])


@pytest.fixture(scope="module")
def alone(small_model, retriever, data) -> dict[str, list[Evaluation]]:
    """What one process finds, by mode, in each set."""
    return {
        mode: [
            evaluate(
                small_model[0],
                retriever,
                RETRIEVAL_SETS["folder"].load(data / name),
                RetrievalSettings(mode, top_k=5, batch_size=4, skip_broken=True),
                BlockStore(None),
            )
            for name in ("a", "b", "broken")
        ]
        for mode in RETRIEVAL_MODES
    }


def check(outcomes: list[tuple[int, str, str]], output: Path, alone: dict[str, list[Evaluation]]) -> list[int]:
    """That all ended well with the numbers of one process; how many pictures each embedded."""
    assert [status for status, _, _ in outcomes] == [0] * len(outcomes), outcomes[0][2]
    for mode in RETRIEVAL_MODES:
        document = json.loads((output / f"{mode}.json").read_text())
        assert document["processes"] == len(outcomes)
        for result, expected in zip(document["results"], alone[mode], strict=True):
            assert result["metrics"] == expected.metrics
            for name in ("images", "texts", "skipped"):
                assert result[name] == getattr(expected, name)
    assert sorted(path.name for path in output.iterdir()) == sorted(f"{mode}.json" for mode in RETRIEVAL_MODES)
    assert outcomes[0][1].count("retrieval, ") == len(RETRIEVAL_MODES)
    assert "pairs/s" in outcomes[0][2]
    for _, out, err in outcomes[1:]:
        assert "retrieval, " not in out
        assert "pairs/s" not in err
    return [int(out.split("embedded ")[1].split()[0]) for _, out, _ in outcomes]


def test_four_processes(small_checkpoint, data, alone, tmp_path) -> None:
    outcomes = list(map(finish, spawn_all(SCRIPT, small_checkpoint, data, tmp_path / "out", processes=4, devices=1)))
    parts = check(outcomes, tmp_path / "out", alone)
    assert parts == [3 * (3 + 0 + 1), 3 * (3 + 1 + 1), 3 * (3 + 1 + 1), 3 * (4 + 1 + 0)]
    words = [out.split("failed: ")[1].strip() for _, out, _ in outcomes]
    assert words == ["process 3: it has no disk"] * 3 + ["it has no disk"]


def test_two_processes_killed_and_again(small_checkpoint, data, alone, tmp_path, monkeypatch) -> None:
    """One is killed in its second block of scores, and with it the run; the next embeds nothing anew."""
    arguments = (SCRIPT, small_checkpoint, data, tmp_path / "out")
    monkeypatch.setenv("KILL_AFTER", "2")
    first, second = spawn_all(*arguments, processes=2, devices=2)
    assert finish(second)[0] == -signal.SIGKILL
    first.kill()
    finish(first)
    (folder,) = (tmp_path / "out" / f"{RETRIEVAL_MODES[0]}.json.partial").iterdir()
    images = sorted(folder.glob("images-*"))
    assert sum(len(np.load(path)) for path in images) == 13
    assert len(images) == 7, "of 6 and 7 pictures, two at a time"
    assert (folder / "scores-4f53cda1-00000006.npy").is_file()
    monkeypatch.delenv("KILL_AFTER")
    outcomes = list(map(finish, spawn_all(*arguments, processes=2, devices=2)))
    parts = check(outcomes, tmp_path / "out", alone)
    assert parts == [2 * 6 + 3 * (1 + 2), 2 * 7 + 3 * (2 + 1)]


def test_broken_pictures_that_one_host_reads_stop_both(small_checkpoint, data, tmp_path) -> None:
    output = tmp_path / "metrics.json"
    words = ("-m", "flair_jax.cli", "evaluate", "--dataset", "folder", "--mode", "global", "--checkpoint")
    arguments = (small_checkpoint, "--data-dir", data / "broken", "--output", output)
    for status, _, err in list(map(finish, spawn_all(*words, *arguments, processes=2, devices=1))):
        assert status == 2
        assert "2 of 5 pictures cannot be read; mend them, or pass --skip-broken" in err
        assert "cannot be read as a picture" in err
        assert "no such picture" in err
        assert "Traceback" not in err
    assert not output.exists()


@pytest.mark.parametrize("total", [0, 1, 3, 13])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_cover_everything_once(total: int, count: int) -> None:
    parts = [Processes(index, count).part(total) for index in range(count)]
    assert [number for part in parts for number in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_hosts_must_agree(monkeypatch) -> None:
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, "other"])
    with pytest.raises(DatasetError, match="the captions differ between the processes; give all of them the same"):
        Processes(0, 2).agree("this", "the captions")


@pytest.mark.parametrize(
    ("distributed", "options"),
    [(True, {"coordinator": "host:1", "process": None, "processes": 2}), (False, {"coordinator": "host:1"})],
)
def test_options_go_together(distributed: bool, options: dict) -> None:
    with pytest.raises(ValueError, match="--coordinator, --process and --processes go together, and with --distrib"):
        check_cluster(distributed, options)


def test_no_other_processes_is_one_sentence(small_checkpoint, data, monkeypatch, capsys) -> None:
    def not_there(*arguments: object) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", not_there)
    arguments = ("evaluate", "--checkpoint", small_checkpoint, "--dataset", "folder", "--data-dir", data / "a")
    assert main([*map(str, arguments), "--distributed"]) == 2
    error = capsys.readouterr().err
    assert "--distributed: the other processes are not found (coordinator_address should be defined.)" in error
    assert error.count("\n") == 1
    assert main([*map(str, arguments), "--process=1"]) == 2
    assert "--coordinator, --process and --processes go together" in capsys.readouterr().err
