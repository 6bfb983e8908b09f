"""Draw a scene: a background of two tones, then each object with a soft shadow, anti-aliased, in float32.

Everything is computed from the scene's numbers and the image's side, so any size shows the same image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.data.synthetic.outlines import REACH, Array, distance, stroke
from diptych.data.synthetic.vocabulary import COLORS, PALETTE, Background, Rgb, Scene, SceneObject

# Pairs of tones that look well together. Which of them an object may stand on, `backdrops` decides.
BACKDROPS: tuple[tuple[Rgb, Rgb], ...] = (
    ((248, 241, 226), (232, 218, 192)),  # cream
    ((240, 241, 238), (220, 222, 220)),  # paper
    ((222, 234, 242), (188, 210, 228)),  # mist
    ((226, 236, 218), (198, 216, 192)),  # sage
    ((248, 226, 216), (238, 204, 192)),  # blush
    ((232, 226, 242), (208, 200, 228)),  # lavender
    ((222, 204, 170), (200, 178, 140)),  # sand
    ((176, 204, 226), (128, 170, 206)),  # sky
    ((152, 160, 128), (122, 134, 104)),  # moss
    ((196, 150, 132), (170, 120, 108)),  # clay
    ((92, 104, 122), (66, 78, 96)),  # slate
    ((44, 50, 84), (84, 58, 98)),  # dusk
    ((28, 38, 62), (44, 60, 92)),  # night
    ((34, 60, 58), (24, 42, 46)),  # forest
    ((66, 40, 58), (44, 28, 46)),  # plum
    ((62, 58, 56), (44, 42, 42)),  # charcoal
)

# Least distance in OKLab between an object's color and any mixture of the two tones behind it: brown leaves
# the dark backdrops, white the pale ones, and every color keeps at least eight.
LEAST_CONTRAST = 0.19

VEIL = 0.32  # opacity inside an outline: tells an outlined circle from a ring
RIM = 0.11  # of the radius: patterns stop here, so the outline stays in the object's color
STRIPE_PERIOD, STRIPE_SHARE = 0.52, 0.4
LEAST_RIM_PIXELS = 1.5
DOT_PERIOD, DOT_RADIUS = 0.54, 0.155
GRAIN, PAPER_GRAIN = 1.2, 4.0  # deviation of the noise on backgrounds, of 255
TABLE_SIDE = 256  # up to this image size the ordinary distance tables are fine enough

# What stripes and dots are painted with: the object's color, mostly whitened, but not for these three.
_TINTS: dict[str, Rgb] = {"white": (206, 202, 198), "grey": (214, 215, 220), "black": (104, 104, 112)}
_WHITENING = 0.7


class _Grid(NamedTuple):
    """Coordinates and textures of an image of one size, each (H, W) or broadcastable to it."""

    x: Array  # 0 left .. 1 right, (1, W)
    y: Array  # 0 top .. 1 bottom, (H, 1)
    grain: Array  # fine noise, mean 0, deviation 1
    marble: Array  # smooth noise in 0..1 that tiles without a seam


@lru_cache(maxsize=4)
def _grid(size: int) -> _Grid:
    line = ((np.arange(size) + 0.5) / size).astype(np.float32)
    random = np.random.Generator(np.random.Philox(20210226))
    grain = random.standard_normal((size, size), np.float32)
    x, y = line[None, :], line[:, None]
    marble = np.zeros((size, size), np.float32)
    for _ in range(24):
        across, down = random.integers(-3, 4, 2).tolist()
        weight, turn = 1 / (1 + math.hypot(across, down)), random.random()
        waves = np.sin(np.float32(2 * math.pi) * (across * x + down * y + np.float32(turn)))
        marble += np.float32(weight) * waves
    marble -= marble.min()
    return _Grid(x, y, grain, marble / marble.max())


def oklab(rgb: Rgb) -> tuple[float, float, float]:
    """Convert an sRGB color to OKLab, where distances follow the eye.

    Source: Ottosson 2020, "A perceptual color space for image processing".

    >>> [round(value, 3) for value in oklab((255, 255, 255))]
    [1.0, 0.0, 0.0]
    """
    r, g, b = ((c / 255 + 0.055) ** 2.4 / 1.055**2.4 if c > 10 else c / 255 / 12.92 for c in rgb)
    long = math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    middle = math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    short = math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


@lru_cache(maxsize=len(COLORS))
def backdrops(color: str) -> frozenset[int]:
    """Return the positions in BACKDROPS of the tone pairs that keep an object of `color` well visible."""
    return frozenset(
        index
        for index, (light, dark) in enumerate(BACKDROPS)
        if min(math.dist(oklab(PALETTE[color]), oklab(_mix(light, dark, step / 8))) for step in range(9))
        >= LEAST_CONTRAST
    )


def _mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    r, g, b = (round(p + share * (q - p)) for p, q in zip(first, second, strict=True))
    return (r, g, b)


def draw(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Draw a scene as (size, size, 3) uint8, RGB."""
    canvas = _background(scene.background, size)
    for obj in scene.objects:
        _draw_object(canvas, obj)
    canvas += np.float32(0.5)
    np.clip(canvas, 0, 255, out=canvas)
    return canvas.astype(np.uint8)


def _background(background: Background, size: int) -> Array:
    """Mix the two tones by a share per pixel, and add a breath of grain."""
    grid = _grid(size)
    first, second = (np.array(tone, np.float32) for tone in background.tones)
    share = np.clip(_SHARES[background.kind](grid, *background.phase), 0, 1)
    canvas = np.empty((size, size, 3), np.float32)
    np.multiply(share[..., None], second - first, out=canvas)
    canvas += first
    canvas += (np.float32(PAPER_GRAIN if background.kind == "paper" else GRAIN) * grid.grain)[..., None]
    return canvas


