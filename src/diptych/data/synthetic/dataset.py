"""The embedded data set: pictures of one to three coloured objects with captions, rendered by code.

24 shapes x 12 colours x 3 sizes x 4 fills on varied backgrounds, alone, in a relation ("left of", "above"),
counted, or in a row. 36 of the 288 (shape, colour) combinations never occur in split "train", in no object of
any picture: split "unseen" shows exactly these, split "test" the others, one object a picture. Every picture
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
from diptych.data.synthetic.canvas import BACKDROPS, KINDS, backdrops, draw
from diptych.data.synthetic.captions import captions
from diptych.data.synthetic.render import MIRRORED, REACH
from diptych.data.synthetic.vocabulary import (
    COLOURS,
    FILLS,
    PALETTE,
    SHAPES,
    SIZES,
    SPLITS,
    Background,
    Dice,
    Rgb,
    Scene,
    Thing,
    unseen_combinations,
)

__all__ = [
    "COLOURS",
    "FILLS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "UNSEEN",
    "class_names",
    "contact_sheet",
    "describe",
    "picture",
    "render",
    "scene_pairs",
]

UNSEEN: frozenset[tuple[str, str]] = unseen_combinations()

JPEG_QUALITY = 90  # with full chroma: thin coloured outlines survive; 3 kB a picture at 64 pixels

# Radius as a fraction of the picture's side. A lone object takes its size's range; in company the range is
# shrunk to the room that a place in the layout offers.
_RADII = {"small": (0.205, 0.23), "medium": (0.27, 0.3), "large": (0.345, 0.395)}
_SHARE_OF_ROOM = {"small": (0.62, 0.7), "medium": (0.78, 0.86), "large": (0.94, 1.0)}
_ROOM_OF_TWO, _ROOM_OF_THREE = 0.225, 0.195
_TILT = 0.21  # radians, 12 degrees
_SHADE, _HUE = 8, 3  # largest steps from the palette: of all channels together, of each alone

_OFTEN_SOLID = (FILLS[0], *FILLS)  # solid objects are twice as frequent as each other fill

# How often training pictures show several objects.
_COUNT_RATE, _RELATION_RATE, _ROW_RATE = 0.07, 0.11, 0.04


def class_names() -> list[str]:
    """Return the 288 names "colour shape", colours outermost.

    >>> class_names()[0], len(class_names())
    ('red circle', 288)
    """
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


@lru_cache(maxsize=len(SPLITS))
def _combinations(split: str) -> tuple[tuple[str, str], ...]:
    """The (shape, colour) combinations of a split, in a fixed order."""
    wanted = split == "unseen"
    return tuple((s, c) for c in COLOURS for s in SHAPES if ((s, c) in UNSEEN) == wanted)


def describe(index: int, *, seed: int, split: str = "train") -> Scene:
    """Compose a picture without drawing it.

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
    dice = Dice(seed, "scenes", split, index)
    combinations = _combinations(split)
    relation: str | None = None
    if split == "train":
        relation = _relation(dice)
        things = (
            _several(relation, combinations, dice) if relation else (_alone(dice.pick(combinations), dice),)
        )
    else:
        things = (_alone(combinations[index % len(combinations)], dice),)
    background = _background(things, dice)
    texts = captions(things, relation, background=background.kind, dice=dice, noisy=split == "train")
    return Scene(things, background, relation, texts)


