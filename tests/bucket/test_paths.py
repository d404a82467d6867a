"""Paths in buckets wherever a command or function takes one, other than training data."""

import json
import multiprocessing
import os

import jax
import numpy as np
import pytest
from own_bucket import Bucket
from PIL import Image

import flair_jax
from flair_jax import bucket_lock, buckets, checkpoint
from flair_jax.bucket_reads import filesystem
from flair_jax.cli import main
from flair_jax.errors import CheckpointError, ConfigError, StorageError
from flair_jax.files import expand, list_files, locked, replace_when_complete, writing
from flair_jax.models.config import FlairConfig, TextConfig, VisionConfig
from flair_jax.models.flair import Flair
from flair_jax.scoring.blocks import BlockStore
from flair_jax.train.flags import parse_config

pytestmark = pytest.mark.bucket


@pytest.fixture(scope="module")
def model() -> Flair:
    vision = VisionConfig(image_size=32, patch_size=16, width=24, layers=1, head_width=8)
    return Flair(FlairConfig(16, vision, TextConfig(context_length=16, width=16, heads=2, layers=1)))


@pytest.fixture(scope="module")
def params(model: Flair):
    return model.init(jax.random.key(0))


def test_files_appear_whole_or_not_at_all(bucket: Bucket) -> None:
    path = expand(f"{bucket.url}/files/a.json")

    def fail() -> None:
        with replace_when_complete(path) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not path.exists()
    with replace_when_complete(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert expand(str(path).replace("://", ":/")) == path  # as pathlib has it


def test_a_folder_is_replaced_and_its_last_file_goes_last(bucket: Bucket, monkeypatch) -> None:
    path = expand(f"{bucket.url}/folder")

    def write(*names: str) -> None:
        with replace_when_complete(path) as partial:
            for number, name in enumerate(names):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_text(f"{names}")
                os.utime(partial / name, ns=(number, number))

    write("x/1", "x/2", "done")
    write("x/2", "y", "done")
    assert sorted(list_files(path)) == ["done", "x/2", "y"]

    def cut(source: str, target: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(filesystem(str(path))[0], "put_file", cut)
    with pytest.raises(KeyboardInterrupt):
        write("x/2", "z", "done")
    assert "done" not in list_files(path)


@pytest.mark.parametrize("ending", ["", ".safetensors"])
def test_checkpoints(bucket: Bucket, model: Flair, params, ending: str, tmp_path, capsys) -> None:
    """Saved, exported and converted there, and read from there."""
    saved, exported = f"{bucket.url}/saved{ending}", f"{bucket.url}/exported{ending}"
    checkpoint.save(saved, model, params, {"file": "made.pt"})
    assert main(["export", saved, exported]) == 0
    assert main(["convert", exported, f"{bucket.url}/again{ending}", "--config", _description(tmp_path, model)]) == 0
    for each in (saved, f"{bucket.url}/again{ending}"):
        _, found = flair_jax.load(each)
        jax.tree.map(np.testing.assert_array_equal, found, params)
    assert "fetch" in capsys.readouterr().err


def _description(folder, model: Flair) -> str:
    from flair_jax.models.description import config_to_json

    (folder / "model.json").write_text(json.dumps(config_to_json(model.config)))
    return str(folder / "model.json")


def test_damage_is_noticed(bucket: Bucket, model: Flair, params) -> None:
    path = expand(f"{bucket.url}/damaged")
    checkpoint.save(path, model, params, {})
    (path / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="SHA256SUMS is missing"):
        flair_jax.load(path)


def test_a_lock_is_held_by_one_process(bucket: Bucket, monkeypatch) -> None:
    monkeypatch.setattr(bucket_lock, "REFRESH", 0.2)
    monkeypatch.setattr(bucket_lock, "STALE", 2.0)
    folder, busy = expand(f"{bucket.url}/locked"), CheckpointError("busy")
    with locked(folder, busy):
        with pytest.raises(CheckpointError, match=r"busy \(process \d+ on "), locked(folder, busy):
            pass
        assert list_files(folder) == [".lock"]
    assert list_files(folder) == []


def test_a_lock_whose_answer_is_lost_is_held(bucket: Bucket, monkeypatch) -> None:
    """The client asks again, and is told that the object is there already."""
    folder = expand(f"{bucket.url}/lost")
    store = filesystem(str(folder))[0]
    write = store.pipe_file

    def lose(name: str, content: bytes, **options) -> None:
        write(name, content, **options)
        if options:
            raise FileExistsError(name)

    monkeypatch.setattr(store, "pipe_file", lose)
    with locked(folder, CheckpointError("busy")):
        assert list_files(folder) == [".lock"]


def _hold(url: str, ready) -> None:
    with locked(expand(url), CheckpointError("busy")):
        ready.set()
        multiprocessing.Event().wait()


def test_the_lock_of_a_killed_process_is_taken_at_once(bucket: Bucket) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(f"{bucket.url}/killed", ready))
    process.start()
    assert ready.wait(60)
    process.kill()
    process.join()
    with locked(expand(f"{bucket.url}/killed"), CheckpointError("busy")):
        pass


def test_a_stale_lock_of_another_machine_is_taken_after_a_while(bucket: Bucket, monkeypatch) -> None:
    monkeypatch.setattr(bucket_lock, "REFRESH", 0.1)
    monkeypatch.setattr(bucket_lock, "STALE", 0.5)
    folder = expand(f"{bucket.url}/stale")
    (folder / ".lock").write_text(json.dumps({"owner": "process 1 on elsewhere", "process": 1, "place": "elsewhere"}))
    with locked(folder, CheckpointError("busy")):
        assert "elsewhere" not in (folder / ".lock").read_text()


def test_blocks_of_an_evaluation(bucket: Bucket) -> None:
    folder, array = expand(f"{bucket.url}/x.json.partial"), np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(BlockStore(folder).put("a", array), array)
    store = BlockStore(folder)
    np.testing.assert_array_equal(store.get("a"), array)
    store.remove()
    assert "a" not in BlockStore(folder)


def test_a_bucket_that_is_not_there(bucket: Bucket, model: Flair, params, capsys) -> None:
    missing = bucket.url.rstrip("0123456789") + "missing"
    with pytest.raises(StorageError, match="no such bucket"), writing("x"):
        checkpoint.save(f"{missing}/saved", model, params, {})
    assert main(["export", f"{missing}/saved", f"{bucket.url}/out"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_configurations(bucket: Bucket) -> None:
    text = "from flair_jax.configs.default import get_config as get\n\ndef get_config(seed='0'):\n    c = get()\n"
    expand(f"{bucket.url}/c.py").write_text(f"{text}    c.seed = int(seed)\n    return c\n")
    assert parse_config([f"--config={bucket.url}/c.py"]).seed == 0
    assert parse_config([f"--config={bucket.url}/c.py:3", "--config.steps=2"]).seed == 3


def test_an_index_is_searched_there_and_not_made_there(bucket: Bucket, model: Flair, params, tmp_path, capsys) -> None:
    checkpoint.save(tmp_path / "c", model, params, {})
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "pictures" / "red.png")
    made = ["index", str(tmp_path / "pictures"), "--checkpoint", str(tmp_path / "c"), "--output"]
    assert main([*made, f"{bucket.url}/index"]) == 2
    assert "an index is made on a disk" in capsys.readouterr().err
    assert main([*made, str(tmp_path / "index")]) == 0
    buckets.upload(tmp_path / "index", expand(f"{bucket.url}/index"))
    assert main(["search", f"{bucket.url}/index", "something red", "--checkpoint", str(tmp_path / "c")]) == 0
    assert "red.png" in capsys.readouterr().out


def test_names_that_cannot_be_used(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="names no bucket; write gs://BUCKET/FOLDER"):
        expand("gs://")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'gs://b/x: needs gcsfs: .*pip install.* "gcsfs>='):
        expand("gs://b/x")


def test_a_run_in_a_bucket_for_which_orbax_has_no_driver() -> None:
    from flair_jax.configs.default import get_config
    from flair_jax.settings import TrainSettings
    from flair_jax.train.run import train

    with pytest.raises(ConfigError, match="s3://b/run: checkpoints of a run are written to gs:// and to disks"):
        train(TrainSettings.from_config(get_config()), "s3://b/run")
