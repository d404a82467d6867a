"""Folders of small pictures, and indexes of them in shards of four."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_pictures import draw

from flair_jax.scoring.scorer import Retriever
from flair_jax.search import build
from flair_jax.search.pictures import find_pictures


@pytest.fixture(scope="session")
def retriever(small_model) -> Retriever:
    return Retriever(*small_model)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch, retriever) -> None:
    """And nothing is compiled twice."""
    monkeypatch.setattr(build, "SHARD_ROWS", 4)
    monkeypatch.setattr(build, "Retriever", lambda model, params: retriever)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures, and what is none: other files, hidden ones, a broken, an empty and a dangling one."""
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    for number in range(11):
        draw(folder / ("ab"[number % 2]) / f"{number:02}.png", number)
    (folder / "notes.txt").write_text("not a picture")
    draw(folder / ".thumbnails" / "hidden.png", 0)
    draw(folder / "a" / "._hidden.png", 0)
    (folder / "a" / "03-broken.png").write_bytes((folder / "a" / "00.png").read_bytes()[:900])
    (folder / "b" / "empty.JPG").touch()
    (folder / "b" / "nowhere.webp").symlink_to(folder / "gone.webp")
    return folder


@pytest.fixture
def pictures(drawn, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(drawn, tmp_path / "pictures", symlinks=True))


@pytest.fixture
def make_index(small_model, small_checkpoint) -> Callable[..., build.IndexUpdate]:
    """Indexes a folder."""

    def make(folder: Path, index: Path, **settings) -> build.IndexUpdate:
        return build.update(
            index,
            find_pictures(folder),
            *small_model,
            root=str(folder),
            checkpoint=str(small_checkpoint),
            settings=build.IndexSettings(**{"batch_size": 3, **settings}),
        )

    return make
