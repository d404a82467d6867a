from pathlib import Path

import pytest
from runs import losses, run, write_config

from flair_jax.data.sets import scenes_builder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """The small scenes, as a TFDS folder."""
    folder = tmp_path_factory.mktemp("tfds")
    scenes_builder.prepare(folder, "small")
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory, scenes) -> Path:
    return write_config(tmp_path_factory.mktemp("config"), scenes)


@pytest.fixture(scope="session")
def undisturbed(config, tmp_path_factory) -> tuple[Path, dict[int, float]]:
    """A run of 12 steps that nothing stopped, and its losses."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    status, out, err = run(config, workdir)
    assert status == 0, err
    assert out.strip().endswith("checkpoints/12")
    return workdir, losses(workdir)
