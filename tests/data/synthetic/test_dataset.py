"""The embedded data set: determinism, splits, fields, and what a reader sees in the images."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import UnknownNameError
from diptych.data.synthetic.dataset import describe, scene_pair, scene_pairs
from diptych.data.synthetic.render import draw
from diptych.data.synthetic.vocabulary import COLORS, SHAPES, SIZES, SPLITS, UNSEEN

TRAIN_RECORDS = 12_000


@pytest.fixture(scope="module")
def train():
    return [describe(index, seed=1) for index in range(TRAIN_RECORDS)]


def test_names_and_unseen_combinations_are_spread_evenly():
    names = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    assert (len(set(SHAPES)), len(set(COLORS)), len(set(names)), len(UNSEEN)) == (24, 12, 288, 36)
    assert all(len(name.split()) == 2 for name in names)
    assert [sum(c == color for _, c in UNSEEN) for color in COLORS] == [3] * 12
    assert sorted(sum(s == shape for s, _ in UNSEEN) for shape in SHAPES) == [1] * 12 + [2] * 12


def test_unseen_combinations_stay_the_same_between_releases():
    """A checkpoint's number on the unseen split means nothing once the split moves."""
    listed = ",".join(f"{shape} {color}" for shape, color in sorted(UNSEEN))
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == "9589a9a41a60f32f"


def test_training_never_shows_an_unseen_combination_and_all_splits_together_show_288(train):
    shown = {(obj.shape, obj.color) for scene in train for obj in scene.objects}
    unseen = {(t.shape, t.color) for i in range(36) for t in describe(i, seed=1, split="unseen").objects}
    tested = {(t.shape, t.color) for i in range(252) for t in describe(i, seed=1, split="test").objects}
    assert unseen == UNSEEN and tested == shown
    assert not shown & unseen and len(shown | unseen) == 288


def test_training_scenes_have_the_stated_mixture(train):
    relations = [scene.relation for scene in train]
    assert set(relations) == {None, "count", "row", "left of", "above"}
    assert 0.76 < relations.count(None) / len(train) < 0.8
    assert {len(scene.objects) for scene in train} == {1, 2, 3}


def test_relations_hold_in_the_image(train):
    for scene in train[:4000]:
        objects = scene.objects
        if scene.relation == "left of":
            assert objects[0].x + objects[0].radius / 2 < objects[1].x - objects[1].radius / 2
        elif scene.relation == "above":
            assert objects[0].y + objects[0].radius / 2 < objects[1].y - objects[1].radius / 2
        elif scene.relation == "row":
            assert objects[0].x < objects[1].x < objects[2].x
        elif scene.relation == "count":
            assert len({(t.shape, t.color, t.size, t.fill) for t in objects}) == 1
        if scene.relation in ("left of", "above", "row"):
            assert len({t.shape for t in objects}) == len({t.color for t in objects}) == len(objects)


def test_objects_lie_inside_the_image_and_apart(train):
    for scene in train[:4000]:
        for number, obj in enumerate(scene.objects):
            assert obj.radius <= min(obj.x, obj.y) and max(obj.x, obj.y) <= 1 - obj.radius
            for other in scene.objects[:number]:
                apart = np.hypot(obj.x - other.x, obj.y - other.y)
                assert apart > 0.9 * (obj.radius + other.radius)


def test_sizes_of_single_objects_do_not_overlap(train):
    alone = [scene.objects[0] for scene in train if scene.relation is None]
    small, medium, large = ([obj.radius for obj in alone if obj.size == size] for size in SIZES)
    assert max(small) < min(medium) and max(medium) < min(large)


def test_an_image_depends_on_its_arguments_alone():
    for split in SPLITS:
        backwards = [scene_pair(index, seed=9, split=split) for index in reversed(range(6))]
        assert list(scene_pairs(6, seed=9, split=split)) == backwards[::-1]
    pairs = [scene_pair(i, seed=s, split=p) for i in (0, 1) for s in (0, 1) for p in SPLITS]
    assert len({pair.image for pair in pairs}) == 12
    assert len({pair.key for pair in pairs}) == 6
    assert not any(mark in pair.key for pair in pairs for mark in "./\\ ")  # a safe file name


def test_an_image_is_the_same_in_another_process():
    code = (
        "import hashlib, sys\n"
        "from diptych.data.synthetic.dataset import scene_pair\n"
        "pair = scene_pair(5, seed=2)\n"
        "sys.stdout.write(hashlib.sha256(pair.image).hexdigest() + repr(pair.captions))"
    )
    stated = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    pair = scene_pair(5, seed=2)
    assert stated == hashlib.sha256(pair.image).hexdigest() + repr(pair.captions)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_images_are_rgb_jpegs_of_the_asked_size_that_keep_what_was_drawn(size):
    image = Image.open(io.BytesIO(scene_pair(3, seed=0, size=size).image))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))
    assert np.abs(np.asarray(image, float) - draw(describe(3, seed=0), size)).mean() < 4


def test_the_same_scene_is_drawn_at_every_size():
    scene = describe(11, seed=4, split="test")
    large = Image.fromarray(draw(scene, 256)).resize((64, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(large, float) - draw(scene, 64)).mean() < 5


def test_fields_tell_what_the_image_shows():
    for index in range(60):
        pair, scene = scene_pair(index, seed=6), describe(index, seed=6)
        first = scene.objects[0]
        stated = {name: pair.fields[name] for name in ("shape", "color", "size", "fill")}
        assert stated == {name: getattr(first, name) for name in stated}
        assert pair.fields["objects"] == len(scene.objects)
        assert pair.fields["relation"] == scene.relation
        assert pair.fields["split"] == "train"
        alike = scene.relation in (None, "count")
        assert pair.fields["label"] == (f"{first.color} {first.shape}" if alike else None)
        assert pair.captions == scene.captions


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(UnknownNameError, match="train"):
        describe(0, seed=0, split="trian")
