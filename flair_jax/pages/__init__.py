"""HTML pages with one look, for whoever writes one: templates, the style sheet, and what fills them in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.pages.images import data_url as data_url
    from flair_jax.pages.writer import is_ours as is_ours
    from flair_jax.pages.writer import link as link
    from flair_jax.pages.writer import render as render
    from flair_jax.pages.writer import write as write
else:
    __getattr__, __dir__, __all__ = public(
        __name__, {"images": ["data_url"], "writer": ["is_ours", "link", "render", "write"]}
    )
