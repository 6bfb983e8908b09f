"""The scan's rows and scores are those of a full sort of exact scores, and its bound holds."""

import numpy as np
import pytest

from diptych.search.scan import CHUNK_ROWS, approximate, bound, encode_rows, top_k


def unit_rows(count: int, width: int, seed: int, kind: str = "plain") -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((count, width))
    if kind == "outlier":  # a few columns of CLIP's embeddings are far larger than all others
        made[:, 1] += 6
        made[:, 2] *= 5
    if kind == "equal":
        made[:] = made[:1]
    if kind == "sparse":
        made[:, width // 2 :] = 0
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def exact(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return (rows.astype(np.float64)[:, None] * queries.astype(np.float64)).sum(axis=2)


@pytest.mark.parametrize("kind", ["plain", "outlier", "equal", "sparse"])
@pytest.mark.parametrize("count", [1, 7, 3000])
@pytest.mark.parametrize("k", [1, 10])
def test_top_k_is_a_full_sort(kind: str, count: int, k: int) -> None:
    rows = unit_rows(count, 64, count, kind)
    rows[count // 2 :] = rows[: count - count // 2]  # pairs of equal rows
    queries = np.concatenate([unit_rows(3, 64, 99), rows[:1]]).astype(np.float32)
    read_rows = []

    def read(positions: np.ndarray) -> np.ndarray:
        assert (np.diff(positions) > 0).all()
        read_rows.append(len(positions))
        return rows[positions].astype(np.float32)

    coded, scores = encode_rows(rows), exact(rows, queries)
    for chosen in (None, np.arange(0, count, 3)):
        some = np.arange(count) if chosen is None else chosen
        results = top_k(coded, read, queries, k, chosen)
        for number, (positions, values) in enumerate(results):
            order = some[np.lexsort((some, -scores[some, number]))][:k]
            assert positions.tolist() == order.tolist()
            assert values.tolist() == scores[order, number].tolist()
    if count == 3000 and kind == "plain":
        assert sum(read_rows) < 0.1 * 8 * count  # the codes decide nearly everything


@pytest.mark.parametrize("kind", ["plain", "outlier", "sparse"])
def test_no_approximate_score_is_off_by_more_than_the_bound(kind: str) -> None:
    rows, queries = unit_rows(CHUNK_ROWS + 10, 32, 3, kind), unit_rows(4, 32, 4, kind).astype(np.float32)
    coded, scores = encode_rows(rows), exact(rows, queries)
    limit, seen = bound(coded, queries), 0
    for positions, values in approximate(coded, queries):
        assert (np.abs(values - scores[positions]) <= limit).all()
        seen += len(positions)
    assert seen == len(rows)
    assert (limit < 0.03).all()


def test_rows_of_zeros_and_no_rows_have_codes() -> None:
    coded = encode_rows(np.zeros((3, 8), np.float16))
    assert not coded.codes.any()
    assert (coded.error, coded.length) == (0, 0)
    empty = encode_rows(np.empty((0, 8), np.float16))
    assert (
        top_k(empty, lambda rows: np.empty((0, 8), np.float32), np.ones((1, 8), np.float32), 3)[0][0].size
        == 0
    )
