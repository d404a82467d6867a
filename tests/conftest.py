"""Eight host devices, shape checks on every typed signature, and the golden data."""

import os
import sys
import tempfile
from collections.abc import Iterator

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # it can be a user's way to find mistakes
# Tests compile much and compute little: code is not optimised, and not made by the slower of XLA's two generators.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_force_host_platform_device_count=8"
)
# What a test or a process that it starts has compiled, the others find. Not those of other workers of xdist: JAX
# writes such files in place, and half a file is a warning on stderr.
_compiled = tempfile.TemporaryDirectory(prefix="compiled-")
os.environ |= {"JAX_COMPILATION_CACHE_DIR": _compiled.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

from pathlib import Path

from jaxtyping import install_import_hook


def _with_shapes() -> Iterator[str]:
    """Every module in which arrays have typed shapes; elsewhere our own errors about wrong input are tested instead."""
    repository = Path(__file__).parent.parent
    for room in (repository / "flair_jax", *repository.glob("flair_jax/*/")):
        files = room.glob("*.py") if room.name == "flair_jax" else room.glob("**/*.py")
        for file in files:
            if "\nfrom jaxtyping import " in file.read_text():
                yield ".".join(file.relative_to(repository).with_suffix("").parts)


_hook = install_import_hook(list(_with_shapes()), "beartype.beartype")

import json
import logging
import signal

import numpy as np
import pytest

from flair_jax.interrupts import is_no_orphan
from flair_jax.models.config import FlairConfig
from flair_jax.models.description import config_from_json
from flair_jax.models.flair import Flair

# Else a test finds in its log what the reads of an earlier test's damaged checkpoint have left behind.
for _name in ("asyncio", "py.warnings"):
    logging.getLogger(_name).addFilter(is_no_orphan)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers from the PyTorch original."""
    folder = Path(os.environ.get("FLAIR_GOLDEN", Path(__file__).parent / "golden"))
    assert folder.is_dir(), f"FLAIR_GOLDEN: {folder} is not a folder"
    return folder


@pytest.fixture(scope="session")
def golden_config(golden: Path) -> FlairConfig:
    return config_from_json(json.loads((golden / "tiny_config.json").read_text()))


@pytest.fixture(scope="session")
def golden_checkpoint(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden weights, through the real converter."""
    from flair_jax.convert.transfer import convert
    from flair_jax.models.presets import read_config

    target = tmp_path_factory.mktemp("golden") / "checkpoint"
    convert(str(golden / "tiny.safetensors"), target, read_config(golden / "tiny_config.json"))
    return target


@pytest.fixture(scope="session")
def golden_model(golden_checkpoint: Path) -> tuple[Flair, dict]:
    import flair_jax

    return flair_jax.load(golden_checkpoint)


@pytest.fixture(scope="session")
def small_config() -> FlairConfig:
    """A model that compiles fast and takes real pictures and the real vocabulary."""
    return config_from_json(
        {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 24, "layers": 3, "head_width": 8},
            "text_cfg": {"width": 16, "layers": 2, "heads": 2},
        }
    )


@pytest.fixture(scope="session")
def small_model(small_config: FlairConfig) -> tuple[Flair, dict]:
    """With every parameter random, so that no error hides behind a zero or a one."""
    import jax

    model = Flair(small_config)
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.numpy.asarray(rng.normal(0, 0.3, leaf.shape), np.float32)

    return model, jax.tree.map(draw, model.abstract_params())


@pytest.fixture(scope="session")
def small_checkpoint(small_model: tuple[Flair, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flair_jax import checkpoint

    path = tmp_path_factory.mktemp("small") / "checkpoint"
    checkpoint.save(path, *small_model, {"file": "small.safetensors"})
    return path


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs and captions in COCO's layout."""
    from photographs import write_photographs

    folder = tmp_path_factory.mktemp("data") / "coco"
    write_photographs(folder)
    return folder


@pytest.fixture
def heeded_ctrl_c() -> Iterator[None]:
    """Programs that the test starts heed Ctrl-C, though the tests themselves may run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled() -> Iterator[None]:
    """What a file's tests have compiled goes with them: over the whole suite it would take 5 GB a process."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
