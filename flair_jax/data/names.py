"""File names: which are those of pictures, and which are hidden. Imports no JAX."""

from __future__ import annotations

# Endings of the formats that are read (`flair_jax.data.formats`), in folders and in tars; in any case of letters.
PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)


def is_picture(name: str) -> bool:
    """Whether a file's name ends like a picture's."""
    return name.lower().endswith(PICTURE_ENDINGS)


def is_hidden(name: str) -> bool:
    """Whether a relative path leads to a hidden file, or into a hidden folder or one that macOS adds to archives."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))
