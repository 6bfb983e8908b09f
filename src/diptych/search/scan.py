"""Exact nearest rows by a scan of 8-bit codes.

A row x is kept as codes c, x ≈ scales * c, and every code is compared. The distance of a row from its codes
bounds how far a score can be off, so the rows that may be among the best are known for sure; only these are
read in float16 and scored again. The answer is that of float16 rows compared one by one, to the bit.

NumKong's int8 products read 512 MB for a million rows of 512, a quarter of float32's: benchmarks/search.py.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Doubles, Floats, Ints

Codes = NDArray[np.int8]
ReadRows = Callable[[Ints], Floats]

LARGEST = 127  # of a code, on both sides of 0
CHUNK_ROWS = 1 << 15  # scored at a time by one thread: 16 MiB of codes at a width of 512
DIGITS = 3  # a query is written with three digits of 8 bits: its own rounding then does not count
RESCORED = 1 << 14  # rows in float64 at a time: 64 MiB at a width of 512
THREADS = 2  # one core cannot read as fast as the memory gives


@dataclass(frozen=True, slots=True)
class CodedRows:
    """Rows (N, E) as 8-bit codes.

    Attributes:
        codes: (N, E) int8.
        scales: (E,) float32, what a code of 1 stands for in each column.
        error: the largest distance of a row from its codes, a Euclidean length.
        length: the largest Euclidean length of a row of codes.
    """

    codes: Codes
    scales: Floats
    error: float
    length: float


def encode_rows(rows: NDArray[np.floating]) -> CodedRows:
    """Round rows (N, E) to codes, with one scale a column."""
    scales = (np.abs(rows).max(axis=0, initial=0).astype(np.float32) / LARGEST).clip(
        np.finfo(np.float32).tiny
    )
    codes = np.empty(rows.shape, np.int8)
    error = length = 0.0
    for start in range(0, len(rows), CHUNK_ROWS):
        part = rows[start : start + CHUNK_ROWS].astype(np.float32)
        rounded = np.rint(part / scales)
        codes[start : start + CHUNK_ROWS] = rounded
        error = max(error, float(np.linalg.norm(part - rounded * scales, axis=1).max()))
        length = max(length, float(np.linalg.norm(rounded, axis=1).max()))
    return CodedRows(codes, scales, error * 1.0001, length * 1.0001)


def approximate(coded: CodedRows, queries: Floats, rows: Ints | None = None) -> Iterator[tuple[Ints, Floats]]:
    """Yield positions (n,) and approximate scores (n, Q) of rows, chunk by chunk; off by `bound` at most."""
    import numkong

    digits, units = _digits(queries * coded.scales)
    packed = numkong.dots_pack(digits)
    total = len(coded.codes) if rows is None else len(rows)

    def scored(start: int) -> tuple[Ints, Floats]:
        end = min(total, start + CHUNK_ROWS)
        positions = np.arange(start, end) if rows is None else rows[start:end]
        codes = coded.codes[start:end] if rows is None else coded.codes[positions]
        products = np.asarray(numkong.dots_packed(codes, packed)).astype(np.float32)
        scores = np.zeros((len(positions), len(queries)), np.float32)
        for digit, unit in enumerate(units):  # summed over a short axis: ten times slower
            scores += products[:, digit * len(queries) : (digit + 1) * len(queries)] * unit
        return positions, scores

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(scored, range(0, total, CHUNK_ROWS))


def bound(coded: CodedRows, queries: Floats) -> Doubles:
    """Return (Q,): how far an approximate score can be from the score of the row itself."""
    weights = queries * coded.scales
    digits, units = _digits(weights)
    restored = (digits.reshape(DIGITS, *queries.shape) * units[:, :, None]).sum(axis=0)
    rounding = np.linalg.norm(weights - restored, axis=1) * coded.length
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    return np.asarray(coded.error * lengths + rounding + 1e-5 * lengths, dtype=np.float64)


def top_k(
    coded: CodedRows, read: ReadRows, queries: Floats, k: int, rows: Ints | None = None
) -> list[tuple[Ints, Doubles]]:
    """Find the k rows with the highest scores for each query, best first, equal ones in order of their rows.

    Args:
        coded: the codes of N rows.
        read: gives rows (n, E) float32 by their ascending positions (n,).
        queries: (Q, E) float32.
        k: at least 1; all rows where there are fewer.
        rows: ascending positions of those to choose from; None: all.

    Returns:
        Positions (k,) int64 and scores (k,) float64 of each query.
    """
    slack = 2 * bound(coded, queries)
    kept: list[list[tuple[Ints, Floats]]] = [[] for _ in queries]
    floors = np.full(len(queries), -np.inf)
    for positions, scores in approximate(coded, queries, rows):
        for query, column in enumerate(scores.T):
            near = np.flatnonzero(column >= floors[query] - slack[query])
            if len(near):
                kept[query].append((positions[near], column[near]))
                floors[query], kept[query] = _pruned(kept[query], k, slack[query], floors[query])
    results = []
    for query, parts in enumerate(kept):
        candidates = np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in parts)])
        scored = _scored(read, candidates, queries[query])
        order = np.lexsort((candidates, -scored))[:k]
        results.append((candidates[order], scored[order]))
    return results


def _pruned(
    parts: list[tuple[Ints, Floats]], k: int, slack: float, floor: float
) -> tuple[float, list[tuple[Ints, Floats]]]:
    """Return the k-th best approximate score, and what is not below it by more than the slack."""
    positions, scores = (np.concatenate(side) for side in zip(*parts, strict=True))
    if len(scores) >= k:
        floor = max(floor, float(np.partition(scores, len(scores) - k)[len(scores) - k]))
    kept = scores >= floor - slack
    return floor, [(positions[kept], scores[kept])]


def _scored(read: ReadRows, positions: Ints, query: Floats) -> Doubles:
    """Return the scores (n,) of rows in float64, each summed in the same order wherever it stands."""
    scores = np.empty(len(positions))
    wide = query.astype(np.float64)
    for start in range(0, len(positions), RESCORED):
        part = positions[start : start + RESCORED]
        scores[start : start + RESCORED] = (read(part).astype(np.float64) * wide).sum(axis=1)
    return scores


def _digits(weights: Floats) -> tuple[Codes, Floats]:
    """Write (Q, E) numbers with digits of 8 bits: (DIGITS * Q, E), and what a 1 of each is worth."""
    rest = weights.astype(np.float64)
    unit = np.abs(rest).max(axis=1, initial=0).clip(np.finfo(np.float32).tiny) / LARGEST
    digits, units = [], []
    for _ in range(DIGITS):
        digit = np.rint(rest / unit[:, None]).clip(-LARGEST, LARGEST)
        digits.append(digit.astype(np.int8))
        units.append(unit)
        rest = rest - digit * unit[:, None]
        unit = unit / (2 * LARGEST)
    return np.concatenate(digits), np.stack(units).astype(np.float32)
