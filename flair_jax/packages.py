"""The packages that are installed: their versions, for everything that records results, and how to get an extra.

Imports no JAX.
"""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from flair_jax import __version__
from flair_jax.errors import FlairError

# Pixels depend on Pillow: its resampling differs by up to 2 levels between versions.
_RECORDED = ("jax", "jaxlib", "flax", "numpy", "pillow")


def how_to_install(extra: str) -> str:
    """The command that installs an extra, whether the package came from a checkout or a wheel, or is not installed."""
    try:
        requirements = importlib.metadata.requires("flair-jax") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    marker = f'extra == "{extra}"'
    needed = " ".join(f'"{each.partition(";")[0].strip()}"' for each in requirements if marker in each)
    if not needed:  # or what is installed is from before the extra was there
        return f'pip install -e ".[{extra}]" in the checkout of flair_jax (the extra `{extra}`)'
    return f"pip install {needed} (the extra `{extra}`)"


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
