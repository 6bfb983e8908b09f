"""Captions say what the image shows, mostly, and in many ways."""

import itertools
import re

import pytest

from diptych.data.synthetic.captions import COLOR_WORDS, SHAPE_WORDS
from diptych.data.synthetic.dataset import describe
from diptych.data.synthetic.vocabulary import COLORS, SHAPES


def says(caption, name, words):
    """Whether a caption holds the name or a synonym, possibly in the plural."""
    stems = [word[:-1] if word in ("leaf", "daisy") else word for word in (name, *words[name])]
    return any(re.search(rf"\b{stem}", caption.lower()) for stem in stems)


def describes(caption, obj):
    return says(caption, obj.shape, SHAPE_WORDS) and says(caption, obj.color, COLOR_WORDS)


@pytest.fixture(scope="module")
def train():
    return [describe(index, seed=3) for index in range(4000)]


@pytest.mark.parametrize(("words", "names"), [(SHAPE_WORDS, SHAPES), (COLOR_WORDS, COLORS)])
def test_every_name_has_words_that_serve_no_other(words, names):
    assert tuple(words) == names
    for first, second in itertools.permutations(words, 2):
        assert not {first, *words[first]} & {second, *words[second]}
        assert not any(re.search(rf"\b{first}\b", word) for word in words[second])


@pytest.mark.parametrize("split", ["test", "unseen"])
def test_evaluation_captions_always_name_shape_and_color(split):
    for index in range(1000):
        scene = describe(index, seed=1, split=split)
        assert all(describes(caption, scene.objects[0]) for caption in scene.captions), scene.captions


def test_training_captions_mostly_name_every_object_and_some_say_little(train):
    for number in (1, 2, 3):
        stated = [
            all(describes(caption, obj) for obj in scene.objects)
            for scene in train
            if len(scene.objects) == number
            for caption in scene.captions
        ]
        assert 0.88 < sum(stated) / len(stated) < 0.99
    silent = [
        not any(
            says(caption, t.shape, SHAPE_WORDS) or says(caption, t.color, COLOR_WORDS) for t in scene.objects
        )
        for scene in train
        for caption in scene.captions
    ]
    assert 0.01 < sum(silent) / len(silent) < 0.05


def test_a_caption_names_no_foreign_color(train):
    of_synonyms = {"green", "blue", "pink", "white", "black"}  # parts of "snow white" and its like
    for scene in train:
        allowed = {obj.color for obj in scene.objects} | of_synonyms
        for caption in scene.captions:
            assert {c for c in COLORS if re.search(rf"\b{c}\b", caption.lower())} <= allowed


def test_one_to_three_different_captions_vary_in_wording_and_case(train):
    assert {len(scene.captions) for scene in train} == {1, 2, 3}
    assert all(len(set(scene.captions)) == len(scene.captions) for scene in train)
    texts = [caption for scene in train for caption in scene.captions]
    assert all(caption.strip() == caption and caption for caption in texts)
    assert len(set(texts)) > 0.8 * len(texts)
    assert 0.02 < sum(text.isupper() for text in texts) / len(texts) < 0.09
    assert 0.4 < sum(text.islower() for text in texts) / len(texts) < 0.75


def test_relations_are_told_in_the_right_order(train):
    """The object named before "left of" is the left one; before "right of", the right one."""
    checked = 0
    for scene in train:
        if scene.relation not in ("left of", "above"):
            continue
        for caption, words in itertools.product(
            scene.captions, (" left of ", " right of ", " above ", " below ")
        ):
            before, actual, after = caption.lower().partition(words)
            if not actual:
                continue
            first, second = scene.objects if words in (" left of ", " above ") else reversed(scene.objects)
            if describes(before, first) and describes(after, second):
                checked += 1
            else:
                assert not (describes(before, second) and describes(after, first)), caption
    assert checked > 200


def test_counts_are_told(train):
    for scene in train:
        if scene.relation == "count":
            words = {2: r"\b(two|2|pair|both)\b", 3: r"\b(three|3)\b"}[len(scene.objects)]
            stated = [bool(re.search(words, text.lower())) for text in scene.captions if len(text) > 12]
            assert sum(stated) >= len(stated) - 1