def render(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """Draw a composed scene as (size, size, 3) uint8, RGB."""
    return draw(scene, size)


def picture(index: int, *, seed: int, split: str = "train", size: int = 64) -> Pair:
    """Return one picture of the data set: JPEG bytes, captions, and fields.

    Args:
        index: position in the split, from 0.
        seed: another seed is another data set.
        split: "train", "test" or "unseen".
        size: side in pixels.

    Returns:
        A pair whose fields are `label` ("red circle"; None when objects differ), the first object's `shape`,
        `colour`, `size` and `fill`, `objects` (their number), `relation`, `background` and `split`.
    """
    scene = describe(index, seed=seed, split=split)
    first = scene.things[0]
    alike = scene.relation in (None, "count")
    fields: dict[str, Field] = {
        "label": f"{first.colour} {first.shape}" if alike else None,
        "shape": first.shape,
        "colour": first.colour,
        "size": first.size,
        "fill": first.fill,
        "objects": len(scene.things),
        "relation": scene.relation,
        "background": scene.background.kind,
        "split": split,
    }
    return Pair(f"{split}-{index:07d}", _encode(render(scene, size)), scene.captions, fields)


def scene_pairs(count: int, *, seed: int, split: str = "train", size: int = 64) -> Iterator[Pair]:
    """Yield the first `count` pictures of a split; the same ones for the same arguments."""
    for index in range(count):
        yield picture(index, seed=seed, split=split, size=size)


def contact_sheet(
    *, columns: int = 8, rows: int = 4, seed: int = 0, split: str = "train", size: int = 128, gap: int = 6
) -> Image.Image:
    """Lay the first `columns * rows` pictures of a split out on one white page."""
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


def _relation(dice: Dice) -> str | None:
    turn = dice.between(0, 1)
    if turn < _COUNT_RATE:
        return "count"
    if turn < _COUNT_RATE + _RELATION_RATE:
        return dice.pick(("left of", "above"))
    return "row" if turn < _COUNT_RATE + _RELATION_RATE + _ROW_RATE else None


def _alone(combination: tuple[str, str], dice: Dice) -> Thing:
    size = dice.pick(SIZES)
    radius = dice.between(*_RADII[size])
    margin = min(0.5, radius * REACH + 0.015)
    x, y = dice.between(margin, 1 - margin), dice.between(margin, 1 - margin)
    return _thing(combination, (size, dice.pick(_OFTEN_SOLID)), place=(x, y, radius), dice=dice)


def _several(relation: str, combinations: tuple[tuple[str, str], ...], dice: Dice) -> tuple[Thing, ...]:
    """Two or three objects, all alike for "count", of different shape and colour otherwise."""
    number = 3 if relation == "row" or (relation == "count" and dice.chance(0.5)) else 2
    places = _places(relation, number, dice)
    room = _ROOM_OF_TWO if number == 2 else _ROOM_OF_THREE
    chosen = [dice.pick(combinations)]
    looks = [(dice.pick(SIZES), dice.pick(_OFTEN_SOLID))]
    while len(chosen) < number:
        if relation == "count":
            chosen.append(chosen[0])
            looks.append(looks[0])
            continue
        other = dice.pick(combinations)
        if all(other[0] != shape and other[1] != colour for shape, colour in chosen) and _share_backdrop(
            [*chosen, other]
        ):
            chosen.append(other)
            looks.append((dice.pick(SIZES), dice.pick(_OFTEN_SOLID)))
    return tuple(
        _thing(combination, look, place=(x, y, room * dice.between(*_SHARE_OF_ROOM[look[0]])), dice=dice)
        for combination, look, (x, y) in zip(chosen, looks, places, strict=True)
    )


def _places(relation: str, number: int, dice: Dice) -> list[tuple[float, float]]:
    """Centres that keep objects apart: the first is the left or the upper one."""
    upright = relation == "above" or (relation == "count" and dice.chance(0.4))
    if number == 2:
        near, far = 0.26 + dice.between(-0.01, 0.02), 0.74 + dice.between(-0.02, 0.01)
        aside = 0.5 + dice.between(-0.16, 0.16)
        others = (aside, aside + dice.between(-0.08, 0.08))
        pairs = list(zip((near, far), others, strict=True))
        return [(b, a) for a, b in pairs] if upright else pairs
    low, high = 0.29 + dice.between(-0.03, 0.03), 0.71 + dice.between(-0.03, 0.03)
    if dice.chance(0.5):
        low, high = high, low
    return [(0.225, low), (0.5, high), (0.775, low)]


def _thing(
    combination: tuple[str, str], look: tuple[str, str], *, place: tuple[float, float, float], dice: Dice
) -> Thing:
    shape, colour = combination
    x, y, radius = place
    shade = dice.below(2 * _SHADE + 1) - _SHADE
    red, green, blue = (
        min(255, max(0, channel + shade + dice.below(2 * _HUE + 1) - _HUE)) for channel in PALETTE[colour]
    )
    rgb: Rgb = (red, green, blue)
    angle = dice.between(-_TILT, _TILT)
    return Thing(shape, colour, *look, x, y, radius, angle, shape in MIRRORED and dice.chance(0.5), rgb)


def _share_backdrop(chosen: list[tuple[str, str]]) -> bool:
    return bool(frozenset.intersection(*(backdrops(colour) for _, colour in chosen)))


def _background(things: tuple[Thing, ...], dice: Dice) -> Background:
    """A backdrop on which every object stays visible, in either order of its tones."""
    allowed = sorted(frozenset.intersection(*(backdrops(thing.colour) for thing in things)))
    first, second = BACKDROPS[dice.pick(allowed)]
    if dice.chance(0.5):
        first, second = second, first
    phase = (dice.between(0, 1), dice.between(0, 1), dice.between(0, 1))
    return Background(dice.pick(KINDS), (first, second), phase)
