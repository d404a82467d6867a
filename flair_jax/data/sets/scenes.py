"""Scenes: small drawn pictures with sentences about their parts, and a mask for every object. Imports no JAX.

Everything follows from a random generator: what is drawn, how it is described, and what a description with one word
changed would be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

SIDE = 72  # pixels of a picture's side
CELLS = 3  # objects stand in a grid of 3 x 3 cells
FEWEST, MOST = 4, 6  # objects of a held-out scene
SENTENCES = 24  # about a scene that is trained on

SHAPES = ("circle", "square", "triangle", "cross", "ring", "star", "moon", "bar")
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
SIZES: dict[str, tuple[float, float]] = {"small": (5.4, 6.0), "large": (8.6, 9.4)}  # radius in pixels, from and to
TEXTURES = ("plain", "striped", "dotted")
ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "center", "right")
PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)

RELATIONS = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
VALUES: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "place": PLACES,
}

# What a sentence that is drawn is about: shares of relations and of the background; the rest is about one object.
_RELATION, _BACKGROUND = 0.15, 0.08
# How many attributes a sentence about one object mentions, from 1 to all 5; the shape is otherwise "object". A word
# that is true of many scenes teaches little, because they count as negatives: most sentences mention all.
_MENTIONED = (0.02, 0.05, 0.08, 0.15, 0.70)
# A scene of several objects has exactly one of this colour, to which relations refer.
LANDMARK = "white"
# What a relation names its other object by. Short sentences fit many scenes, so that the relation counts.
NAMED_BY = ("colour", "shape")
# Of the scenes that are trained on, the share with 1, 2, ... objects.
_COUNTS = (0.4, 0.12, 0.12, 0.12, 0.12, 0.12)
_STRIPE = 2.5  # pixels
_JITTER = 1.0  # pixels from the middle of the cell, at most, on each axis


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
    """What a picture shows: 1 to 6 objects, no two alike in both colour and shape, over a background.

    If there are several, exactly one is white.
    """

    background: str
    objects: tuple[SceneObject, ...]


def draw_scene(rng: np.random.Generator, *, for_training: bool = False) -> Scene:
    """A random scene of 4 to 6 objects; one to train on has 1 to 6, and often 1, so that words are learned soon."""
    held_out = range(FEWEST, MOST + 1)
    count = 1 + int(rng.choice(len(_COUNTS), p=_COUNTS)) if for_training else int(rng.choice(held_out))
    places = rng.permutation(len(PLACES))[:count]
    white = list(COLOURS).index(LANDMARK)  # the last
    looks = rng.permutation((len(COLOURS) if count == 1 else white) * len(SHAPES))[:count]
    if count > 1:
        looks[rng.integers(count)] = white * len(SHAPES) + rng.integers(len(SHAPES))
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
      uint8 [72, 72, 3], and uint8 [72, 72] with the number of the object at each pixel, from 1; 0 is background.
    """
    rows, columns = np.arange(SIDE, dtype=np.float32)[:, None], np.arange(SIDE, dtype=np.float32)[None, :]
    slope = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    light = 1 + slope[0] * (rows / SIDE - 0.5) * 2 + slope[1] * (columns / SIDE - 0.5) * 2
    pixels = np.array(BACKGROUNDS[scene.background], np.float32) * light[..., None]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cell = np.float32(SIDE / CELLS)
    for number, item in enumerate(scene.objects, start=1):
        radius = np.float32(rng.uniform(*SIZES[item.size]))
        jitter = rng.uniform(-_JITTER, _JITTER, 2).astype(np.float32)
        y = rows + np.float32(0.5) - (item.cell[0] + 0.5) * cell - jitter[0]
        x = columns + np.float32(0.5) - (item.cell[1] + 0.5) * cell - jitter[1]
        inside = _INSIDE[item.shape](x / radius, y / radius)
        colour = np.array(COLOURS[item.colour], np.float32)
        pixels[inside] = (colour * (1 - 0.5 * _pattern(item.texture, x, y)[..., None]))[inside]
        mask[inside] = number
    pixels += 5 * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8), mask


