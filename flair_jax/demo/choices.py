"""The demonstration's questions about words as a set of `flair-jax evaluate --task choose`, in SugarCrepe's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def choices_in_sugarcrepe_form(
    swaps: Mapping[str, Sequence[tuple[str, str]]], names: Sequence[str]
) -> dict[str, dict[str, dict[str, str]]]:
    """A file's contents for each attribute.

    Args:
      swaps: attribute -> a true caption of each scene, and the same with the word for the attribute changed.
      names: of the scenes' pictures.

    Returns:
      Attribute -> what `flair_jax.data.sets.choice_captions.read_captions` reads, as plain JSON values.
    """
    return {
        attribute: {
            str(number): {"filename": name, "caption": true, "negative_caption": false}
            for number, (name, (true, false)) in enumerate(zip(names, pairs, strict=True))
        }
        for attribute, pairs in swaps.items()
    }
