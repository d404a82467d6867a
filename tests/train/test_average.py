"""The moving average of the parameters: its numbers, its place in checkpoints, and who takes it."""

import logging
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from small_run import SmallRun, settings

import flair_jax
from flair_jax import checkpoint
from flair_jax.errors import AnotherRunError, CheckpointError
from flair_jax.train.optim import update_ema

DECAY = 0.75


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), one, other))


def run_in(folder: Path, decay: float = DECAY) -> SmallRun:
    """Muon's, whose state has most forms."""
    changes = {"optimizer.name": "muon", "optimizer.ema_decay": decay}
    return SmallRun(folder / "run", settings(folder, **changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with its state after 3 steps saved, and the states after each of 6."""
    run = run_in(tmp_path_factory.mktemp("averaged"))
    states = [run.first()]
    for number in range(6):
        states.append(run.train(states[-1], [number])[0])
    with jax.set_mesh(run.mesh), run.checkpoints() as checkpoints:
        checkpoints.save(states[3], 3)
    return run, states


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    shutil.copytree(trained[0].workdir.parent, tmp_path / "copy")
    return tmp_path / "copy"


def test_it_is_the_average_of_all_parameters_from_the_first(trained) -> None:
    """By hand in float64; within 1e-6 of float32's rounding of six steps. The logit's scale and bias have one too."""
    _, states = trained
    expected = jax.tree.map(np.float64, states[0].params)
    assert same(states[0].ema, states[0].params)
    for state in states[1:]:
        expected = jax.tree.map(
            lambda mean, leaf: DECAY * mean + (1 - DECAY) * np.float64(leaf), expected, state.params
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), state.ema, expected)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(states[-1].ema))
    assert states[6].ema["logit_scale"] != states[6].params["logit_scale"]


def test_none_where_it_is_off(trained, tmp_path) -> None:
    """Then nothing of it is in a checkpoint."""
    run = run_in(tmp_path, 0.0)
    assert run.first().ema is None
    assert update_ema(None, {}, run.settings.optimizer) is None
    run.save(3)
    assert not (run.workdir / "checkpoints" / "3" / "ema").exists()
    assert (trained[0].workdir / "checkpoints" / "3" / "ema").is_dir()


def test_it_resumes_bit_for_bit(trained, copied) -> None:
    run = run_in(copied)
    state, step = run.restore()
    assert step == 3
    assert same(state, trained[1][3])
    assert same(run.train(state, range(3, 6))[0], trained[1][6])


def test_the_step_may_have_its_state_donated(trained) -> None:
    """The average starts as another copy of the parameters."""
    run, _ = trained
    with jax.set_mesh(run.mesh):
        jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)(run.first())


def test_whoever_loads_the_run_gets_it_and_is_told_once(trained, copied, caplog) -> None:
    newest = copied / "run" / "checkpoints" / "3"
    with caplog.at_level(logging.INFO, "flair_jax"):
        for _ in range(2):
            assert same(flair_jax.load(newest)[1], trained[1][3].ema)
    assert caplog.messages == [
        f"{newest}: taking the average of the parameters, which the run keeps (config.optimizer.ema_decay)"
    ]
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), trained[1][3].params
    )
    assert same(checkpoint.restore_params(newest, target), trained[1][3].ema)  # as `config.init` does


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_damage_to_it_is_noticed(copied, how: str) -> None:
    newest = copied / "run" / "checkpoints" / "3"
    if how == "missing":
        shutil.rmtree(newest / "ema")
    else:
        file = max(
            (path for path in (newest / "ema").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
        )
        content = file.read_bytes()
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(CheckpointError, match="3: the checkpoint is damaged .*ema/"):
        flair_jax.load(newest)
    with pytest.raises(CheckpointError, match="none of the checkpoints there is whole"):
        run_in(copied).restore()


def test_it_may_be_turned_on_later(copied, tmp_path, caplog) -> None:
    """It starts from the parameters of then, if the change is accepted."""
    caplog.set_level(logging.INFO, "flair_jax")
    off = run_in(tmp_path, 0.0)
    off.save(3)
    on = run_in(tmp_path)
    with pytest.raises(AnotherRunError, match="config.optimizer.ema_decay was 0.0, is 0.75"):
        on.restore()
    state, _ = on.restore(accept_changes=True)
    assert same(state.ema, state.params)
    assert same(state.opt_state, off.state(3).opt_state)
    assert caplog.messages == [
        "config.optimizer.ema_decay was 0.0, is 0.75",
        "the average of the parameters starts from those of step 3, which has none",
    ]
    with jax.set_mesh(on.mesh), on.checkpoints() as checkpoints:
        checkpoints.save(state._replace(step=state.step + 1), 4)
    assert on.restore()[1] == 4


def test_it_may_be_turned_off_or_go_on_at_another_pace(trained, copied, caplog) -> None:
    caplog.set_level(logging.INFO, "flair_jax")
    state, _ = run_in(copied, 0.5).restore(accept_changes=True)
    assert same(state, trained[1][3])
    caplog.clear()
    state, _ = run_in(copied, 0.0).restore(accept_changes=True)
    assert state.ema is None
    assert same(state.params, trained[1][3].params)
    assert "the average of the parameters ends with step 3" in caplog.messages


def test_evaluations_take_it(trained) -> None:
    _, states = trained
    assert states[3].evaluated is states[3].ema
    assert states[3]._replace(ema=None).evaluated is states[3].params
