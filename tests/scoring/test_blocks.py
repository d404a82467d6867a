import numpy as np

from flair_jax.scoring.blocks import BlockStore


def test_in_memory_and_on_disk(tmp_path) -> None:
    for folder in (None, tmp_path / "blocks"):
        store = BlockStore(folder)
        assert "a" not in store
        np.testing.assert_array_equal(store.get_or_compute("a", lambda: np.arange(3)), np.arange(3))
        assert "a" in store
        np.testing.assert_array_equal(store.get_or_compute("a", lambda: 1 / 0), np.arange(3))
        store.remove()
        assert "a" not in store
    assert not (tmp_path / "blocks").exists()


def test_another_store_on_the_folder_finds_the_arrays(tmp_path) -> None:
    BlockStore(tmp_path / "b").put("a", np.arange(3))
    assert "a" in BlockStore(tmp_path / "b")
    assert "a" not in BlockStore(tmp_path / "c")
