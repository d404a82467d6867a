"""The demonstration's scenes as a set of `flair-jax evaluate --task point`, in COCO's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flair_jax.data.sets.scenes import describe_object
from flair_jax.data.sets.scenes_builder import LabelledScene


def phrases_in_coco_form(scenes: Sequence[LabelledScene], names: Sequence[str]) -> dict[str, Any]:
    """The full description of every object, which fits no other of its scene, with the object's outline.

    Args:
      scenes: some.
      names: of their pictures' files.

    Returns:
      What `flair_jax.data.sets.grounding_coco.read_coco_form` reads, as plain JSON values.
    """
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for labelled, name in zip(scenes, names, strict=True):
        height, width = labelled.mask.shape
        for item, described in enumerate(labelled.scene.objects, start=1):
            common = {"id": len(images)}
            mask = labelled.mask == item
            (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
            images.append(
                {"file_name": name, "width": width, "height": height, "caption": describe_object(described), **common}
            )
            annotations.append(
                {
                    "image_id": common["id"],
                    "bbox": [left, top, right - left + 1, bottom - top + 1],
                    "segmentation": {"size": [height, width], "counts": _runs(mask)},
                    **common,
                }
            )
    return {"images": images, "annotations": annotations}


def _runs(mask: np.ndarray) -> list[int]:
    """Lengths of runs of equal pixels of a mask [H, W], column by column, of which the first are not in it."""
    changes = np.flatnonzero(np.diff(mask.T.reshape(-1), prepend=False)).tolist()
    return [end - start for start, end in zip([0, *changes], [*changes, mask.size], strict=True)]
