"""The package as pip is given it, built from a copy of this checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
BUILT = ("flair_jax", "configs", "convert", "README.md", "LICENSE", "MANIFEST.in", "pyproject.toml")


def build(kind: str, source: Path, target: Path) -> Path:
    """What setuptools makes of a folder, as `pip` would ask it, but without a network."""
    target.mkdir(parents=True, exist_ok=True)
    script = f"import setuptools.build_meta as it; print(it.build_{kind}({str(target)!r}))"
    process = subprocess.run([sys.executable, "-c", script], cwd=source, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    shutil.rmtree(source / "flair_jax.egg-info", ignore_errors=True)  # or it counts as installed
    return target / process.stdout.splitlines()[-1]


def copy_checkout(target: Path) -> Path:
    """What a wheel is built from."""
    target.mkdir()
    for name in BUILT:
        if (REPOSITORY / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, target / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(REPOSITORY / name, target / name)
    return target