def _pattern(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 at the dark pixels of a texture, 0 elsewhere: float32."""
    if texture == "striped":
        return (np.floor((x + y) / _STRIPE) % 2).astype(np.float32)
    if texture == "dotted":
        return ((np.floor(x / _STRIPE) % 2) * (np.floor(y / _STRIPE) % 2)).astype(np.float32)
    return np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)


def _far(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y))


def _star_edge(angle: np.ndarray, outer: float = 1.05, inner: float = 0.45) -> np.ndarray:
    """How far the edge of a five-pointed star is from its centre, at an angle from straight up."""
    half = np.pi / 5
    turn = abs((angle + half) % (2 * half) - half)
    return outer * inner * np.sin(half) / (inner * np.sin(half - turn) + outer * np.sin(turn))


# Whether a point is in the shape of radius 1 around the origin; y grows downwards.
_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: np.hypot(x, y) <= 1,
    "square": lambda x, y: _far(x, y) <= 0.87,
    "triangle": lambda x, y: (y <= 0.8) & (y >= 1.9 * abs(x) - 1),
    "cross": lambda x, y: (_far(x, y) <= 1) & (np.minimum(abs(x), abs(y)) <= 0.38),
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.75) <= 0.25,
    "star": lambda x, y: np.hypot(x, y) <= _star_edge(np.arctan2(x, -y)),
    "moon": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x - 0.75, y) >= 0.85),
    "bar": lambda x, y: (abs(x) <= 1) & (abs(y) <= 0.45),
}


def describe_object(item: SceneObject, mentioned: frozenset[str] | set[str] = frozenset(VALUES)) -> str:
    """A phrase about one object with the attributes mentioned, such as "a small red ring in the upper left"."""
    words = [getattr(item, name) for name in ("size", "texture", "colour") if name in mentioned]
    words.append(item.shape if "shape" in mentioned else "object")
    place = f" in the {item.place}" if "place" in mentioned else ""
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}{place}"


def describe_background(scene: Scene) -> str:
    """A sentence about the background."""
    return f"the background is {scene.background}"


def describe_relation(item: SceneObject, relation: str, named_by: str) -> str:
    """A sentence about where an object stands, such as "a red object above the white object"."""
    return f"{describe_object(item, {named_by})} {relation} the {LANDMARK} object"


def relations(scene: Scene) -> Iterator[tuple[int, str]]:
    """All that holds between an object and the white one: number of the object from 0, and the relation."""
    landmarks = [item for item in scene.objects if item.colour == LANDMARK]
    for number, item in enumerate(scene.objects if len(scene.objects) > 1 else ()):
        down, across = (a - b for a, b in zip(item.cell, landmarks[0].cell, strict=True))
        if down:
            yield number, "below" if down > 0 else "above"
        if across:
            yield number, "right of" if across > 0 else "left of"


def describe_long(scene: Scene) -> str:
    """The background and two objects in full, one sentence each."""
    objects = [describe_object(item) for item in scene.objects[:2]]
    return ". ".join([describe_background(scene), *objects])


def draw_sentences(scene: Scene, rng: np.random.Generator, count: int = SENTENCES) -> list[tuple[str, int]]:
    """Sentences about single objects, about pairs of objects and about the background, each drawn for itself.

    Returns:
      Sentence and number of the only object it is about, from 0; -1 if it is about none or two.
    """
    true = list(relations(scene))
    sentences = []
    for kind in rng.random(count):
        if kind < _BACKGROUND:
            sentences.append((describe_background(scene), -1))
        elif kind < _BACKGROUND + _RELATION and true:
            number, relation = true[int(rng.integers(len(true)))]
            named_by = NAMED_BY[int(rng.integers(len(NAMED_BY)))]
            sentences.append((describe_relation(scene.objects[number], relation, named_by), -1))
        else:
            number = int(rng.integers(len(scene.objects)))
            sentences.append((describe_object(scene.objects[number], draw_mentioned(rng)), number))
    return sentences


def draw_mentioned(rng: np.random.Generator) -> frozenset[str]:
    """Attributes for one description, at least one."""
    count = 1 + int(rng.choice(len(_MENTIONED), p=_MENTIONED))
    return frozenset(list(VALUES)[pick] for pick in rng.permutation(len(VALUES))[:count])


def fits(scene: Scene, item: SceneObject, mentioned: frozenset[str]) -> bool:
    """Whether an object of the scene has those attributes of an object that a sentence mentions."""
    return any(alike(each, item, mentioned) for each in scene.objects)


def alike(one: SceneObject, other: SceneObject, mentioned: frozenset[str]) -> bool:
    """Whether two objects have the same of those attributes."""
    return all(getattr(one, name) == getattr(other, name) for name in mentioned)


def relation_holds(scene: Scene, item: SceneObject, relation: str, named_by: str) -> bool:
    """Whether a sentence of `describe_relation` is true of an object of the scene."""
    return any(
        relation == each and alike(scene.objects[number], item, frozenset({named_by}))
        for number, each in relations(scene)
    )
