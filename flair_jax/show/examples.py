"""Drawn pictures with sentences, as examples to try. Imports no JAX."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from flair_jax.data.sets.scenes import COLOURS, describe_object, draw_scene, render

# Of scenes with few objects of different colours, so that models of photographs tell them apart as well.
_SEEDS = (23, 47, 22)
_NAMED = frozenset({"colour", "shape"})  # short, or Gradio cuts them


def draw_examples(folder: Path) -> list[list[str]]:
    """Draws small pictures into a folder.

    Returns:
      Of each the file, and three sentences, one a line: two that are true, and one with a colour that is not there.
    """
    examples = []
    for number, seed in enumerate(_SEEDS, start=1):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng)
        pixels, _ = render(scene, rng)
        seen = {item.colour for item in scene.objects}
        missing = next(colour for colour in COLOURS if colour not in seen)
        told = [*scene.objects[:2], dataclasses.replace(scene.objects[2], colour=missing)]
        path = folder / f"example_{number}.png"
        Image.fromarray(pixels).save(path)
        examples.append([str(path), "\n".join(describe_object(item, _NAMED) for item in told)])
    return examples
