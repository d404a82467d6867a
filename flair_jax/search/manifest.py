"""An index's `index.json`: the one place that says which shards belong to it. Imports no JAX."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from flair_jax.errors import SearchIndexError, is_utf8
from flair_jax.files import replace_when_complete

MANIFEST = "index.json"
LOCAL_DTYPES = ("float16", "bfloat16")
_FORMAT = 1


def require_name(index: Path) -> None:
    """Checks that the libraries which write and read an index can open its folder.

    Raises:
      SearchIndexError: if they cannot.
    """
    if not is_utf8(str(index.absolute())):
        raise SearchIndexError(
            f"{index}: the name of an index must be UTF-8, with the folders above it; choose another"
        )


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an index holds. Shards that it does not name are leftovers.

    Attributes:
      fingerprint: of the checkpoint that made it; see `flair_jax.search.fingerprint`.
      checkpoint: the checkpoint's folder, absolute; empty if it was not made by the command.
      root: the folder of pictures, absolute; empty if paths stand for themselves.
      embed_dim: D.
      local_tokens: L.
      local_dtype: "float16" or "bfloat16".
      shards: names of the folders that belong to it, in order.
      next_shard: the number of the next folder; numbers are never reused, so that a program that still has an older
        state open never reads another shard under the same name.
      complete: whether the run that last changed it finished.
      faiss: whether the FAISS file was built of exactly these shards.
      dtype: in which the features were computed; "" if an older release made the index, which did not keep it.
      format: version of the layout.
    """

    fingerprint: str
    checkpoint: str
    root: str
    embed_dim: int
    local_tokens: int
    local_dtype: str
    shards: tuple[str, ...] = ()
    next_shard: int = 0
    complete: bool = False
    faiss: bool = False
    dtype: str = ""
    format: int = _FORMAT

    def write(self, index: Path) -> None:
        """Makes this the index's state, whole or not at all."""
        with replace_when_complete(index / MANIFEST) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, index: Path) -> Manifest:
        """The index's state.

        Raises:
          SearchIndexError: if there is none, or it cannot be read.
        """
        require_name(index)
        file = index / MANIFEST
        if not file.is_file():
            raise SearchIndexError(f"{index}: no search index here (no {MANIFEST}); `flair-jax index` makes one")
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            if fields["format"] != _FORMAT:
                raise SearchIndexError(
                    f"{file}: has format {fields['format']}, this release reads {_FORMAT}; remove it and index again"
                )
            return cls(**{**fields, "shards": tuple(fields["shards"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, SearchIndexError):
                raise
            raise SearchIndexError(f"{file}: is damaged ({error}); remove {index} and index again") from None