def _checker(grid: _Grid, p: float, q: float, r: float) -> Array:
    cells = 4 + int(4 * r)
    waves = np.sin(math.pi * cells * (grid.x + p)) * np.sin(math.pi * cells * (grid.y + q))
    share: Array = 0.5 + waves * (grid.x.size / cells)
    return share


def _horizon(grid: _Grid, p: float, q: float, r: float) -> Array:
    hills = 0.55 + 0.25 * p + 0.05 * np.sin(2 * math.pi * (grid.x * (1 + q) + r))
    share: Array = (grid.y - hills) * grid.x.size + 0.5
    return share


def _turned(grid: _Grid, turn: float) -> Array:
    """Coordinates about the center in a direction, 0 to 1 for a whole turn."""
    return math.cos(2 * math.pi * turn) * (grid.x - 0.5) + math.sin(2 * math.pi * turn) * (grid.y - 0.5)


# How much of the second tone each pixel takes, from 0 or less to 1 or more, broadcastable to (H, W).
_SHARES: dict[str, Callable[[_Grid, float, float, float], Array]] = {
    "plain": lambda grid, p, _q, _r: 0.15 + 0.3 * (grid.x - p) ** 2,
    "gradient": lambda grid, p, _q, _r: 0.5 + _turned(grid, p),
    "glow": lambda grid, p, q, _r: np.hypot(grid.x - (0.2 + 0.6 * p), grid.y - (0.1 + 0.5 * q)) * 1.3,
    "dusk": lambda grid, _p, _q, _r: grid.y * grid.y * (3 - 2 * grid.y),
    "checker": _checker,
    "paper": lambda grid, p, _q, _r: 0.15 + 0.3 * (grid.x - p) ** 2,
    "marble": lambda grid, p, q, _r: np.roll(
        grid.marble, (int(p * grid.x.size), int(q * grid.x.size)), (0, 1)
    ),
    "horizon": _horizon,
}
KINDS: tuple[str, ...] = tuple(_SHARES)


def _draw_object(canvas: Array, obj: SceneObject) -> None:
    """Paint one object and its shadow over the canvas, touching only the square that holds them."""
    size = canvas.shape[0]
    radius, center_x, center_y = obj.radius * size, obj.x * size, obj.y * size
    reach = radius * REACH + 0.07 * size
    left, right = max(0, int(center_x - reach)), min(size, int(center_x + reach) + 1)
    top, bottom = max(0, int(center_y - reach)), min(size, int(center_y + reach) + 1)
    x = ((np.arange(left, right) + (0.5 - center_x)) / radius).astype(np.float32)[None, :]
    y = ((np.arange(top, bottom) + (0.5 - center_y)) / radius).astype(np.float32)[:, None]
    cosine, sine = np.float32(math.cos(obj.angle)), np.float32(math.sin(obj.angle))
    u, v = x * cosine - y * sine, x * sine + y * cosine
    if obj.mirrored:
        u = -u
    depth = band = distance(obj.shape, u, v, cells=160 * -(-size // TABLE_SIDE))
    if obj.fill == "outline":
        half = np.float32(stroke(obj.shape) / 2)
        band = np.abs(depth + half) - half
    region = canvas[top:bottom, left:right]
    _cast_shadow(region, band * np.float32(radius), size)
    paint = _paint(obj, u, v, depth, radius)
    cover = np.clip(np.float32(0.5) - band * np.float32(radius), 0, 1)
    if obj.fill == "outline":
        cover = np.maximum(cover, np.float32(VEIL) * (depth < 0))
    region += cover[..., None] * (paint - region)


def _cast_shadow(region: Array, depth: Array, size: int) -> None:
    """Darken what lies below and to the right of a shape; `depth` is its distance in pixels."""
    down, across = max(1, round(0.028 * size)), max(1, round(0.018 * size))
    softness = np.float32(1 / (0.07 * size))
    shadow = np.clip(np.float32(0.5) - depth[:-down, :-across] * softness, 0, 1)
    shadow *= shadow
    region[down:, across:] *= (1 - np.float32(0.42) * shadow)[..., None]


def _paint(obj: SceneObject, u: Array, v: Array, depth: Array, radius: float) -> Array:
    """The color of each pixel of an object: its fill, lit softly from above. (h, w, 3) float32."""
    color = np.array(obj.rgb, np.float32)
    light: Array = np.float32(1.0) - np.float32(0.09) * v
    if obj.fill not in ("striped", "dotted"):
        return light[..., None] * color
    if obj.fill == "striped":
        wave = (np.float32(0.8) * u + np.float32(0.6) * v) * np.float32(1 / STRIPE_PERIOD)
        away = np.abs(wave - np.round(wave)) * np.float32(STRIPE_PERIOD)
        away = away - np.float32(STRIPE_PERIOD * STRIPE_SHARE / 2)
    else:
        row = np.round(v * np.float32(1 / DOT_PERIOD))
        column = u * np.float32(1 / DOT_PERIOD) + np.float32(0.5) * (row % 2)
        away = np.hypot(column - np.round(column), v * np.float32(1 / DOT_PERIOD) - row)
        away = away * np.float32(DOT_PERIOD) - np.float32(DOT_RADIUS)
    rim = max(RIM, LEAST_RIM_PIXELS / radius)
    pattern = np.clip(np.float32(0.5) - np.maximum(away, depth + np.float32(rim)) * np.float32(radius), 0, 1)
    tint = np.array(_TINTS.get(obj.color) or _mix(obj.rgb, (255, 255, 255), _WHITENING), np.float32)
    paint: Array = light[..., None] * (color + pattern[..., None] * (tint - color))
    return paint
