"""Drawing: every object keeps its colour and stands out from what lies behind it."""

import itertools
import math

import numpy as np
import pytest

from diptych.data.synthetic.canvas import BACKDROPS, KINDS, backdrops, draw, oklab
from diptych.data.synthetic.vocabulary import COLOURS, FILLS, PALETTE, SHAPES, Background, Scene, Thing

SMALLEST = 0.205  # radius of a small lone object


def thing(shape, colour, fill="solid", radius=SMALLEST, angle=0.0):
    return Thing(shape, colour, "small", fill, 0.5, 0.5, radius, angle, False, PALETTE[colour])


def background(kind="plain", backdrop=0):
    return Background(kind, BACKDROPS[backdrop], (0.3, 0.6, 0.2))


def scene_of(*things, kind="plain", backdrop=0):
    return Scene(tuple(things), background(kind, backdrop), None, ("",))


def changed(scene, size=64):
    """Pixels that the objects and their shadows touch."""
    empty = Scene((), scene.background, None, ("",))
    return np.abs(draw(scene, size).astype(int) - draw(empty, size)).max(axis=2) > 6


def nearest_colour(rgb):
    return min(COLOURS, key=lambda name: math.dist(oklab(tuple(rgb)), oklab(PALETTE[name])))


@pytest.mark.parametrize("colour", COLOURS)
def test_a_solid_object_has_its_palette_colour(colour):
    for backdrop in backdrops(colour):
        pixels = draw(scene_of(thing("circle", colour), backdrop=backdrop), 64)
        middle = pixels[28:36, 28:36].reshape(-1, 3).mean(axis=0)
        assert np.abs(middle - PALETTE[colour]).max() < 12
        assert nearest_colour(middle) == colour


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_fill_shows_enough_of_the_colour_at_the_smallest_size(shape, fill):
    colour = "purple"
    pixels = draw(scene_of(thing(shape, colour, fill), backdrop=2), 64).reshape(-1, 3)
    own = (np.abs(pixels.astype(int) - PALETTE[colour]).max(axis=1) < 45).sum()
    assert own >= 60  # of about 400: the pixels of a thin outline


def test_colours_are_far_apart():
    for first, second in itertools.combinations(COLOURS, 2):
        assert math.dist(oklab(PALETTE[first]), oklab(PALETTE[second])) > 0.13


def test_oklab_matches_the_published_examples():
    """Red, green and blue of sRGB as listed by CSS Color 4's sample conversions."""
    assert oklab((255, 0, 0)) == pytest.approx((0.62796, 0.22486, 0.12585), abs=1e-4)
    assert oklab((0, 255, 0)) == pytest.approx((0.86644, -0.23389, 0.17950), abs=1e-4)
    assert oklab((0, 0, 255)) == pytest.approx((0.45201, -0.03246, -0.31153), abs=1e-4)


def test_every_colour_has_many_backdrops():
    assert min(len(backdrops(colour)) for colour in COLOURS) >= 8


def test_any_two_colours_that_meet_leave_room_for_a_third():
    """Scenes of three draw colours until all share a backdrop; a pair without a third would never end."""
    for first, second in itertools.combinations(COLOURS, 2):
        shared = backdrops(first) & backdrops(second)
        third = [c for c in COLOURS if c not in (first, second) and shared & backdrops(c)]
        assert not shared or len(third) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_backgrounds_stay_between_their_tones(kind):
    for backdrop, tones in enumerate(BACKDROPS):
        pixels = draw(scene_of(kind=kind, backdrop=backdrop), 64).reshape(-1, 3).astype(float)
        low, high = np.min(tones, axis=0), np.max(tones, axis=0)
        assert (pixels.mean(axis=0) > low - 2).all()
        assert (pixels.mean(axis=0) < high + 2).all()


def test_backgrounds_differ_by_kind():
    pictures = {draw(scene_of(kind=kind), 64).tobytes() for kind in KINDS}
    assert len(pictures) == len(KINDS)


def test_an_outlined_circle_is_no_ring():
    """Inside an outline lies a veil of the colour; a ring's hole shows the background."""
    outlined = draw(scene_of(thing("circle", "blue", "outline")), 64)[32, 32].astype(int)
    ring = draw(scene_of(thing("ring", "blue")), 64)[32, 32].astype(int)
    empty = draw(scene_of(), 64)[32, 32].astype(int)
    assert np.abs(ring - empty).max() < 40
    assert np.abs(outlined - empty).max() > 40


def test_fills_look_different():
    for shape in SHAPES:
        pictures = [draw(scene_of(thing(shape, "red", fill, radius=0.35)), 64).astype(int) for fill in FILLS]
        for first, second in itertools.combinations(pictures, 2):
            assert (np.abs(first - second).max(axis=2) > 60).sum() >= 20


def test_an_object_at_the_border_is_cut_off_without_harm():
    near = Thing("star", "red", "large", "striped", 0.02, 0.98, 0.38, 0.1, False, PALETTE["red"])
    touched = changed(scene_of(near))
    assert touched[-1, 0]
    assert not touched[0].any()
