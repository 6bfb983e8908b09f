"""Synthetic data set: images of one to three colored objects with captions, rendered by code.

24 shapes x 12 colors x 3 sizes x 4 fills on varied backgrounds, alone, in a relation ("left of", "above"),
counted, or in a row. 36 of the 288 (shape, color) combinations never occur in split "train", in no object of
any image: split "unseen" shows exactly these, split "test" the others, one object per image. Every image
is a pure function of (index, seed, split, size); drawing takes about a millisecond at 64 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

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
    UNSEEN,
    Background,
    Rng,
    Scene,
    SceneObject,
)

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

Combination = tuple[str, str]  # shape and color
_COMBINATIONS = tuple((shape, color) for color in COLORS for shape in SHAPES)
SEEN = tuple(combination for combination in _COMBINATIONS if combination not in UNSEEN)
_OF_SPLIT = dict.fromkeys(SPLITS, SEEN) | {"unseen": tuple(c for c in _COMBINATIONS if c in UNSEEN)}


def describe(index: int, *, seed: int, split: str = "train") -> Scene:
    """Compose an image without drawing it.

    Args:
        index: position in the split, from 0.
        seed: another seed is another data set.
        split: "train" (one to three objects, noisy captions), "test" or "unseen" (one object, plain
            captions; consecutive indices go through all combinations).

    Raises:
        UnknownNameError: the split has no such name.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS, where="scenes")
    rng, combinations, noisy = Rng(seed, "scenes", split, index), _OF_SPLIT[split], split == "train"
    relation = _relation(rng) if noisy else None
    if relation is not None:
        objects = _several(relation, combinations, rng)
    else:
        combination = rng.pick(combinations) if noisy else combinations[index % len(combinations)]
        objects = (_alone(combination, rng),)
    background = _background(objects, rng)
    texts = captions(objects, relation, background=background.kind, rng=rng, noisy=noisy)
    return Scene(objects, background, relation, texts)


def scene_pair(index: int, *, seed: int, split: str = "train", size: int = 64) -> Pair:
    """Return what `describe` composes, drawn at `size` pixels a side: JPEG bytes, captions, and fields.

    The fields are `label` ("red circle"; None when objects differ), the first object's `shape`, `color`,
    `size` and `fill`, `objects` (their number), `relation`, `background` and `split`.
    """
    scene = describe(index, seed=seed, split=split)
    first = scene.objects[0]
    alike = scene.relation in (None, "count")
    fields: dict[str, Field] = {
        "label": f"{first.color} {first.shape}" if alike else None,
        **{name: getattr(first, name) for name in ("shape", "color", "size", "fill")},
        "objects": len(scene.objects),
        "relation": scene.relation,
        "background": scene.background.kind,
        "split": split,
    }
    buffer = io.BytesIO()
    Image.fromarray(draw(scene, size)).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Pair(f"{split}-{index:07d}", buffer.getvalue(), scene.captions, fields)


def scene_pairs(count: int, *, seed: int, split: str = "train", size: int = 64) -> Iterator[Pair]:
    """Yield the first `count` images of a split; the same ones for the same arguments."""
    for index in range(count):
        yield scene_pair(index, seed=seed, split=split, size=size)


def _relation(rng: Rng) -> str | None:
    turn = rng.between(0, 1)
    if turn < _COUNT_RATE:
        return "count"
    if turn < _COUNT_RATE + _RELATION_RATE:
        return rng.pick(("left of", "above"))
    return "row" if turn < _COUNT_RATE + _RELATION_RATE + _ROW_RATE else None


def _alone(combination: Combination, rng: Rng) -> SceneObject:
    size = rng.pick(SIZES)
    radius = rng.between(*_RADII[size])
    margin = min(0.5, radius * REACH + 0.015)
    x, y = rng.between(margin, 1 - margin), rng.between(margin, 1 - margin)
    return _scene_object(combination, (size, rng.pick(_OFTEN_SOLID)), place=(x, y, radius), rng=rng)


def _several(relation: str, combinations: tuple[Combination, ...], rng: Rng) -> tuple[SceneObject, ...]:
    """Two or three objects, all alike for "count", of different shape and color otherwise."""
    number = 3 if relation == "row" or (relation == "count" and rng.chance(0.5)) else 2
    places = _places(relation, number, rng)
    space = _RADIUS_OF_TWO if number == 2 else _RADIUS_OF_THREE
    chosen = [rng.pick(combinations)]
    looks = [(rng.pick(SIZES), rng.pick(_OFTEN_SOLID))]
    if relation == "count":
        chosen, looks = chosen * number, looks * number
    while len(chosen) < number:
        other = rng.pick(combinations)
        differs = all(other[0] != shape and other[1] != color for shape, color in chosen)
        if differs and _shared_backdrops([color for _, color in (*chosen, other)]):
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
        pairs = [(near, aside), (far, aside + rng.between(-0.08, 0.08))]
        return [(b, a) for a, b in pairs] if upright else pairs
    low, high = 0.29 + rng.between(-0.03, 0.03), 0.71 + rng.between(-0.03, 0.03)
    if rng.chance(0.5):
        low, high = high, low
    return [(0.225, low), (0.5, high), (0.775, low)]


def _scene_object(
    combination: Combination, look: tuple[str, str], *, place: tuple[float, float, float], rng: Rng
) -> SceneObject:
    shape, color = combination
    shade = rng.below(2 * _SHADE + 1) - _SHADE
    red, green, blue = (
        min(255, max(0, channel + shade + rng.below(2 * _HUE + 1) - _HUE)) for channel in PALETTE[color]
    )
    angle, mirrored = rng.between(-_TILT, _TILT), shape in MIRRORED and rng.chance(0.5)
    return SceneObject(shape, color, *look, *place, angle, mirrored, (red, green, blue))


def _shared_backdrops(colors: list[str]) -> frozenset[int]:
    return frozenset.intersection(*map(backdrops, colors))


def _background(objects: tuple[SceneObject, ...], rng: Rng) -> Background:
    """A backdrop on which every object stays visible, in either order of its tones."""
    first, second = BACKDROPS[rng.pick(sorted(_shared_backdrops([obj.color for obj in objects])))]
    if rng.chance(0.5):
        first, second = second, first
    phase = (rng.between(0, 1), rng.between(0, 1), rng.between(0, 1))
    return Background(rng.pick(KINDS), (first, second), phase)
