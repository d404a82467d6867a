"""Versions of what numbers depend on, for everything that records results. Imports no JAX."""

from __future__ import annotations

import platform
from importlib import metadata

# Pixels depend on Pillow: its resampling differs by up to 2 levels between versions.
_PACKAGES = ("flair-jax", "jax", "jaxlib", "flax", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions by package, and of Python."""
    return {name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()}
