"""Attention maps, and drawing them in files and on a web page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.show.app import serve as serve
    from flair_jax.show.draw import contact_sheet as contact_sheet
    from flair_jax.show.draw import overlay as overlay
    from flair_jax.show.draw import relative as relative
    from flair_jax.show.maps import AttentionMaps as AttentionMaps
    from flair_jax.show.maps import Explanation as Explanation
    from flair_jax.show.maps import attention_maps as attention_maps
    from flair_jax.show.maps import explain as explain
    from flair_jax.show.maps import explain_picture as explain_picture
    from flair_jax.show.maps import patch_similarity as patch_similarity
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "app": ["serve"],
            "draw": ["contact_sheet", "overlay", "relative"],
            "maps": [
                "AttentionMaps",
                "Explanation",
                "attention_maps",
                "explain",
                "explain_picture",
                "patch_similarity",
            ],
        },
    )
