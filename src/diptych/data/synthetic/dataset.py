"""Synthetic data set: images of one to three colored objects with captions, rendered by code.

24 shapes x 12 colors x 3 sizes x 4 fills on varied backgrounds, alone, in a relation ("left of", "above"),
counted, or in a row. 36 of the 288 (shape, color) combinations never occur in split "train", in no object of
any image: split "unseen" shows exactly these, split "test" the others, one object per image. Every image
is a pure function of (index, seed, split, size); drawing takes about a millisecond at 64 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.core.errors import unknown_name
from diptych.core.records import Field, Pair
from diptych.data.synthetic.captions import captions
from diptych.data.synthetic.outlines import MIRRORED, REACH
from diptych.data.synthetic.render import BACKDROPS, KINDS, backdrops, draw
from diptych.data.synthetic.vocabulary import (
    COLORS,
    FILLS,
    PALETTE,
    SHAPES,
    SIZES,
    SPLITS,
    Background,
    Rgb,
    Rng,
    Scene,
    SceneObject,
    unseen_combinations,
)

__all__ = [
    "COLORS",
    "FILLS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "UNSEEN",
    "class_names",
    "contact_sheet",
    "describe",
    "render",
    "scene_pair",
    "scene_pairs",
]

UNSEEN: frozenset[tuple[str, str]] = unseen_combinations()

JPEG_QUALITY = 90  # with full chroma: thin colored outlines survive; 3 kB an image at 64 pixels

# Radius as a fraction of the image's side. A lone object takes its size's range; in company the range is
# shrunk to the room that a place in the layout offers.
_RADII = {"small": (0.205, 0.23), "medium": (0.27, 0.3), "large": (0.345, 0.395)}
_RADIUS_SHARES = {"small": (0.62, 0.7), "medium": (0.78, 0.86), "large": (0.94, 1.0)}
_RADIUS_OF_TWO, _RADIUS_OF_THREE = 0.225, 0.195
_TILT = 0.21  # radians, 12 degrees
_SHADE, _HUE = 8, 3  # largest steps from the palette: of all channels together, of each alone

_OFTEN_SOLID = (FILLS[0], *FILLS)  # solid objects are twice as frequent as each other fill

# How often training images show several objects.
_COUNT_RATE, _RELATION_RATE, _ROW_RATE = 0.07, 0.11, 0.04


def class_names() -> list[str]:
    """Return the 288 names "color shape", colors outermost.

    >>> class_names()[0], len(class_names())
    ('red circle', 288)
    """
    return [f"{color} {shape}" for color in COLORS for shape in SHAPES]


@lru_cache(maxsize=len(SPLITS))
def _combinations(split: str) -> tuple[tuple[str, str], ...]:
    wanted = split == "unseen"
    return tuple((s, c) for c in COLORS for s in SHAPES if ((s, c) in UNSEEN) == wanted)


def describe(index: int, *, seed: int, split: str = "train") -> Scene:
    """Compose an image without drawing it.

    Args:
        index: position in the split, from 0.
        seed: another seed is another data set.
        split: "train" (one to three objects, noisy captions), "test" or "unseen" (one object, plain
            captions; consecutive indices go through all combinations).

    Returns:
        The objects, the background and the captions.

    Raises:
        UnknownNameError: the split has no such name.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS, where="scenes")
    rng = Rng(seed, "scenes", split, index)
    combinations = _combinations(split)
    relation: str | None = None
    if split == "train":
        relation = _relation(rng)
        objects = (
            _several(relation, combinations, rng) if relation else (_alone(rng.pick(combinations), rng),)
        )
    else:
        objects = (_alone(combinations[index % len(combinations)], rng),)
    background = _background(objects, rng)
    texts = captions(objects, relation, background=background.kind, rng=rng, noisy=split == "train")
    return Scene(objects, background, relation, texts)


