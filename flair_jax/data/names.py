"""Names of files: which are pictures, which nobody meant to be there, and how to print any. Imports no JAX."""

from __future__ import annotations

# Endings that are taken for pictures, in folders and in tars; in any case of letters.
PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's."""
    return name.lower().endswith(PICTURE_ENDINGS)


def is_hidden(name: str) -> bool:
    """Whether a relative path leads to a hidden file, or into a hidden folder or one that macOS adds to archives."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


def printable(text: str) -> str:
    """The text with everything escaped that a terminal or UTF-8 cannot show: control characters, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
