"""The packages that are installed: their versions, for everything that records results, and how to get an extra.

Imports no JAX.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flair_jax import __version__
from flair_jax.errors import FlairError

# Pixels depend on Pillow: its resampling differs by up to 2 levels between versions.
_RECORDED = ("jax", "jaxlib", "flax", "numpy", "pillow")
# Gradio and Apache Beam want an older one.
_OWN_ENVIRONMENT = ("app", "beam")
_BESIDE = Path(__file__).parents[1]  # the checkout, or the folder of all packages


def how_to_install(extra: str) -> str:
    """The command that installs an extra: to be pasted as it is, in any folder.

    The package is on no public index, so the command names what the extra needs. An extra that wants older packages
    than all else gets an environment of its own, with the package from where this one came.

    Raises:
      KeyError: if there is no such extra.
    """
    if extra in _OWN_ENVIRONMENT:
        folder = f".venv-{extra}"
        return (
            f"{_python()} -m venv {folder} && {folder}/bin/pip install {_this_package(extra)} (the extra `{extra}`), "
            f"and then {folder}/bin/flair-jax"
        )
    needed = " ".join(f'"{each}"' for each in _requirements()[extra])
    return f"{_pip_install()} {needed} (the extra `{extra}`)"


def _requirements() -> dict[str, list[str]]:
    """By extra, and current: what an editable install noted of its checkout may be of an older one."""
    if project := _project():
        return project["optional-dependencies"]
    found: dict[str, list[str]] = {}
    for each in importlib.metadata.requires("flair-jax") or []:
        requirement, _, marker = each.partition(";")
        if extra := re.search("""extra == ["'](.*?)["']""", marker):
            found.setdefault(extra[1], []).append(requirement.strip())
    return found


def _project() -> dict[str, Any]:
    """Of the checkout's pyproject.toml; empty elsewhere, where other packages may have left such a file."""
    file = _BESIDE / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}) if file.is_file() else {}
    return project if project.get("name") == "flair-jax" else {}


def _this_package(extra: str) -> str:
    """What `pip install` takes for this package with an extra: its checkout, archive or repository."""
    if _project():
        return _from_folder(_BESIDE, extra, "-e ")
    # The form of this file: https://packaging.python.org/en/latest/specifications/direct-url/
    origin = json.loads(importlib.metadata.distribution("flair-jax").read_text("direct_url.json") or "{}")
    if "dir_info" in origin:
        return _from_folder(Path(unquote(urlsplit(origin["url"]).path)), extra)
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f'"flair-jax[{extra}] @ {vcs["vcs"]}+{origin["url"]}@{vcs["commit_id"]}"'
    return f'"flair-jax[{extra}] @ {origin["url"]}"' if origin else f'"flair-jax[{extra}]=={__version__}"'


def _from_folder(folder: Path, extra: str, editable: str = "") -> str:
    """With the versions that the tests run with."""
    return f'-c "{folder / f"constraints-{extra}.txt"}" {editable}"{folder}[{extra}]"'


def _pip_install() -> str:
    """For this environment, also where it is not the active one or has no pip, as those that uv makes."""
    if _is_of_this_environment(shutil.which("pip")):
        return "pip install"
    if importlib.util.find_spec("pip"):
        return f"{_python()} -m pip install"
    return f"uv pip install --python {shlex.quote(sys.executable)}"


def _python() -> str:
    return "python" if _is_of_this_environment(shutil.which("python")) else shlex.quote(sys.executable)


def _is_of_this_environment(program: str | None) -> bool:
    return program is not None and Path(program).parent == Path(sys.executable).parent


def import_jinja(needed_by: str, extra: str = "html") -> Any:
    """Jinja2, for what writes a page.

    Args:
      needed_by: an option, or a command.
      extra: that installs it; the pages of `html` are optional, so that the option may as well be left out.

    Raises:
      FlairError: if it is not installed.
    """
    try:
        import jinja2
    except ImportError:
        otherwise = f", or leave {needed_by} out" if extra == "html" else ""
        raise FlairError(f"{needed_by} needs Jinja2: {how_to_install(extra)}{otherwise}") from None
    return jinja2


def versions() -> dict[str, str]:
    """Versions by package, and of Python."""
    others = {name: importlib.metadata.version(name) for name in _RECORDED}
    return {"flair-jax": __version__, **others, "python": platform.python_version()}
