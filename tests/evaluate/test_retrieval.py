"""Retrieval with captions that are shared and pictures that have several."""

import numpy as np
import pytest

from diptych.core.errors import DataError
from diptych.evaluate.retrieval import RetrievalEvaluator, distinct_texts
from diptych.evaluate.suite import Suite
from diptych.evaluate.zeroshot import ZeroShotEvaluator


def test_recall_by_hand(colour_model, swatches) -> None:
    """Texts: a red thing, crimson red, a green thing, a blue thing (whose only picture is broken).

    Pictures: red finds one of its two texts first; both green ones find theirs; blue, which is captioned red,
    finds "a blue thing" first and a red text later; the broken one finds nothing. Texts: "a blue thing" finds
    nothing; the others find their picture first.
    """
    metrics = {m.metric: m for m in RetrievalEvaluator("pairs", swatches)(colour_model)}
    assert [metrics[f"image_to_text_recall@{k}"].value for k in (1, 5, 10)] == [0.6, 0.8, 0.8]
    assert [metrics[f"text_to_image_recall@{k}"].value for k in (1, 5, 10)] == [0.75, 0.75, 0.75]
    assert (metrics["image_to_text_recall@1"].n, metrics["text_to_image_recall@1"].n) == (5, 4)
    assert (metrics["unreadable"].value, metrics["unreadable"].n) == (1, 5)


def test_distinct_texts_pair_every_picture_with_each_of_its_captions() -> None:
    texts, pairs = distinct_texts([("b", "a"), (), ("a",)])
    assert texts == ("b", "a")
    assert pairs.tolist() == [[0, 0], [0, 1], [2, 1]]
    assert distinct_texts([])[1].shape == (0, 2)


def test_a_source_without_captions_is_refused(colour_model, swatches) -> None:
    bare = type(swatches)([(image.image, (), {}) for image in swatches.pairs(None)])
    with pytest.raises(DataError, match="nothing to retrieve"):
        RetrievalEvaluator("pairs", bare)(colour_model)


def test_a_suite_embeds_once_and_finds_what_its_tasks_find_alone(
    colour_model, swatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = (ZeroShotEvaluator("colour", swatches, "colour"), RetrievalEvaluator("pairs", swatches))
    alone = [metric for task in tasks for metric in task(colour_model)]
    reads = []
    pairs = type(swatches).pairs
    monkeypatch.setattr(type(swatches), "pairs", lambda self, counts: reads.append(1) or pairs(self, counts))
    found = Suite("all", swatches, tasks)(colour_model)
    together = [metric for metric in found if not metric.metric.startswith("bad_samples")]
    assert len(reads) == 1
    assert together == alone


def test_the_order_of_pictures_does_not_matter(colour_model, swatches) -> None:
    forward = RetrievalEvaluator("pairs", swatches)(colour_model)
    rows = [(p.image, p.captions, p.fields) for p in swatches.pairs(None)]
    backward = RetrievalEvaluator("pairs", type(swatches)(rows[::-1]))(colour_model)
    assert [m.value for m in forward] == [m.value for m in backward]
    assert all(np.isfinite(m.value) for m in forward)
