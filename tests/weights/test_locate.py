"""What is said where there is no checkpoint."""

from pathlib import Path

import pytest

from flair_jax.checkpoint import read_description
from flair_jax.errors import CheckpointError
from flair_jax.weights.locate import DESCRIPTION


@pytest.fixture
def world(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for step in (5, 20, 100):
        folder = Path(f"runs/a/checkpoints/{step}") / DESCRIPTION
        folder.mkdir(parents=True)
        (folder / "metadata").write_text("{}")
    for folder in (
        "made/model",
        "readme/checkpoints/cc3m",
        "runs/new/checkpoints",
        "runs/a/checkpoints/200.orbax-tmp",
        "empty/folder",
    ):
        Path(folder).mkdir(parents=True)
    Path("made/model/config.json").write_text("{}")
    Path("readme/checkpoints/cc3m/config.json").write_text("{}")


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runs/a/checkpoints/99", "steps beside it: 5, 20, 100"),
        ("runs/a/checkpoints/200.orbax-tmp", "steps beside it: 5, 20, 100"),
        ("runs", "checkpoints in it: runs/a"),
        ("runs/b", "checkpoints beside it: runs/a"),
        ("readme", "checkpoints in its checkpoints: readme/checkpoints/cc3m"),
        ("runs/new", "the training run has saved none yet"),
        ("made", "checkpoints in it: made/model"),
        ("made/modle", "checkpoints beside it: made/model"),
    ],
)
def test_those_that_are_near_are_named(name: str, said: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read_description(name)
    assert str(error.value) == f"{name}: no checkpoint here; {said}"


@pytest.mark.usefixtures("world")
def test_where_none_is_near_it_is_said_how_to_make_one() -> None:
    for name, what in (("empty/folder", "no config.json"), ("gone/away", "no such file or folder")):
        with pytest.raises(CheckpointError) as error:
            read_description(name)
        assert str(error.value).startswith(f"{name}: no checkpoint here ({what}); make one with `flair-jax convert")


@pytest.mark.usefixtures("world")
def test_of_many_the_newest_are_named() -> None:
    for step in range(1000, 1020):
        folder = Path(f"runs/a/checkpoints/{step}") / DESCRIPTION
        folder.mkdir(parents=True)
        (folder / "metadata").write_text("{}")
    with pytest.raises(CheckpointError, match=r"beside it: \.\.\., 1012, .*, 1019$"):
        read_description("runs/a/checkpoints/99")
