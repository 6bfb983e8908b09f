"""Exact ranks: equal rows tie, and neither chunks nor order nor the other direction change a number."""

import numpy as np
import pytest

from diptych.evaluate.metrics import ranks
from diptych.evaluate.metrics.classification import label_ranks, predictions


def close_case(case: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows full of repeats and near repeats, which float32 products cannot put in order."""
    rng = np.random.default_rng(case)
    count, others, width = (int(rng.integers(1, 60)) for _ in range(3))
    pool = rng.normal(size=(4, width))
    left, right = (pool[rng.integers(0, 4, size)] + rng.normal(size=(size, width)) * 1e-8
                   for size in (count, others))  # fmt: skip
    left, right = (
        (side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (left, right)
    )
    if case % 4 == 0:
        left[0], right[-1] = np.nan, np.nan
    pairs = rng.integers(0, [count, others], size=(int(rng.integers(0, 80)), 2))
    return left, right, pairs


def brute(left: np.ndarray, right: np.ndarray, pairs: np.ndarray) -> list[int]:
    """Follow the definition row by row: one float64 sum per cell."""
    ranks_of_rows = []
    for row, embed in enumerate(left):
        scores = [float((embed.astype(np.float64) * other).sum()) for other in right]
        mine = {int(item) for owner, item in pairs if owner == row and not np.isnan(scores[item])}
        if not mine:
            ranks_of_rows.append(int(ranks.NEVER))
            continue
        best = max(scores[item] for item in mine)
        ranks_of_rows.append(sum(score >= best for item, score in enumerate(scores) if item not in mine))
    return ranks_of_rows


@pytest.mark.parametrize("cells", [1, 300, 1 << 20])
def test_both_directions_equal_brute_force_where_scores_nearly_tie(
    monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    monkeypatch.setattr(ranks, "CHUNK_CELLS", cells)
    monkeypatch.setattr(ranks, "EXACT_PAIRS", 50)
    for case in range(200 if cells == 300 else 40):
        left, right, pairs = close_case(case)
        forth, back = ranks.paired_ranks(left, right, pairs)
        assert forth.tolist() == brute(left, right, pairs)
        assert back.tolist() == brute(right, left, pairs[:, ::-1])
        assert ranks.paired_ranks(left, right, pairs, both=False)[0].tolist() == forth.tolist()


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_no_result_depends_on_how_rows_are_batched(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """A product of one row takes another path through the library than one of 64, and rounds otherwise."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(500, 33)).astype(np.float32)
    images[250:] = images[:250]
    classifier = np.repeat(rng.normal(size=(9, 33)).astype(np.float32), 2, axis=0)
    labels = rng.integers(0, 18, size=500)
    whole = label_ranks(images, labels, classifier), predictions(images, classifier)
    monkeypatch.setattr(ranks, "MAX_ROWS", batch)
    assert np.array_equal(label_ranks(images, labels, classifier), whole[0])
    assert np.array_equal(predictions(images, classifier), whole[1])
    assert (whole[0] >= 1).all()  # every class has a twin that scores the same
    assert (whole[1] % 2 == 0).all()


def test_predictions_agree_with_ranks() -> None:
    for case in range(200):
        left, right, _ = close_case(case)
        best = ranks.first_best(left, right)
        labels = np.random.default_rng(case).integers(0, len(right), size=len(left))
        labelled = np.stack([np.arange(len(left)), labels], axis=1)
        sure = ranks.paired_ranks(left, right, labelled, both=False)[0] == 0
        assert (best[sure] == labels[sure]).all()
        for row, chosen in zip(left, best, strict=True):
            scores = [float((row.astype(np.float64) * other).sum()) for other in right]
            scores = [-np.inf if np.isnan(score) else score for score in scores]
            assert chosen == (-1 if max(scores) == -np.inf else scores.index(max(scores)))


def test_nothing_to_rank() -> None:
    none = np.empty((0, 4), np.float32)
    forth, back = ranks.paired_ranks(none, none, np.empty((0, 2), np.int64))
    assert len(forth) == len(back) == 0
    assert np.isnan(ranks.median_rank(forth))
