"""Making data sets from what people download: tars with captions attached, TFDS builds, and what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.data.build.caption_tables import read_table as read_table
    from flair_jax.data.build.caption_tables import write_url_table as write_url_table
    from flair_jax.data.build.recaptioned import Recaptioned as Recaptioned
    from flair_jax.data.build.recaptioned import RecaptionedConfig as RecaptionedConfig
    from flair_jax.data.build.survey import Survey as Survey
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "caption_tables": ["read_table", "write_url_table"],
            "recaptioned": ["Recaptioned", "RecaptionedConfig"],
            "survey": ["Survey"],
        },
    )
