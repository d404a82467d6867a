"""Token ids as a text tower reads them: where a text ends, and several texts in one row. Imports no JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

_Ids = TypeVar("_Ids", "jax.Array", np.ndarray)


def find_end(tokens: _Ids, end_of_text_id: int | None) -> _Ids:
    """Where each text ends: int [N] of tokens [N, T], of NumPy or JAX.

    The one place that knows the rule: the first token of this id, or of the row's highest id if it is None; position 0
    if there is none.
    """
    return (tokens if end_of_text_id is None else tokens == end_of_text_id).argmax(axis=-1)


class PackedTexts(NamedTuple):
    """Texts without their padding, several in a row of P tokens.

    A text lies whole in one row; its group's rows hold no text of another group. Groups are what devices share among
    them, so that a text stays on the device that has its image. `flair_jax.data.packing` makes it.

    Attributes:
      tokens: int32 [G, R, P], ids in G groups of R rows.
      positions: int32 [G, R, P], the place of each token in its own text, from 0.
      segments: int32 [G, R, P], the number of each token's text in its row, from 1; 0: of none.
      ends: int32 [G, C], where the C texts of a group end, among its R*P tokens.
    """

    tokens: jax.Array | np.ndarray
    positions: jax.Array | np.ndarray
    segments: jax.Array | np.ndarray
    ends: jax.Array | np.ndarray
