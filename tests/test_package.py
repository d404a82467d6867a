import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import flair_jax

REPOSITORY = Path(__file__).parent.parent


def test_import_is_light() -> None:
    """Under half a second, and neither JAX nor torch nor TensorFlow; measured 0.01 s."""
    script = (
        "import sys, time; start = time.perf_counter(); import flair_jax; print(time.perf_counter() - start); "
        "print({'jax', 'torch', 'tensorflow'} & set(sys.modules))"
    )
    seconds, heavy = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(seconds) < 0.5
    assert heavy == "set()"


def test_all_it_does_pulls_neither_torch_nor_tensorflow() -> None:
    script = (
        "import sys, flair_jax; [getattr(flair_jax, name) for name in flair_jax.__all__]; "
        "import flair_jax.demo.run, flair_jax.evaluate.tasks, flair_jax.train.logger; "
        "flair_jax.train.logger._import_tensorboard(); print({'torch', 'tensorflow'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_public_names() -> None:
    assert set(flair_jax.__all__) <= set(dir(flair_jax))
    with pytest.raises(AttributeError, match="no attribute 'encode'"):
        flair_jax.encode  # noqa: B018


def test_packages_are_whole() -> None:
    """What is installed: every folder of code, and every file of data in them; and what a source distribution adds."""
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: name.replace(".", "/") for name in setuptools["packages"]} | setuptools["package-dir"]
    code = {path.parent for top in ("flair_jax", "configs", "convert") for path in REPOSITORY.glob(f"{top}/**/*.py")}
    assert code <= {REPOSITORY / folder for folder in folders.values()}
    for name, folder in folders.items():
        for path in (REPOSITORY / folder).iterdir():
            if path.is_file() and path.suffix != ".py":
                assert any(fnmatch(path.name, each) for each in setuptools["package-data"].get(name, ())), path
    manifest = (REPOSITORY / "MANIFEST.in").read_text().splitlines()
    assert {f"graft {name}" for name in ("benchmarks", "docs", "launch", "tests")} <= set(manifest)
