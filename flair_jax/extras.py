"""What the package's extras are for, and how to get one that is missing."""

from __future__ import annotations

import importlib.metadata


def how_to_install(extra: str) -> str:
    """What to type to have an extra, be the package installed from a checkout or a wheel."""
    try:
        requirements = importlib.metadata.requires("flair-jax") or []
    except importlib.metadata.PackageNotFoundError:  # imported from a folder that was never installed
        requirements = []
    marker = f'extra == "{extra}"'
    needed = " ".join(f'"{each.partition(";")[0].strip()}"' for each in requirements if marker in each)
    return f"pip install {needed} (the extra `{extra}`)"
