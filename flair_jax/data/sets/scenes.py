"""Scenes: small drawn pictures with sentences about their parts, and a mask for every object. Imports no JAX.

Everything follows from a random generator: what is drawn, how it is described, and what a description with one word
changed would be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

SIDE = 64  # pixels of a picture's side
CELLS = 3  # objects stand in a grid of 3 x 3 cells

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (240, 225, 40),
    "green": (40, 160, 50),
    "cyan": (40, 210, 220),
    "blue": (50, 80, 225),
    "purple": (150, 50, 190),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (18, 18, 18),
    "gray": (125, 125, 125),
    "navy": (20, 25, 90),
    "teal": (10, 100, 100),
    "olive": (105, 105, 30),
    "maroon": (95, 15, 35),
    "brown": (115, 70, 35),
    "pink": (225, 165, 185),
}
SIZES: dict[str, tuple[float, float]] = {"small": (6.0, 6.8), "large": (9.5, 10.3)}  # radius in pixels, from and to
TEXTURES = ("plain", "striped")
ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "center", "right")
PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)

# How often an object's description mentions each attribute; the shape is otherwise "object". At least two are.
MENTIONED = {"size": 0.5, "texture": 0.5, "colour": 0.75, "shape": 0.7, "place": 0.65}
RELATIONS = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
VALUES: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "place": PLACES,
}


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object; each attribute is a word of `VALUES`."""

    size: str
    texture: str
    colour: str
    shape: str
    place: str

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column in the grid, from the upper left."""
        return divmod(PLACES.index(self.place), CELLS)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows: 2 to 4 objects, no two alike in both colour and shape, over a background."""

    background: str
    objects: tuple[SceneObject, ...]


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random scene."""
    count = int(rng.integers(2, 5))
    places = rng.permutation(len(PLACES))[:count]
    looks = rng.permutation(len(COLOURS) * len(SHAPES))[:count]
    objects = tuple(
        SceneObject(
            size=str(rng.choice(VALUES["size"])),
            texture=str(rng.choice(TEXTURES)),
            colour=VALUES["colour"][look // len(SHAPES)],
            shape=SHAPES[look % len(SHAPES)],
            place=PLACES[place],
        )
        for place, look in zip(places, looks, strict=True)
    )
    return Scene(str(rng.choice(list(BACKGROUNDS))), objects)


def render(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a scene.

    Returns:
      uint8 [64, 64, 3], and uint8 [64, 64] with the number of the object at each pixel, from 1; 0 is background.
    """
    rows, columns = np.arange(SIDE, dtype=np.float32)[:, None], np.arange(SIDE, dtype=np.float32)[None, :]
    slope = rng.uniform(-0.35, 0.35, 2).astype(np.float32)
    light = 1 + slope[0] * (rows / SIDE - 0.5) * 2 + slope[1] * (columns / SIDE - 0.5) * 2
    pixels = np.array(BACKGROUNDS[scene.background], np.float32) * light[..., None]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cell = np.float32(SIDE / CELLS)
    for number, item in enumerate(scene.objects, start=1):
        radius = np.float32(rng.uniform(*SIZES[item.size]))
        room = cell / 2 - radius
        jitter = rng.uniform(-1, 1, 2).astype(np.float32) * np.clip(room, np.float32(0.7), np.float32(3))
        y = rows - (item.cell[0] + 0.5) * cell - jitter[0]
        x = columns - (item.cell[1] + 0.5) * cell - jitter[1]
        inside = _inside(item.shape, x / radius, y / radius)
        colour = np.array(COLOURS[item.colour], np.float32)
        if item.texture == "striped":
            bands = (np.floor((x + y) / 3.5) % 2).astype(np.float32)
            pixels[inside] = (colour * (1 - 0.8 * bands[..., None]))[inside]
        else:
            pixels[inside] = colour
        mask[inside] = number
    pixels += 5 * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8), mask


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether a point is in the shape of radius 1 around the origin; y grows downwards."""
    distance = np.hypot(x, y)
    if shape == "circle":
        return distance <= 1
    if shape == "ring":
        return (distance <= 1) & (distance >= 0.55)
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.87
    if shape == "cross":
        return (np.maximum(abs(x), abs(y)) <= 1) & (np.minimum(abs(x), abs(y)) <= 0.33)
    return (y <= 0.8) & (y >= 1.9 * abs(x) - 1)  # triangle


def describe_object(item: SceneObject, mentioned: frozenset[str] | set[str] = frozenset(MENTIONED)) -> str:
    """A phrase about one object with the attributes mentioned, such as "a small red ring in the upper left"."""
    words = [getattr(item, name) for name in ("size", "texture", "colour") if name in mentioned]
    words.append(item.shape if "shape" in mentioned else "object")
    place = f" in the {item.place}" if "place" in mentioned else ""
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}{place}"


def describe_background(scene: Scene) -> str:
    """A sentence about the background."""
    return f"the background is {scene.background}"


def describe_relation(one: SceneObject, relation: str, other: SceneObject) -> str:
    """A sentence about where one object stands, seen from another."""
    words = {"colour", "shape"}
    return f"{describe_object(one, words)} {relation} {describe_object(other, words)}"


def relations(scene: Scene) -> Iterator[tuple[int, str, int]]:
    """All that holds between two objects: numbers of the objects from 0, and the relation between them."""
    for i, one in enumerate(scene.objects):
        for j, other in enumerate(scene.objects):
            down, across = (a - b for a, b in zip(one.cell, other.cell, strict=True))
            if i != j and down:
                yield i, "below" if down > 0 else "above", j
            if i != j and across:
                yield i, "right of" if across > 0 else "left of", j


def describe_long(scene: Scene) -> str:
    """The background and two objects in full, one sentence each."""
    objects = [describe_object(item) for item in scene.objects[:2]]
    return ". ".join([describe_background(scene), *objects])


def sub_captions(
    scene: Scene, rng: np.random.Generator, *, per_object: int = 4, about_relations: int = 2
) -> list[tuple[str, int]]:
    """Sentences about single objects, about pairs of objects and about the background, and pairs of sentences joined.

    Returns:
      Sentence and number of the only object it is about, from 0; -1 if it is about none or two.
    """
    captions = [
        (describe_object(item, draw_mentioned(rng)), n)
        for n, item in enumerate(scene.objects)
        for _ in range(per_object)
    ]
    true = list(relations(scene))
    for pick in rng.permutation(len(true))[:about_relations]:
        i, relation, j = true[pick]
        captions.append((describe_relation(scene.objects[i], relation, scene.objects[j]), -1))
    captions.append((describe_background(scene), -1))
    single = len(captions)
    for _ in range(single // 3):
        one, other = rng.choice(single, 2, replace=False)
        captions.append((f"{captions[one][0]}. {captions[other][0]}", -1))
    return [captions[pick] for pick in rng.permutation(len(captions))]


def draw_mentioned(rng: np.random.Generator) -> frozenset[str]:
    """Attributes for one description, each with its frequency in `MENTIONED`, at least two."""
    while True:
        chosen = frozenset(name for name, share in MENTIONED.items() if rng.random() < share)
        if len(chosen) >= 2:
            return chosen


def fits(scene: Scene, caption: str) -> bool:
    """Whether an object of the scene matches a caption about a single object (from `describe_object`)."""
    words = caption.split()
    place = " ".join(words[-2:]) if "in" in words else None
    said = {name: word for name, known in VALUES.items() for word in words if word in known}
    if place:
        said["place"] = place
    return any(all(getattr(item, name) == word for name, word in said.items()) for item in scene.objects)
