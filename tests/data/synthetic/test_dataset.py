"""The embedded data set: determinism, splits, fields, and what a reader sees in the images."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import UnknownNameError
from diptych.data.synthetic import dataset as scenes
from diptych.data.synthetic.dataset import (
    COLORS,
    SHAPES,
    UNSEEN,
    class_names,
    describe,
    render,
    scene_pair,
    scene_pairs,
)

TRAIN_RECORDS = 20_000


@pytest.fixture(scope="module")
def train():
    return [describe(index, seed=1) for index in range(TRAIN_RECORDS)]


def test_names_cover_every_combination_once():
    names = class_names()
    assert len(SHAPES) == len(set(SHAPES)) == 24
    assert len(COLORS) == len(set(COLORS)) == 12
    assert len(names) == len(set(names)) == 288
    assert all(len(name.split()) == 2 for name in names)


def test_unseen_combinations_are_spread_over_shapes_and_colors():
    assert len(UNSEEN) == 36
    assert [sum(c == color for _, c in UNSEEN) for color in COLORS] == [3] * 12
    assert sorted(sum(s == shape for s, _ in UNSEEN) for shape in SHAPES) == [1] * 12 + [2] * 12


def test_unseen_combinations_stay_the_same_between_releases():
    """A checkpoint's number on the unseen split means nothing once the split moves."""
    listed = ",".join(f"{shape} {color}" for shape, color in sorted(UNSEEN))
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == "9589a9a41a60f32f"


def test_training_never_shows_an_unseen_combination(train):
    shown = {(obj.shape, obj.color) for scene in train for obj in scene.objects}
    assert not shown & UNSEEN


def test_the_splits_together_show_all_288_combinations(train):
    shown = {(obj.shape, obj.color) for scene in train for obj in scene.objects}
    unseen = {(t.shape, t.color) for i in range(36) for t in describe(i, seed=1, split="unseen").objects}
    tested = {(t.shape, t.color) for i in range(252) for t in describe(i, seed=1, split="test").objects}
    assert unseen == UNSEEN
    assert tested == shown
    assert len(shown | unseen) == 288


def test_training_scenes_have_the_stated_mixture(train):
    relations = [scene.relation for scene in train]
    shares = {name: relations.count(name) / len(train) for name in set(relations)}
    assert set(shares) == {None, "count", "row", "left of", "above"}
    assert 0.76 < shares[None] < 0.8
    numbers = {len(scene.objects) for scene in train}
    assert numbers == {1, 2, 3}


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
            assert obj.radius <= obj.x <= 1 - obj.radius
            assert obj.radius <= obj.y <= 1 - obj.radius
            for other in scene.objects[:number]:
                apart = np.hypot(obj.x - other.x, obj.y - other.y)
                assert apart > 0.9 * (obj.radius + other.radius)


def test_sizes_of_single_objects_do_not_overlap(train):
    radii = {
        size: [t.radius for s in train if s.relation is None for t in s.objects if t.size == size]
        for size in scenes.SIZES
    }
    assert max(radii["small"]) < min(radii["medium"])
    assert max(radii["medium"]) < min(radii["large"])


@pytest.mark.parametrize("split", ["train", "test", "unseen"])
def test_an_image_depends_on_its_arguments_alone(split):
    in_order = list(scene_pairs(6, seed=9, split=split))
    backwards = [scene_pair(index, seed=9, split=split) for index in reversed(range(6))]
    assert in_order == backwards[::-1]


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


def test_seeds_indices_and_splits_give_different_images():
    images = {scene_pair(i, seed=s, split=p).image for i in (0, 1) for s in (0, 1) for p in scenes.SPLITS}
    assert len(images) == 12


@pytest.mark.parametrize("size", [32, 64, 100])
def test_images_are_rgb_jpegs_of_the_asked_size(size):
    image = Image.open(io.BytesIO(scene_pair(3, seed=0, size=size).image))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))


def test_the_same_scene_is_drawn_at_every_size():
    scene = describe(11, seed=4, split="test")
    large = Image.fromarray(render(scene, 256)).resize((64, 64), Image.Resampling.BOX)
    difference = np.abs(np.asarray(large, float) - render(scene, 64))
    assert difference.mean() < 5


def test_encoding_keeps_the_image():
    pair = scene_pair(2, seed=3)
    decoded = np.asarray(Image.open(io.BytesIO(pair.image)), float)
    assert np.abs(decoded - render(describe(2, seed=3))).mean() < 4


def test_fields_tell_what_the_image_shows():
    for index in range(60):
        pair, scene = scene_pair(index, seed=6), describe(index, seed=6)
        first = scene.objects[0]
        assert (pair.fields["shape"], pair.fields["color"]) == (first.shape, first.color)
        assert (pair.fields["size"], pair.fields["fill"]) == (first.size, first.fill)
        assert pair.fields["objects"] == len(scene.objects)
        assert pair.fields["relation"] == scene.relation
        assert pair.fields["split"] == "train"
        assert pair.fields["label"] in (class_names() if scene.relation in (None, "count") else [None])
        assert pair.captions == scene.captions


def test_keys_are_unique_and_safe_as_file_names():
    keys = [pair.key for split in scenes.SPLITS for pair in scene_pairs(3, seed=0, split=split)]
    assert len(set(keys)) == 9
    assert not any(mark in key for key in keys for mark in "./\\ ")


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(UnknownNameError, match="train"):
        describe(0, seed=0, split="trian")


def test_a_contact_sheet_lays_images_out():
    sheet = scenes.contact_sheet(columns=3, rows=2, size=32, gap=4)
    assert sheet.size == (3 * 36 + 4, 2 * 36 + 4)
    first = np.asarray(sheet)[4:36, 4:36]
    assert np.array_equal(first, render(describe(0, seed=0), 32))


def test_scenes_do_not_import_torch():
    code = "import diptych.data.synthetic.dataset, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
