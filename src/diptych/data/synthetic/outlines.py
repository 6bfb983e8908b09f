"""The outlines of the drawn shapes as signed distance fields, tabulated once and sampled at any pose.

A field maps points of the plane (x to the right, y up, the shape inside about the unit circle) to the signed
distance to its outline: negative inside. Sampling a table costs the same for a circle and for a key.

Source: the distances of circle, box, segment and polygon follow Inigo Quilez, "2D distance functions".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, reduce

import numpy as np
from numpy.typing import NDArray

NEAR = 0.05  # in units of the radius
STROKE, STROKE_OF_DEPTH = 0.2, 0.62  # a stroke of 0.2 is two pixels wide on the smallest 64-pixel object

Array = NDArray[np.float32]
Field = Callable[[Array, Array], Array]
Point = tuple[float, float]

REACH = 1.16  # no shape reaches further from its center
EXTENT = 1.4  # tables cover [-EXTENT, EXTENT]^2: the shape and the room its shadow needs


def circle(center: Point, radius: float) -> Field:
    """Return the field of a circle."""
    return lambda x, y: np.hypot(x - np.float32(center[0]), y - np.float32(center[1])) - np.float32(radius)


def box(center: Point, half: Point, *, corner: float = 0.0) -> Field:
    """Return the field of a rectangle of half sides `half`, its corners rounded by `corner`."""

    def field(x: Array, y: Array) -> Array:
        across = np.abs(x - np.float32(center[0])) - np.float32(half[0] - corner)
        along = np.abs(y - np.float32(center[1])) - np.float32(half[1] - corner)
        outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
        distances: Array = outside + np.minimum(np.maximum(across, along), 0) - np.float32(corner)
        return distances

    return field


def polygon(*points: Point) -> Field:
    """Return the field of a closed polygon; the sign flips at every edge crossed by a ray to the right."""

    def field(x: Array, y: Array) -> Array:
        nearest = np.full(x.shape, np.inf, np.float32)
        inside = np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
            ex, ey = bx - ax, by - ay
            wx, wy = x - np.float32(ax), y - np.float32(ay)
            t = np.clip((wx * np.float32(ex) + wy * np.float32(ey)) / np.float32(ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (wx - t * np.float32(ex)) ** 2 + (wy - t * np.float32(ey)) ** 2)
            if ay != by:
                inside ^= ((y >= ay) != (y >= by)) & (wx < wy * np.float32(ex / ey))
        return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)

    return field


def union(*shapes: Field) -> Field:
    """Return the field of what any of some shapes covers."""
    return lambda x, y: reduce(np.minimum, [shape(x, y) for shape in shapes])


def overlap(*shapes: Field) -> Field:
    """Return the field of what all of some shapes cover."""
    return lambda x, y: reduce(np.maximum, [shape(x, y) for shape in shapes])


def without(shape: Field, hole: Field) -> Field:
    """Return the field of a shape with a hole."""
    return lambda x, y: np.maximum(shape(x, y), -hole(x, y))


def diagonal(shape: Field) -> Field:
    """Return the field of a shape turned by 45 degrees: its x axis points up and to the right."""
    root = np.float32(math.sqrt(0.5))
    return lambda x, y: shape((x + y) * root, (y - x) * root)


def ellipse(radii: Point, *, center: Point = (0.0, 0.0), turns: float = 1.0) -> list[Point]:
    """Return points of an ellipse, or of a part of it from the right on, counterclockwise."""
    angles = np.linspace(0.0, turns, 49)[: 48 if turns == 1 else 49] * (2 * math.pi)
    return [(center[0] + radii[0] * math.cos(t), center[1] + radii[1] * math.sin(t)) for t in angles.tolist()]


def _around(radius: float, step: int, steps: int) -> Point:
    """Return one of `steps` points on a circle, the first at its top."""
    turn = math.pi * (0.5 + step / (steps / 2))
    return radius * math.cos(turn), radius * math.sin(turn)


def _heart_point(t: float) -> Point:
    height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return math.sin(t) ** 3 * 0.98, (height + 2.5) / 16.3


def _drop(radius: float, low: float, tip: float) -> Field:
    sine = radius / (tip - low)
    x, y = radius * math.sqrt(1 - sine * sine), low + radius * sine  # where the flanks touch the circle
    return union(circle((0, low), radius), polygon((0, tip), (-x, y), (0, low), (x, y)))


_GLASS = polygon((-0.54, 0.86), (0.54, 0.86), (0.1, 0), (0.54, -0.86), (-0.54, -0.86), (-0.1, 0))
_BLADE = overlap(circle((0.1, 0.62), 1.14), circle((0.1, -0.62), 1.14))
_CROWN = polygon((-0.8, -0.7), (0.8, -0.7), (0.9, 0.4), (0.45, -0.1), (0, 0.66), (-0.45, -0.1), (-0.9, 0.4))

FIELDS: dict[str, Field] = {
    "circle": circle((0, 0), 0.88),
    "oval": polygon(*ellipse((1.02, 0.56))),
    "square": box((0, 0), (0.78, 0.78), corner=0.03),
    "triangle": polygon((0, 0.98), (-0.93, -0.66), (0.93, -0.66)),
    "diamond": polygon((0, 1.04), (-0.7, 0), (0, -1.04), (0.7, 0)),
    "star": polygon(*(_around((1.06, 0.45)[step % 2], step, 10) for step in range(10))),
    "heart": polygon(*(_heart_point(2 * math.pi * step / 56) for step in range(56))),
    "cross": union(box((0, 0), (0.92, 0.3)), box((0, 0), (0.3, 0.92))),
    "ring": without(circle((0, 0), 0.92), circle((0, 0), 0.42)),
    "moon": without(circle((-0.08, 0), 0.95), circle((0.42, 0.12), 0.76)),
    "arrow": polygon(
        (-1.0, 0.26), (0.08, 0.26), (0.08, 0.74), (1.02, 0.0), (0.08, -0.74), (0.08, -0.26), (-1.0, -0.26)
    ),
    "hourglass": union(_GLASS, box((0, 0.8), (0.66, 0.13)), box((0, -0.8), (0.66, 0.13))),
    "drop": _drop(0.64, -0.36, 1.05),
    "flower": without(
        union(circle((0, 0), 0.5), *(circle(_around(0.62, step, 6), 0.36) for step in range(6))),
        circle((0, 0), 0.16),
    ),
    "cloud": union(
        box((0.04, -0.32), (0.94, 0.2), corner=0.19),
        circle((-0.6, -0.14), 0.38),
        circle((-0.2, 0.22), 0.46),
        circle((0.34, 0.1), 0.44),
        circle((0.68, -0.2), 0.32),
    ),
    "bolt": polygon(
        (0.1, 1.04), (-0.7, -0.16), (-0.14, -0.16), (-0.36, -1.06), (0.74, 0.3), (0.18, 0.3), (0.56, 1.0)
    ),
    "leaf": diagonal(union(without(_BLADE, box((-0.1, 0), (0.62, 0.05))), box((-0.9, 0), (0.22, 0.08)))),
    "house": without(
        union(
            polygon((-1.0, 0.06), (1.0, 0.06), (0, 0.98)),
            box((0.52, 0.6), (0.14, 0.36)),  # chimney
            box((0, -0.4), (0.72, 0.52)),
        ),
        box((0, -0.66), (0.2, 0.36)),
    ),
    "key": union(
        without(circle((-0.54, 0.08), 0.54), circle((-0.6, 0.08), 0.19)),
        box((0.4, 0.1), (0.63, 0.19)),
        box((0.9, -0.2), (0.14, 0.36)),
        box((0.46, -0.16), (0.13, 0.28)),
    ),
    "fish": without(
        union(
            polygon(*ellipse((0.74, 0.5), center=(-0.26, 0))),
            polygon((0.3, 0), (1.0, 0.58), (0.84, 0), (1.0, -0.58)),  # tail
            polygon((-0.42, 0.42), (0.14, 0.74), (0.14, 0.36)),  # fin
        ),
        circle((-0.62, 0.12), 0.11),
    ),
    "tree": union(
        polygon((-0.46, 0.38), (0.46, 0.38), (0, 1.06)),
        polygon((-0.66, -0.14), (0.66, -0.14), (0, 0.66)),
        polygon((-0.86, -0.7), (0.86, -0.7), (0, 0.2)),
        box((0, -0.84), (0.17, 0.2)),
    ),
    "crown": union(_CROWN, *(circle(ball, 0.15) for ball in ((-0.9, 0.41), (0, 0.7), (0.9, 0.41)))),
    "mug": union(
        box((-0.32, 0), (0.54, 0.8), corner=0.14),
        without(circle((0.4, 0.02), 0.56), circle((0.4, 0.02), 0.32)),
    ),
    "mushroom": union(
        polygon(*ellipse((0.98, 0.98), center=(0, -0.08), turns=0.5)),
        box((0, -0.5), (0.3, 0.48), corner=0.12),
    ),
}

# These have a left and a right side by nature and are as often seen from the other one.
MIRRORED = frozenset({"moon", "bolt", "leaf", "house", "key", "fish", "mug", "cloud"})


@lru_cache(maxsize=2 * len(FIELDS))
def _table(shape: str, cells: int) -> Array:
    """Tabulate a field, measuring anew what is away from the outline: unions and holes give it too small.

    The outline is taken where the field changes sign between neighboring points. Within NEAR of it the field
    itself is more precise than the nearest of these points and is kept.
    """
    line = np.linspace(-EXTENT, EXTENT, cells + 1, dtype=np.float32)
    x, y = np.meshgrid(line, -line)
    field = FIELDS[shape](x, y)
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
    return np.where(away < NEAR, field, np.where(inside, -away, away)).astype(np.float32).ravel()


@lru_cache(maxsize=len(FIELDS))
def stroke(shape: str) -> float:
    """Return the width of a shape's outline when it is drawn hollow, in units of its radius.

    Shapes with thin parts, such as the key, get a thinner one: almost filled they would look solid.
    """
    return min(STROKE, STROKE_OF_DEPTH * -float(_table(shape, 160).min()))


def distance(shape: str, x: Array, y: Array, *, cells: int = 160) -> Array:
    """Sample a shape's signed distance at points, bilinearly, all in units of the shape's radius.

    Args:
        shape: a key of FIELDS.
        x: to the right.
        y: like x, downwards as image rows are; points beyond EXTENT get the distance of the table's border.
        cells: resolution of the table; raise it for drawings above 256 pixels.
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
    upper += column * (table[start + 1] - upper)
    lower += column * (table[start + (cells + 2)] - lower)
    lower -= upper
    lower *= row
    upper += lower
    return upper
