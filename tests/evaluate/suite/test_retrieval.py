"""Retrieval with captions that are shared and pictures that have several."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.conftest import evaluator

from diptych.core.errors import DataError
from diptych.evaluate.suite import retrieval
from diptych.evaluate.suite.retrieval import distinct_texts


def test_recall_by_hand(color_model, swatches) -> None:
    """Texts: a red thing, crimson red, a green thing, a blue thing (whose only picture is broken).

    Pictures: red finds one of its two texts first; both green ones find theirs; blue, which is captioned red,
    finds "a blue thing" first and a red text later; the broken one finds nothing. Texts: "a blue thing" finds
    nothing; the others find their picture first.
    """
    metrics = {m.metric: m for m in evaluator(swatches, "")(color_model)}
    assert [metrics[f"image_to_text_recall@{k}"].value for k in (1, 5, 10)] == [0.6, 0.8, 0.8]
    assert [metrics[f"text_to_image_recall@{k}"].value for k in (1, 5, 10)] == [0.75, 0.75, 0.75]
    assert (metrics["image_to_text_recall@1"].n, metrics["text_to_image_recall@1"].n) == (5, 4)
    assert (metrics["unreadable"].value, metrics["unreadable"].n) == (1, 5)


def test_every_caption_as_a_query_of_its_own_by_hand(color_model, swatches) -> None:
    """Six captions of five images, four of them distinct.

    The red image's captions find it. The two green images are equal, so each is tied with the right one of
    the other's caption; "a red thing" of the blue image finds the red one first; the broken image is
    never found.
    """
    metrics = {m.metric: m for m in evaluator(swatches, "")(color_model)}
    assert [metrics[f"caption_to_image_recall@{k}"].value for k in (1, 5)] == [2 / 6, 5 / 6]
    assert [metrics[f"image_to_caption_recall@{k}"].value for k in (1, 5)] == [3 / 5, 4 / 5]
    assert (metrics["caption_to_image_recall@1"].n, metrics["image_to_caption_recall@1"].n) == (6, 5)


def test_captions_as_queries_equal_brute_force() -> None:
    """CLIP_benchmark's: a text's own image among the first k, any right text among an image's first k."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        pairs = np.stack([np.sort(rng.integers(0, 12, 30)), rng.integers(0, 14, 30)], axis=1)
        pairs[:, 1] = np.unique(pairs[:, 1], return_inverse=True)[1]
        images, texts = (rng.normal(size=(n, 8)).astype(np.float32) for n in (12, pairs[:, 1].max() + 1))
        image_ranks, caption_ranks = retrieval._caption_ranks(images, texts, pairs)
        scores = images.astype(np.float64) @ texts[pairs[:, 1]].T.astype(np.float64)
        for caption, (own, _) in enumerate(pairs):
            order = np.argsort(-scores[:, caption]).tolist()
            assert caption_ranks[caption] == order.index(own)
        for image in set(pairs[:, 0].tolist()):
            right = np.isin(pairs[:, 1], pairs[pairs[:, 0] == image, 1])
            order = np.argsort(-scores[image], kind="stable")
            assert image_ranks[image] == np.flatnonzero(right[order])[0]


def test_captions_that_are_all_distinct_are_counted_once(color_model, swatches) -> None:
    rows = [(p.image, (f"red {n}",), {}) for n, p in enumerate(swatches.pairs(None))]
    names = [m.metric for m in evaluator(type(swatches)(rows), "")(color_model)]
    assert not [name for name in names if "caption" in name]


def test_val2017_has_25014_captions_of_which_24785_are_distinct(shared_data: Path) -> None:
    """24,794 but for case and white space, counted by hand; the model reads neither."""
    found = json.loads((shared_data / "text" / "captions_val2017.json").read_text())["annotations"]
    texts, pairs = distinct_texts([(entry["caption"],) for entry in found])
    stripped = {entry["caption"].strip() for entry in found}
    assert (len(pairs), len(stripped), len(texts)) == (25014, 24794, 24785)
    assert distinct_texts([("b", "a"), (), (" A",)])[1].tolist() == [[0, 0], [0, 1], [2, 1]]
    assert distinct_texts([])[1].shape == (0, 2)


def test_a_source_without_captions_is_refused(color_model, swatches) -> None:
    bare = type(swatches)([(image.image, (), {}) for image in swatches.pairs(None)])
    with pytest.raises(DataError, match="nothing to retrieve"):
        evaluator(bare, "")(color_model)


def test_a_suite_embeds_once_and_finds_what_its_tasks_find_alone(
    color_model, swatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [metric for column in ("color", "") for metric in evaluator(swatches, column)(color_model)]
    reads = []
    pairs = type(swatches).pairs
    monkeypatch.setattr(type(swatches), "pairs", lambda self, counts: reads.append(1) or pairs(self, counts))
    assert evaluator(swatches, "color", "")(color_model) == alone and len(reads) == 1


def test_the_order_of_pictures_does_not_matter(color_model, swatches) -> None:
    forward = evaluator(swatches, "")(color_model)
    rows = [(p.image, p.captions, p.fields) for p in swatches.pairs(None)]
    backward = evaluator(type(swatches)(rows[::-1]), "")(color_model)
    assert [m.value for m in forward] == [m.value for m in backward]
    assert all(np.isfinite(m.value) for m in forward)
