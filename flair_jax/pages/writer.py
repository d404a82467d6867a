"""HTML pages with one look: the templates of this folder, filled in and written. Imports no JAX.

A page is one file with its style sheet in it, loads nothing from elsewhere, and prints. Names of files and whatever
users wrote become text, never markup: templates escape all they are given.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flair_jax.buckets import is_remote
from flair_jax.errors import printable
from flair_jax.files import replace_when_complete
from flair_jax.packages import import_jinja

_HEAD = 1024  # bytes, in which the generator is named


def render(template: str, needed_by: str, extra: str = "html", **values: Any) -> str:
    """A page as text.

    Args:
      template: a file of this folder, without `.html.jinja`.
      needed_by: the option or command that writes the page, for the message.
      extra: see `packages.import_jinja`.
      **values: what the template names. Control characters and lone surrogates in strings are written as escapes.

    Raises:
      FlairError: if Jinja2 is not installed.
    """
    jinja = import_jinja(needed_by, extra)

    def plain(value: object) -> object:
        return printable(value) if type(value) is str else value  # and not Markup, which is escaped already

    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=plain,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja.StrictUndefined,
    )
    return str(environment.get_template(f"{template}.html.jinja").render(values))


def write(path: Path, text: str) -> None:
    """Writes a page, whole or not at all."""
    with replace_when_complete(path) as partial:
        partial.write_text(text, encoding="utf-8")


def is_ours(page: Path) -> bool:
    """Whether a file is a page that this package has written, and may replace or remove.

    Raises:
      OSError: if the file cannot be read.
    """
    with page.open("rb") as file:
        return b'<meta name="generator" content="flair-jax">' in file.read(_HEAD)


def link(file: str | Path, page: Path) -> str:
    """A URL of a file relative to a page, so that both can be moved together; "" where a page cannot have one.

    Args:
      file: that the page names.
      page: where the page is written.
    """
    if is_remote(file) or is_remote(page):
        return ""
    # By their names alone, as browsers resolve it: they know nothing of symbolic links.
    return quote(os.fsencode(os.path.relpath(os.path.abspath(file), os.path.abspath(page.parent))))
