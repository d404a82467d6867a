"""Checkpoints of a run: damage is found and named, and nothing else is taken for it; another run is not mixed in."""

import dataclasses
import json
import logging
import random
import re
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from small_run import SmallRun, settings

import flair_jax
from flair_jax import checkpoint
from flair_jax.errors import AnotherRunError, CheckpointError, StorageError
from flair_jax.settings import TrainSettings
from flair_jax.train import identity
from flair_jax.train.checkpoints import RunCheckpoints
from flair_jax.train.saved import ITEMS
from flair_jax.weights import locate

# Orbax's own notes, which are not read.
NOTES = {"_CHECKPOINT_METADATA", "commit_success.txt"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> SmallRun:
    """With checkpoints of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("saved")
    run = SmallRun(folder / "run", settings(folder))
    run.save(3, 6)
    checkpoint.save(folder / "converted", run.model, run.state(1).params, {"file": "small.safetensors"})
    return run


@pytest.fixture
def run(saved, tmp_path) -> SmallRun:
    """A copy to change."""
    shutil.copytree(saved.workdir, tmp_path / "run")
    return SmallRun(tmp_path / "run", saved.settings)


def changed(run: SmallRun, **changes: object) -> SmallRun:
    return SmallRun(run.workdir, settings(Path(run.settings.model).parent, **changes))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), one, other))


def flips(folder: Path, count: int):
    """So many times a file of `folder` in which one bit is flipped, as long as it is looked at; each file in turn."""
    files, draw = files_of(folder), random.Random(0)
    for number in range(count):
        file = files[number % len(files)]
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        yield file
        file.write_bytes(content)


def test_200_flips_in_a_checkpoint_of_a_run(run) -> None:
    """Going on notices each; loading the model notices those in what it reads, and is the same with the others."""
    newest = run.workdir / "checkpoints" / "6"
    harmless = set()
    for file in flips(newest, 200):
        name = file.relative_to(newest)
        assert bool(checkpoint.find_damage(newest, ITEMS)) == (str(name) not in NOTES), name
        if name.parts[0] in ("params", "description") or checkpoint.find_damage(newest, ["params", "description"]):
            with pytest.raises(CheckpointError, match="checkpoint is damaged"):
                read(newest, run)
        elif name not in harmless:  # once a file, for the time it takes
            assert same(read(newest, run), run.state(6).params)
            harmless.add(name)
    assert {str(name) for name in harmless} > NOTES


def read(folder: Path, run: SmallRun):
    """What `flair_jax.load` does; the model's shapes are known, for the time they take."""
    assert checkpoint.read_model_config(folder) == run.model.config
    return checkpoint.restore_params(folder, run.target.params)


@pytest.mark.parametrize("name", sorted(NOTES))
def test_orbax_own_notes_are_not_needed(run, name: str) -> None:
    file = run.workdir / "checkpoints" / "6" / name
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    assert same(run.restore(), (run.state(6), 6))


def test_200_flips_in_a_converted_checkpoint(saved, tmp_path) -> None:
    folder = shutil.copytree(saved.workdir.parent / "converted", tmp_path / "converted")
    for _ in flips(folder, 200):
        with pytest.raises(CheckpointError, match="checkpoint is damaged"):
            read(folder, saved)
    assert same(read(folder, saved), saved.state(1).params)


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("params", "flipped"),
        ("optimizer", "truncated"),
        ("progress", "flipped"),
        ("description", "missing"),
        ("SHA256SUMS", "missing"),
    ],
)
def test_the_one_before_a_damaged_checkpoint_is_taken(run, caplog, what: str, how: str) -> None:
    newest = run.workdir / "checkpoints" / "6"
    file = newest / what if what == "SHA256SUMS" else max(files_of(newest / what), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[:-1] if how == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    if how == "missing":
        file.unlink()
    state, step = run.restore()
    assert step == 3
    assert same(state, run.state(3))
    assert f"checkpoint {newest} is damaged and skipped ({file.relative_to(newest)}" in caplog.text
    assert [path.name for path in (run.workdir / "damaged").iterdir()] == ["6-0"]


def test_the_run_never_starts_again_by_itself(run) -> None:
    """Not when all is damaged, and not when what is damaged has been taken away."""
    for step in ("3", "6"):
        (run.workdir / "checkpoints" / step / "progress" / "metadata").write_text("{")
    for start in (run, changed(run, seed=7), run):
        with pytest.raises(CheckpointError, match="none of the checkpoints there is whole"):
            start.restore()
    assert not (run.workdir / "damaged").exists()
    (run.workdir / "checkpoints").rename(run.workdir / "damaged")
    with pytest.raises(CheckpointError, match="no checkpoint, but .* were set aside .* to start again from step 1"):
        run.restore()
    shutil.rmtree(run.workdir / "damaged")
    assert run.restore() is None


def test_a_checkpoint_of_another_step_than_its_name_says_is_not_gone_on_with(run) -> None:
    """Its state would get the batches of other steps."""
    folder = run.workdir / "checkpoints"
    (folder / "6").rename(folder / "8")
    with pytest.raises(CheckpointError, match="checkpoints/8: holds the state after step 6, under .*; rename it to 6"):
        run.restore()
    assert not (run.workdir / "damaged").exists()


def test_copies_beside_checkpoints_are_nobodys_affair(run, caplog) -> None:
    folder = run.workdir / "checkpoints"
    for name in ("6.bak", "9.bak", "9 (copy)"):
        shutil.copytree(folder / "6", folder / name)
    run.save(9)
    assert run.restore()[1] == 9
    assert not caplog.messages
    assert {path.name for path in folder.iterdir()} == {"6", "9", "6.bak", "9.bak", "9 (copy)"}


@pytest.mark.parametrize("name", ["params/.DS_Store", "optimizer/.nfs000000000000b7fc00000001", "progress/._metadata"])
def test_what_systems_put_into_folders_is_no_damage(run, caplog, name: str) -> None:
    (run.workdir / "checkpoints" / "6" / name).write_text("x")
    assert same(run.restore(), (run.state(6), 6))
    assert not caplog.messages


def test_a_file_in_the_place_of_the_checkpoints_is_one_sentence(tmp_path, saved) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(StorageError, match="checkpoints: there is a file of that name; choose another folder"):
        SmallRun(tmp_path, saved.settings).restore()


def test_what_is_not_proven_to_be_damage_moves_nothing(run, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.restore", fail)
    with pytest.raises(CheckpointError, match="6: cannot be restored .out of memory.; its files are as they were"):
        run.restore()
    monkeypatch.undo()
    assert not (run.workdir / "damaged").exists()
    assert run.restore()[1] == 6


IDENTITY_CHANGES = {
    "dtype": "bfloat16",
    "residual_dtype": "bfloat16",
    "seed": 1,
    "batch_size": 16,
    "captions_per_image": 3,
    "data.name": "scenes/full",
    "data.split": "test",
    "data.weights": (2.0,),
    "data.merged_sentences": 2,
    "data.crop_scale": (0.5, 1.0),
    "lock": ("image", "text"),
    "unlocked_groups.image": 2,
    "unlocked_groups.text": 1,
    "patch_dropout": 0.5,
    "loss.terms": ("mps",),
    "loss.weights": (2.0,),
    "loss.group_size": 8,
    "optimizer.learning_rate": 1e-3,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 3,
    "optimizer.clip_norm": 1.0,
    "optimizer.b1": 0.8,
    "optimizer.b2": 0.9,
    "optimizer.eps": 1e-6,
    "optimizer.weight_decay": 0.1,
    "optimizer.name": "lion",
    "optimizer.layer_decay": 0.9,
    "optimizer.image_rate": 0.5,
    "optimizer.text_rate": 0.1,
    "optimizer.ema_decay": 0.5,
}


def test_another_run_is_named_and_not_mixed_in(saved) -> None:
    """One sentence with all that makes it another, and nothing else happens."""
    before = {path: path.stat().st_mtime_ns for path in files_of(saved.workdir)}
    assert {*IDENTITY_CHANGES, "samples"} == set(identity.IDENTITY)
    with pytest.raises(AnotherRunError) as caught:
        changed(saved, **IDENTITY_CHANGES).restore()
    assert caught.value.changes in str(caught.value)
    assert caught.value.changes.count("; ") == len(IDENTITY_CHANGES) - 1
    for name, value in IDENTITY_CHANGES.items():
        shown = json.loads(json.dumps(value))
        assert re.search(rf"config\.{re.escape(name)} was [^;]+, is {re.escape(repr(shown))}", str(caught.value)), name
    assert "add --accept-changes to resume after step 6" in str(caught.value)
    with pytest.raises(CheckpointError, match="the number of samples was 40, is 41"):
        SmallRun(saved.workdir, saved.settings, samples=41).restore()
    assert {path: path.stat().st_mtime_ns for path in files_of(saved.workdir)} == before


def test_every_setting_is_known_to_belong_to_the_run_or_not() -> None:
    def names(kind: type, prefix: str = ""):
        types = {field.name: field.type for field in dataclasses.fields(kind)}
        for name, of in types.items():
            part = getattr(flair_jax.settings, of, None)
            yield from names(part, f"{prefix}{name}.") if part else [f"{prefix}{name}"]

    known = [*identity.IDENTITY, *identity.LENGTH, *identity.FREE, *identity.OPEN]
    assert sorted(known) == sorted(["samples", *names(TrainSettings)])


def test_other_settings_are_named_and_taken(saved, caplog) -> None:
    caplog.set_level(logging.INFO, "flair_jax")
    changes = {"init": "elsewhere", "data.workers": 0, "unroll": 2, "checkpoint.keep": 3, "evaluation.every_steps": 5}
    state, step = changed(saved, **changes).restore()
    assert step == 6
    assert same(state, saved.state(6))
    for line in ("config.data.workers was 4, is 0", "config.unroll was 1, is 2", "config.checkpoint.keep was 2, is 3"):
        assert line in caplog.messages
    assert "config.init was '', is 'elsewhere' (of no effect: the parameters are the checkpoint's)" in caplog.messages


def test_changes_can_be_accepted(run, saved, caplog) -> None:
    """Parameters, step and what the optimisers have in common are kept; the new settings are the run's from then on."""
    caplog.set_level(logging.INFO, "flair_jax")
    changes = {"optimizer.clip_norm": 1.0, "seed": 5}
    other = changed(run, **changes)
    state, step = other.restore(accept_changes=True)
    assert step == 6
    assert same(state.params, saved.state(6).params)
    assert same(jax.tree.leaves(state.opt_state), jax.tree.leaves(saved.state(6).opt_state))
    (line,) = [each for each in caplog.records if each.getMessage() == "config.optimizer.clip_norm was 0.0, is 1.0"]
    assert line.levelno == logging.INFO, "it was asked for"
    assert "optimiser's state" not in caplog.text
    other.save(9)
    assert other.restore()[1] == 9
    with pytest.raises(CheckpointError, match=r"config.seed was 5, is 0; config.optimizer.clip_norm was 1.0, is 0.0"):
        run.restore()


def test_what_the_optimiser_cannot_keep_is_named(run, saved, caplog) -> None:
    locked = changed(run, lock=("text",), **{"optimizer.clip_norm": 1.0})
    locked.restore(accept_changes=True)
    assert "the optimiser's state: mu/text (21 arrays) has no use any more" in caplog.messages
    assert not [line for line in caplog.messages if "anew" in line]
    locked.save(9)
    caplog.clear()
    state, _ = run.restore(accept_changes=True)
    assert "the optimiser's state: nu/text (21 arrays) starts anew" in caplog.messages
    moments = state.opt_state[0][0] if isinstance(state.opt_state[0], tuple) else state.opt_state[0]
    assert not np.any(moments.mu["text"]["token_embedding"])
    assert same(moments.mu["vision"], jax.tree.map(lambda leaf: np.full_like(leaf, 9), moments.mu["vision"]))
    assert int(moments.count) == 9


def test_the_state_of_one_model_never_goes_on_as_another(saved) -> None:
    with pytest.raises(CheckpointError, match=r"config.model.embed_dim was 8, is 64.*; use .* another --workdir, beca"):
        changed(saved, model="tiny").restore(accept_changes=True)


@pytest.mark.parametrize(
    ("schedule", "changes", "refused"),
    [
        ("cosine", {"steps": 13}, "config.steps was 12, is 13"),
        ("cosine", {"steps": 0, "epochs": 2.4}, None),  # 12 steps too
        ("constant", {"steps": 100}, None),
        ("constant-cooldown", {"steps": 20}, None),
        ("constant-cooldown", {"steps": 8, "optimizer.cooldown_steps": 2}, None),
        ("constant-cooldown", {"steps": 8, "optimizer.cooldown_steps": 3}, "config.steps was 12, is 8; config.opt"),
    ],
)
def test_a_run_may_become_longer_if_its_schedule_allows(tmp_path, schedule: str, changes: dict, refused) -> None:
    """If no step that is done would have had another learning rate."""
    was = identity.describe_run(settings(tmp_path, **{"optimizer.schedule": schedule}), 40)
    now = identity.describe_run(settings(tmp_path, **{"optimizer.schedule": schedule}, **changes), 40)
    found = identity.changes(was, now, done=6)
    assert len(found) == len(changes)
    text = "; ".join(str(change) for change in found if change.of_identity)
    assert text.startswith(refused) if refused else not text


def test_fewer_steps_than_are_done(saved) -> None:
    with pytest.raises(CheckpointError, match="checkpoints/6: the run has 6 steps behind it, and 5 are asked for"):
        changed(saved, steps=5).restore()


@pytest.fixture
def earlier(tmp_path) -> SmallRun:
    """A run, and a converted checkpoint beside its folder, that were saved before there were digests."""
    with tarfile.open(Path(__file__).parent / "without_digests.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return SmallRun(tmp_path, settings(tmp_path))


def test_a_checkpoint_without_digests_goes_on(earlier, caplog) -> None:
    state, step = earlier.restore()
    assert step == 3
    assert int(state.step) == 3
    newest = earlier.workdir / "checkpoints" / "3"
    assert same(state.params, flair_jax.load(newest)[1])
    assert same(state.params, flair_jax.load(earlier.workdir / "converted")[1])
    lines = [line for line in caplog.messages if "was written without digests" in line]
    assert [line.split(":")[0] for line in lines] == [str(newest), str(earlier.workdir / "converted")]
    with pytest.raises(CheckpointError, match=r"\(config.seed was 0, is 1\)"):
        changed(earlier, seed=1).restore()
    with pytest.raises(CheckpointError, match=r"\(config.optimizer.layer_decay was 1.0, is 0.5\)"):
        changed(earlier, **{"optimizer.layer_decay": 0.5}).restore()
    earlier.save(6)
    assert (earlier.workdir / "checkpoints" / "6" / "SHA256SUMS").is_file()


@pytest.mark.parametrize("what", ["progress/metadata", "params/manifest.ocdbt"])
def test_without_digests_nothing_is_proven(earlier, what: str) -> None:
    """It says what to do, and each further start says so again."""
    file = earlier.workdir / "checkpoints" / "3" / what
    file.write_bytes(file.read_bytes()[:-9])
    for _ in range(2):
        with pytest.raises(CheckpointError, match="3: cannot be restored .*no digests .* move it to .*damaged to"):
            earlier.restore()


@pytest.mark.parametrize("name", [".", "checkpoints", "checkpoints/6"])
def test_a_run_means_its_newest_checkpoint(run, monkeypatch, caplog, name: str) -> None:
    monkeypatch.chdir(run.workdir)
    (run.workdir / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    locate._say_newest.cache_clear()
    with caplog.at_level(logging.INFO, "flair_jax"):
        for _ in range(2):
            assert same(flair_jax.load(name)[1], run.state(6).params)
    assert ("taking the newest checkpoint, checkpoints/6" in caplog.text) == (name != "checkpoints/6")
    assert caplog.text.count("taking the newest") < 2


def test_saving_does_not_wait_for_digests(run, monkeypatch) -> None:
    """They are written in the background, before the checkpoint has its name."""
    import threading

    go_on, seen = threading.Event(), []
    write = RunCheckpoints._write_digests

    def slow(self: RunCheckpoints) -> None:
        assert go_on.wait(60)
        seen.append(self.path(9).exists())
        write(self)

    monkeypatch.setattr(RunCheckpoints, "_write_digests", slow)
    with jax.set_mesh(run.mesh), run.checkpoints() as checkpoints:
        checkpoints.save(run.state(9), 9)
        go_on.set()
        checkpoints.wait()
        assert seen == [False]
        assert checkpoint.find_damage(checkpoints.path(9), ITEMS) is None
