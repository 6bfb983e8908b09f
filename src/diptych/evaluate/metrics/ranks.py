"""Exact ranks of right answers among all scores, in memory that does not grow with the data.

A score is a dot product in float64, its terms added in one fixed order. float32 products of chunks decide
what they can decide for sure; cells nearer to the threshold are computed again. So equal rows tie exactly,
and no result depends on chunk sizes, threads or the library behind the products.

Source: Higham 2002, section 3.1 (|error of a dot product of E terms| <= E u |x| |y| in any order, u = 2^-24).
"""

from collections.abc import Iterator

import numpy as np

from diptych.core.checks import Bools, Doubles, Floats, Ints

CHUNK_CELLS = 1 << 20  # scores held at once: 4 MiB of float32 and their masks stay in the processor's cache
MAX_ROWS = 255  # of a chunk: its column counts are added up in bytes
EXACT_PAIRS = 1 << 13  # pairs whose exact scores are computed at once: 32 MiB at 512 columns
NEVER = np.iinfo(np.int64).max  # the rank of an answer that no list, however long, would contain


def exact_scores(left: Floats, right: Floats, pairs: Ints) -> Doubles:
    """Return the score (P,) of each pair (P, 2) of rows of `left` and `right`, NaN where a row is."""
    scores = np.empty(len(pairs), dtype=np.float64)
    for start in range(0, len(pairs), EXACT_PAIRS):
        part = pairs[start : start + EXACT_PAIRS]
        # A product of two float32 is exact in float64, and numpy adds each row up in the same order.
        terms = left[part[:, 0]].astype(np.float64) * right[part[:, 1]]
        scores[start : start + len(part)] = terms.sum(axis=1)
    return scores


def first_best(left: Floats, right: Floats) -> Ints:
    """Return the best row of `right` for each row of `left`, the first of equals; -1 for a row of NaN."""
    best = np.full(len(left), -1, dtype=np.int64)
    tolerance = _tolerance(left, right)
    for rows in _chunks(len(left), len(right)):
        scores = left[rows] @ right.T
        tops = np.fmax.reduce(scores, axis=1)
        pairs = np.argwhere(scores >= (tops - 2 * tolerance[rows])[:, None])
        pairs += (rows.start, 0)
        order = np.lexsort((pairs[:, 1], -exact_scores(left, right, pairs), pairs[:, 0]))
        owners, firsts = np.unique(pairs[order, 0], return_index=True)
        best[owners] = pairs[order[firsts], 1]
    return best


def paired_ranks(left: Floats, right: Floats, pairs: Ints, *, both: bool = True) -> tuple[Ints, Ints]:
    """Count, for every row of each side, the wrong rows that score as high as its best right one or higher.

    Args:
        left: (N, E) float32; a row of NaN never finds anything and is never found. So for `right`.
        right: (M, E) float32.
        pairs: (P, 2) rows that belong together, several per row welcome; a repeated pair counts once.
        both: whether the rows of `right` are ranked too, over the same products.

    Returns:
        (N,) and (M,) int64; `NEVER` for a row that cannot find anything right.
    """
    pairs = np.unique(pairs.reshape(-1, 2), axis=0)
    scores = exact_scores(left, right, pairs)
    pairs, scores = pairs[~np.isnan(scores)], scores[~np.isnan(scores)]
    best = []
    for side, rows in enumerate((left, right)):
        best.append(np.full(len(rows), np.nan))
        np.fmax.at(best[side], pairs[:, side], scores)
    counts = _count_competitors(left, right, best[0], best[1] if both else None)
    ranks = []
    for side in range(2):
        # Right ones at the best score were counted as well, and right ones never score more than that.
        own = np.bincount(pairs[scores == best[side][pairs[:, side]], side], minlength=len(best[side]))
        ranks.append(np.where(np.isnan(best[side]), NEVER, counts[side] - own))
    return ranks[0], ranks[1]


def median_rank(ranks: Ints) -> float:
    """Return the median rank of the best right answer, counted from 1; infinite if it was never found."""
    return float(np.median(np.where(ranks == NEVER, np.inf, ranks + 1.0))) if len(ranks) else float("nan")


def _count_competitors(
    left: Floats, right: Floats, left_best: Doubles, right_best: Doubles | None
) -> tuple[Ints, Ints]:
    """Count, for each row of each side, the rows of the other that score its threshold or more."""
    left_counts, right_counts = np.zeros(len(left), np.int64), np.zeros(len(right), np.int64)
    left_tolerance, right_tolerance = _tolerance(left, right), _tolerance(right, left)
    for rows in _chunks(len(left), len(right)):
        scores = left[rows] @ right.T
        best, tolerance = left_best[rows, None], left_tolerance[rows, None]
        sure, near = _sides(scores, best, tolerance)
        left_counts[rows] += np.bitwise_count(np.packbits(sure, axis=1)).sum(axis=1, dtype=np.int64)
        pairs = np.argwhere(near) + np.array((rows.start, 0))
        equal = exact_scores(left, right, pairs) >= left_best[pairs[:, 0]]
        left_counts += np.bincount(pairs[equal, 0], minlength=len(left))
        if right_best is None:
            continue
        sure, near = _sides(scores, right_best, right_tolerance)
        right_counts += np.add.reduce(sure.view(np.uint8), axis=0, dtype=np.uint8)
        pairs = np.argwhere(near) + np.array((rows.start, 0))
        equal = exact_scores(left, right, pairs) >= right_best[pairs[:, 1]]
        right_counts += np.bincount(pairs[equal, 1], minlength=len(right))
    return left_counts, right_counts


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    step = min(MAX_ROWS, max(1, CHUNK_CELLS // max(1, columns)))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def _tolerance(rows: Floats, others: Floats) -> Doubles:
    """Return (N,): how far, at most, a float32 score of each row may be from the exact one.

    Twice the bound, for the rounding of thresholds to float32 and of the norms.
    """
    norms, largest = (np.linalg.norm(side.astype(np.float64), axis=1) for side in (rows, others))
    unit = 2.0**-23 * (rows.shape[1] + 2)
    return np.asarray(unit * norms * np.nanmax(largest, initial=0.0), dtype=np.float64)


def _sides(scores: Floats, best: Doubles, tolerance: Doubles) -> tuple[Bools, Bools]:
    """Return the cells that are above their threshold for sure, and those that are too near to tell."""
    sure = scores > (best + tolerance).astype(np.float32)
    near = scores >= (best - tolerance).astype(np.float32)
    near ^= sure
    return sure, near
