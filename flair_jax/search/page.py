"""A search's hits as one HTML page with thumbnails in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flair_jax import pages
from flair_jax.data.thumbnails import thumbnail
from flair_jax.errors import FlairError
from flair_jax.files import no_file
from flair_jax.search.searcher import Hit


def write_page(output: Path, sentence: str, hits: Sequence[Hit], indexed: int, root: str = "") -> None:
    """Writes a page that needs no other file: thumbnails are JPEGs within it, about 10 kB each.

    They lead to the pictures by paths relative to the page, as far as these lie on a disk.

    Args:
      output: file to write.
      sentence: what was searched for.
      hits: best first.
      indexed: pictures in the index.
      root: the folder that was indexed, within which pictures are named; "" if paths stand for themselves.

    Raises:
      FlairError: if Jinja2 is not installed, or `output` cannot be a file.
    """
    if reason := no_file(output):
        raise FlairError(f"--html {output}: {reason}; name a file")
    cards = []
    for hit in hits:
        shown = thumbnail(hit.path)
        within = hit.path.removeprefix(f"{root.rstrip('/')}/") if root else hit.path
        cards.append((hit, os.path.basename(hit.path), within, shown, pages.link(hit.path, output) if shown else ""))
    linked = any(to for *_, to in cards)
    text = pages.render(
        "search", "--html", sentence=sentence, cards=cards, indexed=f"{indexed:,}", root=root, linked=linked
    )
    pages.write(output, text)
