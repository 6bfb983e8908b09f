"""Outlines as distance fields: extents, signs, and distances against closed forms and brute force."""

import itertools
import math

import numpy as np
import pytest

from diptych.data.synthetic.outlines import FIELDS, MIRRORED, REACH, distance
from diptych.data.synthetic.vocabulary import SHAPES

LINE = np.linspace(-1.3, 1.3, 91, dtype=np.float32)
X, Y = np.meshgrid(LINE, LINE)  # y downwards


def test_there_is_a_field_for_every_shape():
    assert tuple(FIELDS) == SHAPES
    assert set(SHAPES) >= MIRRORED


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fills_its_circle_and_distances_change_no_faster_than_the_way(shape):
    """One per unit of way; only at tips, which the table blunts, a little more."""
    field = distance(shape, X, Y)
    assert 0.85 < np.hypot(X, Y)[field < 0].max() <= REACH
    assert 0.12 < (field < 0).mean() < 0.45
    slopes = np.abs(np.diff(field, axis=0)) / (LINE[1] - LINE[0])
    assert slopes.max() < 1.75
    assert (slopes > 1.1).mean() < 0.01


def test_circle_and_ring_match_their_closed_forms():
    assert distance("circle", X, Y) == pytest.approx(np.hypot(X, Y) - 0.88, abs=0.008)
    ring = np.maximum(np.hypot(X, Y) - 0.92, 0.42 - np.hypot(X, Y))
    assert distance("ring", X, Y) == pytest.approx(ring, abs=0.008)


def test_depth_inside_a_union_is_the_distance_to_the_true_outline():
    """The minimum of puffs made an outlined cloud look like four rings: seams counted as outline."""
    fine = np.linspace(-1.3, 1.3, 401)
    x, y = np.meshgrid(fine, fine)
    inside = FIELDS["cloud"](x.astype(np.float32), -y.astype(np.float32)) < 0
    outside = np.stack([x[~inside], y[~inside]])
    for px, py in ((0.0, 0.0), (0.2, -0.1), (-0.5, 0.1), (0.5, 0.2)):
        brute = math.sqrt(((outside - [[px], [py]]) ** 2).sum(axis=0).min())
        actual = distance("cloud", np.array([px], np.float32), np.array([py], np.float32))[0]
        assert -actual == pytest.approx(brute, abs=0.012)


def test_shapes_differ_from_each_other_in_many_points():
    masks = {shape: distance(shape, X, Y) < 0 for shape in SHAPES}
    for first, second in itertools.combinations(SHAPES, 2):
        union = (masks[first] | masks[second]).sum()
        assert (masks[first] ^ masks[second]).sum() / union > 0.16, (first, second)
