import numpy as np

from flair_jax.evaluate.blocks import BlockStore


def test_in_memory_and_on_disk(tmp_path) -> None:
    for folder in (None, tmp_path / "blocks"):
        store = BlockStore(folder, {"seed": 1})
        assert "a" not in store
        np.testing.assert_array_equal(store.get_or_compute("a", lambda: np.arange(3)), np.arange(3))
        assert "a" in store
        np.testing.assert_array_equal(store.get_or_compute("a", lambda: 1 / 0), np.arange(3))
        store.remove()
        assert "a" not in store
    assert not (tmp_path / "blocks").exists()


def test_the_same_run_goes_on_and_another_starts_anew(tmp_path) -> None:
    BlockStore(tmp_path / "b", {"seed": 1}).put("a", np.arange(3))
    assert "a" in BlockStore(tmp_path / "b", {"seed": 1})
    assert "a" not in BlockStore(tmp_path / "b", {"seed": 2})
    assert "a" not in BlockStore(tmp_path / "b", {"seed": 1}), "another run's start must clear the folder"