def render(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """Draw a composed scene as (size, size, 3) uint8, RGB."""
    return draw(scene, size)


def scene_pair(index: int, *, seed: int, split: str = "train", size: int = 64) -> Pair:
    """Return one image of the data set: JPEG bytes, captions, and fields.

    Args:
        index: position in the split, from 0.
        seed: another seed is another data set.
        split: "train", "test" or "unseen".
        size: side in pixels.

    Returns:
        A pair whose fields are `label` ("red circle"; None when objects differ), the first object's `shape`,
        `color`, `size` and `fill`, `objects` (their number), `relation`, `background` and `split`.
    """
    scene = describe(index, seed=seed, split=split)
    first = scene.objects[0]
    alike = scene.relation in (None, "count")
    fields: dict[str, Field] = {
        "label": f"{first.color} {first.shape}" if alike else None,
        "shape": first.shape,
        "color": first.color,
        "size": first.size,
        "fill": first.fill,
        "objects": len(scene.objects),
        "relation": scene.relation,
        "background": scene.background.kind,
        "split": split,
    }
    return Pair(f"{split}-{index:07d}", _encode(render(scene, size)), scene.captions, fields)


def scene_pairs(count: int, *, seed: int, split: str = "train", size: int = 64) -> Iterator[Pair]:
    """Yield the first `count` images of a split; the same ones for the same arguments."""
    for index in range(count):
        yield scene_pair(index, seed=seed, split=split, size=size)


def contact_sheet(
    *, columns: int = 8, rows: int = 4, seed: int = 0, split: str = "train", size: int = 128, gap: int = 6
) -> Image.Image:
    """Lay the first `columns * rows` images of a split out on one white page."""
    page = Image.new("RGB", (columns * (size + gap) + gap, rows * (size + gap) + gap), "white")
    for index in range(columns * rows):
        row, column = divmod(index, columns)
        pixels = render(describe(index, seed=seed, split=split), size)
        page.paste(Image.fromarray(pixels), (gap + column * (size + gap), gap + row * (size + gap)))
    return page


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _relation(rng: Rng) -> str | None:
    turn = rng.between(0, 1)
    if turn < _COUNT_RATE:
        return "count"
    if turn < _COUNT_RATE + _RELATION_RATE:
        return rng.pick(("left of", "above"))
    return "row" if turn < _COUNT_RATE + _RELATION_RATE + _ROW_RATE else None


def _alone(combination: tuple[str, str], rng: Rng) -> SceneObject:
    size = rng.pick(SIZES)
    radius = rng.between(*_RADII[size])
    margin = min(0.5, radius * REACH + 0.015)
    x, y = rng.between(margin, 1 - margin), rng.between(margin, 1 - margin)
    return _scene_object(combination, (size, rng.pick(_OFTEN_SOLID)), place=(x, y, radius), rng=rng)


def _several(relation: str, combinations: tuple[tuple[str, str], ...], rng: Rng) -> tuple[SceneObject, ...]:
    """Two or three objects, all alike for "count", of different shape and color otherwise."""
    number = 3 if relation == "row" or (relation == "count" and rng.chance(0.5)) else 2
    places = _places(relation, number, rng)
    space = _RADIUS_OF_TWO if number == 2 else _RADIUS_OF_THREE
    chosen = [rng.pick(combinations)]
    looks = [(rng.pick(SIZES), rng.pick(_OFTEN_SOLID))]
    while len(chosen) < number:
        if relation == "count":
            chosen.append(chosen[0])
            looks.append(looks[0])
            continue
        other = rng.pick(combinations)
        if all(other[0] != shape and other[1] != color for shape, color in chosen) and _share_backdrop(
            [*chosen, other]
        ):
            chosen.append(other)
            looks.append((rng.pick(SIZES), rng.pick(_OFTEN_SOLID)))
    return tuple(
        _scene_object(combination, look, place=(x, y, space * rng.between(*_RADIUS_SHARES[look[0]])), rng=rng)
        for combination, look, (x, y) in zip(chosen, looks, places, strict=True)
    )


def _places(relation: str, number: int, rng: Rng) -> list[tuple[float, float]]:
    """Centers that keep objects apart: the first is the left or the upper one."""
    upright = relation == "above" or (relation == "count" and rng.chance(0.4))
    if number == 2:
        near, far = 0.26 + rng.between(-0.01, 0.02), 0.74 + rng.between(-0.02, 0.01)
        aside = 0.5 + rng.between(-0.16, 0.16)
        others = (aside, aside + rng.between(-0.08, 0.08))
        pairs = list(zip((near, far), others, strict=True))
        return [(b, a) for a, b in pairs] if upright else pairs
    low, high = 0.29 + rng.between(-0.03, 0.03), 0.71 + rng.between(-0.03, 0.03)
    if rng.chance(0.5):
        low, high = high, low
    return [(0.225, low), (0.5, high), (0.775, low)]


def _scene_object(
    combination: tuple[str, str], look: tuple[str, str], *, place: tuple[float, float, float], rng: Rng
) -> SceneObject:
    shape, color = combination
    x, y, radius = place
    shade = rng.below(2 * _SHADE + 1) - _SHADE
    red, green, blue = (
        min(255, max(0, channel + shade + rng.below(2 * _HUE + 1) - _HUE)) for channel in PALETTE[color]
    )
    rgb: Rgb = (red, green, blue)
    angle = rng.between(-_TILT, _TILT)
    return SceneObject(shape, color, *look, x, y, radius, angle, shape in MIRRORED and rng.chance(0.5), rgb)


def _share_backdrop(chosen: list[tuple[str, str]]) -> bool:
    return bool(frozenset.intersection(*(backdrops(color) for _, color in chosen)))


def _background(objects: tuple[SceneObject, ...], rng: Rng) -> Background:
    """A backdrop on which every object stays visible, in either order of its tones."""
    allowed = sorted(frozenset.intersection(*(backdrops(obj.color) for obj in objects)))
    first, second = BACKDROPS[rng.pick(allowed)]
    if rng.chance(0.5):
        first, second = second, first
    phase = (rng.between(0, 1), rng.between(0, 1), rng.between(0, 1))
    return Background(rng.pick(KINDS), (first, second), phase)
