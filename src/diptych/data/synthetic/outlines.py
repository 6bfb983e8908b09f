"""The outlines of the drawn shapes as signed distance fields, tabulated once and sampled at any pose.

A field maps points of the plane (x to the right, y up, the shape inside about the unit circle) to the signed
distance to its outline: negative inside. Sampling a table costs the same for a circle and for a key.

Source: the distances of circle, box, segment and polygon follow Inigo Quilez, "2D distance functions".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NEAR = 0.05  # in units of the radius
STROKE, STROKE_OF_DEPTH = 0.2, 0.62  # a stroke of 0.2 is two pixels wide on the smallest 64-pixel object

Array = NDArray[np.float32]
Field = Callable[[Array, Array], Array]
Point = tuple[float, float]

REACH = 1.16  # no shape reaches further from its center
EXTENT = 1.4  # tables cover [-EXTENT, EXTENT]^2: the shape and the room its shadow needs


def _circle(x: Array, y: Array, center: Point, radius: float) -> Array:
    field: Array = np.hypot(x - np.float32(center[0]), y - np.float32(center[1])) - np.float32(radius)
    return field


def _box(x: Array, y: Array, center: Point, half: Point, *, corner: float = 0.0) -> Array:
    across = np.abs(x - np.float32(center[0])) - np.float32(half[0] - corner)
    along = np.abs(y - np.float32(center[1])) - np.float32(half[1] - corner)
    outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
    field: Array = outside + np.minimum(np.maximum(across, along), 0) - np.float32(corner)
    return field


def _polygon(x: Array, y: Array, points: Sequence[Point]) -> Array:
    """Exact distance to a closed polygon; the sign flips at every edge crossed by a ray to the right."""
    nearest = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - np.float32(ax), y - np.float32(ay)
        t = np.clip((wx * np.float32(ex) + wy * np.float32(ey)) / np.float32(ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (wx - t * np.float32(ex)) ** 2 + (wy - t * np.float32(ey)) ** 2)
        if ay != by:
            crosses = ((y >= ay) != (y >= by)) & (wx < wy * np.float32(ex / ey))
            inside ^= crosses
    return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)


def _union(*fields: Array) -> Array:
    result = fields[0]
    for field in fields[1:]:
        result = np.minimum(result, field)
    return result


def _without(field: Array, *holes: Array) -> Array:
    for hole in holes:
        field = np.maximum(field, -hole)
    return field


def _round(
    radius_x: float, radius_y: float, *, center: Point = (0.0, 0.0), arc: Point = (0.0, 1.0)
) -> list[Point]:
    turns = np.linspace(arc[0], arc[1], 49)[: 48 if arc[1] - arc[0] == 1 else 49] * (2 * math.pi)
    return [(center[0] + radius_x * math.cos(t), center[1] + radius_y * math.sin(t)) for t in turns.tolist()]


def _star(x: Array, y: Array) -> Array:
    radii = (1.06, 0.45)
    turns = [math.pi * (0.5 + step / 5) for step in range(10)]
    return _polygon(
        x, y, [(radii[i % 2] * math.cos(t), radii[i % 2] * math.sin(t)) for i, t in enumerate(turns)]
    )


def _heart(x: Array, y: Array) -> Array:
    points = []
    for step in range(56):
        t = 2 * math.pi * step / 56
        height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3 * 0.98, (height + 2.5) / 16.3))
    return _polygon(x, y, points)


def _cross(x: Array, y: Array) -> Array:
    return _union(_box(x, y, (0, 0), (0.92, 0.3)), _box(x, y, (0, 0), (0.3, 0.92)))


def _ring(x: Array, y: Array) -> Array:
    return _without(_circle(x, y, (0, 0), 0.92), _circle(x, y, (0, 0), 0.42))


def _moon(x: Array, y: Array) -> Array:
    return _without(_circle(x, y, (-0.08, 0), 0.95), _circle(x, y, (0.42, 0.12), 0.76))


def _arrow(x: Array, y: Array) -> Array:
    upper = [(-1.0, 0.26), (0.08, 0.26), (0.08, 0.74), (1.02, 0.0)]
    return _polygon(x, y, upper + [(px, -py) for px, py in reversed(upper[:-1])])


def _hourglass(x: Array, y: Array) -> Array:
    glass = _polygon(x, y, [(-0.54, 0.86), (0.54, 0.86), (0.1, 0), (0.54, -0.86), (-0.54, -0.86), (-0.1, 0)])
    return _union(glass, _box(x, y, (0, 0.8), (0.66, 0.13)), _box(x, y, (0, -0.8), (0.66, 0.13)))


def _drop(x: Array, y: Array) -> Array:
    radius, low, tip = 0.64, -0.36, 1.05
    sine = radius / (tip - low)
    side = (radius * math.sqrt(1 - sine * sine), low + radius * sine)  # where the flanks touch the circle
    return _union(
        _circle(x, y, (0, low), radius), _polygon(x, y, [(0, tip), (-side[0], side[1]), (0, low), side])
    )


def _flower(x: Array, y: Array) -> Array:
    turns = [math.pi * (0.5 + step / 3) for step in range(6)]
    petals = [_circle(x, y, (0.62 * math.cos(t), 0.62 * math.sin(t)), 0.36) for t in turns]
    return _without(_union(_circle(x, y, (0, 0), 0.5), *petals), _circle(x, y, (0, 0), 0.16))


def _cloud(x: Array, y: Array) -> Array:
    puffs = [((-0.6, -0.14), 0.38), ((-0.2, 0.22), 0.46), ((0.34, 0.1), 0.44), ((0.68, -0.2), 0.32)]
    return _union(
        _box(x, y, (0.04, -0.32), (0.94, 0.2), corner=0.19), *[_circle(x, y, c, r) for c, r in puffs]
    )


def _bolt(x: Array, y: Array) -> Array:
    left = [(0.1, 1.04), (-0.7, -0.16), (-0.14, -0.16), (-0.36, -1.06)]
    return _polygon(x, y, [*left, (0.74, 0.3), (0.18, 0.3), (0.56, 1.0)])


def _leaf(x: Array, y: Array) -> Array:
    along, across = (x + y) * np.float32(math.sqrt(0.5)), (y - x) * np.float32(math.sqrt(0.5))
    blade = np.maximum(_circle(along, across, (0.1, 0.62), 1.14), _circle(along, across, (0.1, -0.62), 1.14))
    stem = _box(along, across, (-0.9, 0), (0.22, 0.08))
    return _union(_without(blade, _box(along, across, (-0.1, 0), (0.62, 0.05))), stem)


def _house(x: Array, y: Array) -> Array:
    roof = _polygon(x, y, [(-1.0, 0.06), (1.0, 0.06), (0, 0.98)])
    chimney = _box(x, y, (0.52, 0.6), (0.14, 0.36))
    walls = _box(x, y, (0, -0.4), (0.72, 0.52))
    return _without(_union(roof, chimney, walls), _box(x, y, (0, -0.66), (0.2, 0.36)))


def _key(x: Array, y: Array) -> Array:
    bow = _without(_circle(x, y, (-0.54, 0.08), 0.54), _circle(x, y, (-0.6, 0.08), 0.19))
    teeth = (_box(x, y, (0.9, -0.2), (0.14, 0.36)), _box(x, y, (0.46, -0.16), (0.13, 0.28)))
    return _union(bow, _box(x, y, (0.4, 0.1), (0.63, 0.19)), *teeth)


def _fish(x: Array, y: Array) -> Array:
    body = _polygon(x, y, _round(0.74, 0.5, center=(-0.26, 0)))
    tail = _polygon(x, y, [(0.3, 0), (1.0, 0.58), (0.84, 0), (1.0, -0.58)])
    fin = _polygon(x, y, [(-0.42, 0.42), (0.14, 0.74), (0.14, 0.36)])
    return _without(_union(body, tail, fin), _circle(x, y, (-0.62, 0.12), 0.11))


def _tree(x: Array, y: Array) -> Array:
    tiers = [((0.46, 0.38), 1.06), ((0.66, -0.14), 0.66), ((0.86, -0.7), 0.2)]
    boughs = [_polygon(x, y, [(-half, low), (half, low), (0, top)]) for (half, low), top in tiers]
    return _union(*boughs, _box(x, y, (0, -0.84), (0.17, 0.2)))


def _crown(x: Array, y: Array) -> Array:
    outline = [(-0.8, -0.7), (0.8, -0.7), (0.9, 0.4), (0.45, -0.1), (0, 0.66), (-0.45, -0.1), (-0.9, 0.4)]
    balls = [_circle(x, y, center, 0.15) for center in ((-0.9, 0.41), (0, 0.7), (0.9, 0.41))]
    return _union(_polygon(x, y, outline), *balls)


def _mug(x: Array, y: Array) -> Array:
    handle = _without(_circle(x, y, (0.4, 0.02), 0.56), _circle(x, y, (0.4, 0.02), 0.32))
    return _union(_box(x, y, (-0.32, 0), (0.54, 0.8), corner=0.14), handle)


def _mushroom(x: Array, y: Array) -> Array:
    cap = _polygon(x, y, _round(0.98, 0.98, center=(0, -0.08), arc=(0.0, 0.5)))
    return _union(cap, _box(x, y, (0, -0.5), (0.3, 0.48), corner=0.12))


FIELDS: dict[str, Field] = {
    "circle": lambda x, y: _circle(x, y, (0, 0), 0.88),
    "oval": lambda x, y: _polygon(x, y, _round(1.02, 0.56)),
    "square": lambda x, y: _box(x, y, (0, 0), (0.78, 0.78), corner=0.03),
    "triangle": lambda x, y: _polygon(x, y, [(0, 0.98), (-0.93, -0.66), (0.93, -0.66)]),
    "diamond": lambda x, y: _polygon(x, y, [(0, 1.04), (-0.7, 0), (0, -1.04), (0.7, 0)]),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
    "arrow": _arrow,
    "hourglass": _hourglass,
    "drop": _drop,
    "flower": _flower,
    "cloud": _cloud,
    "bolt": _bolt,
    "leaf": _leaf,
    "house": _house,
    "key": _key,
    "fish": _fish,
    "tree": _tree,
    "crown": _crown,
    "mug": _mug,
    "mushroom": _mushroom,
}

# These have a left and a right side by nature and are as often seen from the other one.
MIRRORED = frozenset({"moon", "bolt", "leaf", "house", "key", "fish", "mug", "cloud"})


@lru_cache(maxsize=2 * len(FIELDS))
def _table(shape: str, cells: int) -> Array:
    line = np.linspace(-EXTENT, EXTENT, cells + 1, dtype=np.float32)
    x, y = np.meshgrid(line, -line)
    return _measure_again(FIELDS[shape](x, y), line).ravel()


def _measure_again(field: Array, line: Array) -> Array:
    """Correct distances away from the outline, which unions and cut-outs give too small.

    The outline is taken where the field changes sign between neighboring points. Within NEAR of it the field
    itself is more precise than the nearest of these points and is kept.
    """
    inside = field < 0
    rows, columns = np.nonzero(inside[:, 1:] != inside[:, :-1])
    before, after = field[rows, columns], field[rows, columns + 1]
    across = [(line[columns] + before / (before - after) * (line[1] - line[0]), -line[rows])]
    rows, columns = np.nonzero(inside[1:] != inside[:-1])
    before, after = field[rows, columns], field[rows + 1, columns]
    across.append((line[columns], -line[rows] - before / (before - after) * (line[1] - line[0])))
    nearest = np.full_like(field, np.inf)
    for xs, ys in across:
        squares_x, squares_y = (line[None, :] - xs[:, None]) ** 2, (line[None, :] + ys[:, None]) ** 2
        for square_x, square_y in zip(squares_x, squares_y, strict=True):
            np.minimum(nearest, square_x[None, :] + square_y[:, None], out=nearest)
    away = np.sqrt(nearest)
    return np.where(away < NEAR, field, np.where(inside, -away, away)).astype(np.float32)


@lru_cache(maxsize=len(FIELDS))
def stroke(shape: str) -> float:
    """Return the width of a shape's outline when it is drawn hollow, in units of its radius.

    Shapes with thin parts, such as the key, get a thinner one: almost filled they would look solid.
    """
    return min(STROKE, STROKE_OF_DEPTH * -float(_table(shape, 160).min()))


def distance(shape: str, x: Array, y: Array, *, cells: int = 160) -> Array:
    """Sample a shape's signed distance at points, bilinearly.

    Args:
        shape: a key of FIELDS.
        x: any shape, in units of the shape's radius, to the right.
        y: like x, downwards as image rows are.
        cells: resolution of the table; raise it for drawings above 256 pixels.

    Returns:
        Distances shaped like `x`, in units of the shape's radius, negative inside. Points beyond EXTENT
        get the distance of the table's border.
    """
    table, scale = _table(shape, cells), np.float32(cells / (2 * EXTENT))
    top = np.float32(cells - 1e-3)
    column = np.clip((x + np.float32(EXTENT)) * scale, 0, top)
    row = np.clip((y + np.float32(EXTENT)) * scale, 0, top)
    left, above = column.astype(np.int32), row.astype(np.int32)
    column -= left
    row -= above
    start = above * (cells + 1) + left
    upper: Array = table[start]
    lower: Array = table[start + (cells + 1)]
    # , table[start + (cells + 1)]
    upper += column * (table[start + 1] - upper)
    lower += column * (table[start + (cells + 2)] - lower)
    lower -= upper
    lower *= row
    upper += lower
    return upper
