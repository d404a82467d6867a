"""Configuration files: those that are shipped, by name, and users' own, by path. Imports no JAX."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from flair_jax import configs
from flair_jax.buckets import is_remote
from flair_jax.errors import ConfigError
from flair_jax.fields import did_you_mean
from flair_jax.files import expand, local_copy


def shipped_configs() -> dict[str, Path]:
    """Files of the shipped configurations by name, in the order of the names."""
    return {file.stem: file for file in sorted(Path(configs.__path__[0]).glob("[!_]*.py"))}


def summary_of(file: Path) -> str:
    """The first line of a configuration file's docstring; the file is not run."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def find_config(name: str) -> Path:
    """The file of a configuration: one at that path, or else the shipped one of that name.

    Where a name could mean either, what was taken, and how to have the other, goes to stderr.

    Args:
      name: a path, also in a bucket, or a name such as "cc3m_recap"; "cc3m_recap.py" and "configs/cc3m_recap.py", as a
        checkout has it, are the shipped one too if there is no such file.

    Raises:
      ConfigError: if there is neither; it lists the shipped ones, and names like the given one.
    """
    path, shipped, stem = expand(name), shipped_configs(), _stem(name)
    if name and path.is_file():
        if name in shipped:
            print(
                f"flair-jax: --config={name}: the file of this folder; the shipped configuration is {name}.py",
                file=sys.stderr,
            )
        return local_copy(path)
    if stem in shipped:
        own = Path(f"{name}.py")
        beside = f"; the file {own} of this folder is --config={own}" if name == stem and own.is_file() else ""
        print(f"flair-jax: --config={name}: the one that is shipped, {shipped[stem]}{beside}", file=sys.stderr)
        return shipped[stem]
    what = "a folder, not a configuration file" if name and path.is_dir() else "no such configuration file"
    near = did_you_mean(stem, shipped, most=3) or did_you_mean(name, _beside(path), most=3)
    raise ConfigError(f"--config={name}: {what}; shipped are {', '.join(shipped)}{near}")


def print_config(name: str) -> None:
    """Prints the file of a shipped configuration, as it is.

    Raises:
      ConfigError: if there is none of that name.
    """
    shipped, stem = shipped_configs(), _stem(name)
    if stem not in shipped:
        near = did_you_mean(stem, shipped, most=3)
        raise ConfigError(f"no configuration {name} is shipped; there are {', '.join(shipped)}{near}")
    print(shipped[stem].read_text(encoding="utf-8"), end="")


def _stem(name: str) -> str:
    """The name of a configuration, of its file's path in a checkout."""
    return name.removeprefix("configs/").removesuffix(".py")


def _beside(path: Path) -> list[str]:
    """Python files of a path's folder, written as the path is."""
    if is_remote(path):
        return []
    try:
        return [str(each) for each in path.parent.glob("*.py")]
    except OSError:
        return []
