"""Drawing: every object keeps its color and stands out from what lies behind it."""

import itertools
import math

import numpy as np
import pytest

from diptych.data.synthetic.render import BACKDROPS, KINDS, backdrops, draw, oklab
from diptych.data.synthetic.vocabulary import COLORS, FILLS, PALETTE, SHAPES, Background, Scene, SceneObject

SMALLEST = 0.205  # radius of a small lone object


def obj(shape, color, fill="solid", radius=SMALLEST):
    return SceneObject(shape, color, "small", fill, 0.5, 0.5, radius, 0.0, False, PALETTE[color])


def drawn(*objects, kind="plain", backdrop=0):
    background = Background(kind, BACKDROPS[backdrop], (0.3, 0.6, 0.2))
    return draw(Scene(tuple(objects), background, None, ("",)), 64)


def nearest_color(rgb):
    return min(COLORS, key=lambda name: math.dist(oklab(tuple(rgb)), oklab(PALETTE[name])))


@pytest.mark.parametrize("color", COLORS)
def test_a_solid_object_has_its_palette_color(color):
    for backdrop in backdrops(color):
        pixels = drawn(obj("circle", color), backdrop=backdrop)
        middle = pixels[28:36, 28:36].reshape(-1, 3).mean(axis=0)
        assert np.abs(middle - PALETTE[color]).max() < 12
        assert nearest_color(middle) == color


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_fill_shows_enough_of_the_color_at_the_smallest_size(shape, fill):
    pixels = drawn(obj(shape, "purple", fill), backdrop=2).reshape(-1, 3)
    own = (np.abs(pixels.astype(int) - PALETTE["purple"]).max(axis=1) < 45).sum()
    assert own >= 60  # of about 400: the pixels of a thin outline


def test_colors_are_far_apart():
    for first, second in itertools.combinations(COLORS, 2):
        assert math.dist(oklab(PALETTE[first]), oklab(PALETTE[second])) > 0.13


def test_oklab_matches_the_published_examples():
    """Red, green and blue of sRGB as listed by CSS Color 4's sample conversions."""
    assert oklab((255, 0, 0)) == pytest.approx((0.62796, 0.22486, 0.12585), abs=1e-4)
    assert oklab((0, 255, 0)) == pytest.approx((0.86644, -0.23389, 0.17950), abs=1e-4)
    assert oklab((0, 0, 255)) == pytest.approx((0.45201, -0.03246, -0.31153), abs=1e-4)


def test_every_color_has_many_backdrops_and_two_that_meet_leave_room_for_a_third():
    """Scenes of three draw colors until all share a backdrop; a pair without a third would never end."""
    assert min(len(backdrops(color)) for color in COLORS) >= 8
    for first, second in itertools.combinations(COLORS, 2):
        shared = backdrops(first) & backdrops(second)
        third = [c for c in COLORS if c not in (first, second) and shared & backdrops(c)]
        assert not shared or len(third) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_backgrounds_stay_between_their_tones(kind):
    for backdrop, tones in enumerate(BACKDROPS):
        pixels = drawn(kind=kind, backdrop=backdrop).reshape(-1, 3).astype(float)
        low, high = np.min(tones, axis=0), np.max(tones, axis=0)
        assert (pixels.mean(axis=0) > low - 2).all()
        assert (pixels.mean(axis=0) < high + 2).all()


def test_backgrounds_differ_by_kind():
    assert len({drawn(kind=kind).tobytes() for kind in KINDS}) == len(KINDS)


def test_an_outlined_circle_is_no_ring():
    """Inside an outline lies a veil of the color; a ring's hole shows the background."""
    shown = (drawn(obj("circle", "blue", "outline")), drawn(obj("ring", "blue")), drawn())
    outlined, ring, empty = (pixels[32, 32].astype(int) for pixels in shown)
    assert np.abs(ring - empty).max() < 40
    assert np.abs(outlined - empty).max() > 40


def test_fills_look_different():
    for shape in SHAPES:
        images = [drawn(obj(shape, "red", fill, radius=0.35)).astype(int) for fill in FILLS]
        for first, second in itertools.combinations(images, 2):
            assert (np.abs(first - second).max(axis=2) > 60).sum() >= 20


def test_an_object_at_the_border_is_cut_off_without_harm():
    near = SceneObject("star", "red", "large", "striped", 0.02, 0.98, 0.38, 0.1, False, PALETTE["red"])
    touched = np.abs(drawn(near).astype(int) - drawn()).max(axis=2) > 6
    assert touched[-1, 0]
    assert not touched[0].any()
