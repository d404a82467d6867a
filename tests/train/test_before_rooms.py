"""Two runs and a converted model that an earlier version saved: they load and resume as if nothing had changed."""

import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from small_run import SmallRun, settings

import flair_jax

CHANGES = {"plain": {}, "locked": {"lock": ("text",), "optimizer.clip_norm": 1.0}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with tarfile.open(Path(__file__).parent / "before_rooms.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_run_goes_on_as_it_would_have(saved, caplog, name: str) -> None:
    """Its next three steps are those of the version that saved it.

    Within 1e-6 of each parameter's largest value, as the tests' XLA adds in another order; found: 5e-8, and 6e-10 for
    biases that are near 0. But for the biases of the towers' keys, which softmax does not see: Adam makes steps of the
    noise that is their gradient, and three steps of the learning rate, 5e-4, either way are 3e-3.
    """
    folder = saved / name
    run = SmallRun(folder, settings(folder, **CHANGES[name]))
    state, step = run.restore()
    assert step == 3
    assert not [line for line in caplog.messages if not line.startswith("config.model was 'made/")]  # its path
    state, losses = run.train(state, range(3, 6))
    expected = dict(np.load(folder / "after_6.npz"))
    np.testing.assert_allclose(losses[-1], expected.pop("loss"), rtol=1e-6)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(state.params)
    }
    assert found.keys() == expected.keys()
    for parameter, leaf in found.items():
        atol = 3e-3 if parameter.endswith("attention/key/bias") else 1e-6 * np.abs(expected[parameter]).max() + 1e-9
        np.testing.assert_allclose(leaf, expected[parameter], rtol=0, atol=atol, err_msg=parameter)


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_run_loads(saved, caplog, name: str) -> None:
    folder = saved / name
    run = SmallRun(folder, settings(folder, **CHANGES[name]))
    jax.tree.map(
        np.testing.assert_array_equal, flair_jax.load(folder / "checkpoints" / "3")[1], run.restore()[0].params
    )
    assert not [line for line in caplog.messages if "config.model was" not in line]


def test_a_converted_model_loads(saved) -> None:
    """The plain run's of step 3, which was saved as one."""
    model, params = flair_jax.load(saved / "converted")
    other, of_run = flair_jax.load(saved / "plain")
    assert model.config == other.config
    jax.tree.map(np.testing.assert_array_equal, params, of_run)
