"""Vocabulary of the synthetic scenes: names, palette, the records of a scene, and the random generator.

No image is drawn here and no text is written: `render` draws these records, `captions` describes them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from diptych.core.seeds import derive

T = TypeVar("T")
Rgb = tuple[int, int, int]

# 24 outlines that stay apart at 20 pixels and have a common one-word name.
SHAPES: tuple[str, ...] = (
    "circle", "oval", "square", "triangle", "diamond", "star", "heart", "cross",
    "ring", "moon", "arrow", "hourglass", "drop", "flower", "cloud", "bolt",
    "leaf", "house", "key", "fish", "tree", "crown", "mug", "mushroom",
)  # fmt: skip

# Twelve colors, each named by one common word; the closest two (teal, grey) are 0.13 apart in OKLab.
PALETTE: dict[str, Rgb] = {
    "red": (216, 36, 42),
    "orange": (248, 132, 24),
    "yellow": (252, 216, 44),
    "green": (52, 160, 62),
    "teal": (0, 178, 172),
    "blue": (36, 84, 214),
    "purple": (120, 54, 176),
    "pink": (250, 134, 188),
    "brown": (124, 74, 38),
    "black": (24, 24, 28),
    "white": (252, 252, 250),
    "grey": (130, 131, 136),
}
COLORS: tuple[str, ...] = tuple(PALETTE)
SIZES: tuple[str, ...] = ("small", "medium", "large")
FILLS: tuple[str, ...] = ("solid", "outline", "striped", "dotted")
SPLITS: tuple[str, ...] = ("train", "test", "unseen")

# The (shape, color) combinations that training images never show: 36 of 288. Shapes take turns in a fixed
# order while colors step by 5 (coprime to 12) and shift by one every twelve turns, so that each color misses
# three shapes, each shape one or two colors, and no combination is chosen twice.
_TURNS = sorted(SHAPES, key=lambda shape: derive(0, "scenes", "unseen", shape))
UNSEEN: frozenset[tuple[str, str]] = frozenset(
    (_TURNS[turn % 24], COLORS[(5 * turn + turn // 12) % 12]) for turn in range(36)
)


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object of a scene; lengths are fractions of the image's side, y grows downwards."""

    shape: str
    color: str
    size: str
    fill: str
    x: float
    y: float
    radius: float
    angle: float  # radians, counter-clockwise
    mirrored: bool
    rgb: Rgb  # the palette's color with a little jitter


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the objects: a kind, two tones, and numbers in 0..1 that place its pattern."""

    kind: str
    tones: tuple[Rgb, Rgb]
    phase: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and its captions, before a pixel is drawn."""

    objects: tuple[SceneObject, ...]
    background: Background
    relation: str | None  # "left of", "above", "count", "row", or None for a single object
    captions: tuple[str, ...]


class Rng:
    """Random generator built on `random()` alone, which Python keeps equal across versions."""

    def __init__(self, seed: int, *names: str | int) -> None:
        self._random = random.Random(derive(seed, *names)).random

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self._random()

    def below(self, count: int) -> int:
        """Return an integer in 0..count-1."""
        return int(self._random() * count)

    def chance(self, probability: float) -> bool:
        """Return True with `probability`."""
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of `items`."""
        return items[self.below(len(items))]
