"""Balance: no query may bring more than about `cap` pairs, and the rare ones bring all.

Every pair and query have a number, the hash of the pair's key, the query's text and the seed, uniform from 0
to 2^64. A pair is drawn for a query if its number is low, and kept if it is drawn for any of its queries. So
what becomes of a pair depends on these three and the query's threshold alone, not on its place, on the order
of queries, on the machine or on chance.

- "independent" (MetaCLIP): drawn if number / 2^64 < cap / count: about cap pairs for a query with more.
- "exact" (the paper's "up to 20,000 pairs per query"): the cap pairs of the lowest numbers are drawn.

In both, all pairs are drawn for a query with at most `cap` matches. The cap bounds the pairs drawn for a
query; more of those that contain it may be kept, because they were drawn for other queries.

    number = splitmix64(splitmix64(FNV-1a(key)) xor splitmix64(FNV-1a(query) xor splitmix64(seed)))

Keys are unique in a run. Pairs with equal keys would share their numbers and so their fate; in mode "exact",
where that would pass the cap, none of them is drawn.

Reads: keys and matches of partitions. Writes: nothing.
Source: Radford et al. 2021, section 2.2; Xu et al. 2023, "Demystifying CLIP data", sections 3.3 and 3.4.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.core.errors import IntegrityError
from diptych.curate.balance_kernels import ALWAYS, count_numbers, drawn, text_hashes
from diptych.curate.kernels import fixed, mixed
from diptych.curate.match import Matches
from diptych.curate.words import text_buffers

Column: TypeAlias = pa.Array | pa.ChunkedArray
Read = Callable[[], Iterable[tuple[Column, Matches]]]
"""Starts a pass over all partitions: (N,) keys and their matches."""

Counts64 = NDArray[np.int64]
Numbers = NDArray[np.uint64]

BIN_BITS = 10
"""2^10 bins per head query and pass: for MetaCLIP's 16,000 head queries 130 MB and about three passes."""

SIGMAS = 8
"""The first pass looks this many standard deviations to both sides of where a threshold must lie; one that is
not there, as chance has it once in 10^15 queries, costs passes more."""


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """How the common queries are held back.

    Attributes:
        cap: pairs drawn for one query (the paper: 20,000 for 400 M pairs).
        mode: "independent" or "exact", as above.
        seed: another one draws other pairs.
    """

    cap: int = 20_000
    mode: Literal["independent", "exact"] = "independent"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise ValueError(f"cap is {self.cap}: at least 1 pair per query")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}: expected 0 to 2^64 - 1")


@dataclass(frozen=True, slots=True)
class BalancePlan:
    """All that decides about a pair.

    Attributes:
        counts: (Q,) int64, matches of each query.
        hashes: (Q,) uint64, of the queries' texts and the seed.
        below: (Q,) uint64: pairs with a lower number are drawn; 2^64 - 1 means all.
    """

    counts: Counts64
    hashes: Numbers
    below: Numbers

    def to_table(self) -> pa.Table:
        """Return the plan as (Q,) rows, for workers to read."""
        columns = {"count": self.counts, "hash": self.hashes, "below": self.below}
        return pa.table({name: pa.array(values) for name, values in columns.items()})

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """Read what `to_table` made."""
        return cls(*(table[name].to_numpy() for name in ("count", "hash", "below")))


@dataclass(frozen=True, slots=True)
class Balanced:
    """What became of the pairs of a partition.

    Attributes:
        keep: (N,) bool.
        chosen: the queries for which each was drawn; none where it is not kept.
    """

    keep: NDArray[np.bool_]
    chosen: Matches


@dataclass(frozen=True, slots=True)
class BalanceStatistics:
    """What balancing did, for the data card.

    Attributes:
        cap: pairs drawn for one query.
        before: (Q,) int64, matches of each query.
        drawn: (Q,) int64, pairs drawn for it; at most `cap` in mode "exact".
        after: (Q,) int64, pairs kept that contain it, whichever query they were drawn for.
    """

    cap: int
    before: Counts64
    drawn: Counts64
    after: Counts64

    @property
    def head_queries(self) -> int:
        """Return how many queries have more matches than the cap."""
        return int((self.before > self.cap).sum())

    @property
    def tail_share_before(self) -> float:
        """Return the share of all matches that belong to the other queries."""
        return self._tail_share(self.before)

    @property
    def tail_share_after(self) -> float:
        """Return the same share of the matches of the pairs that were kept."""
        return self._tail_share(self.after)

    def _tail_share(self, counts: Counts64) -> float:
        return float(counts[self.before <= self.cap].sum() / max(1, counts.sum()))


def count_matches(ids: NDArray[np.int32], counts: Counts64) -> None:
    """Add the matches of a partition to the counts of the queries.

    Args:
        ids: (M,) ids of the queries that match, in any order.
        counts: (Q,), added to in place; the sum of several is the count of all their partitions.

    >>> counts = np.zeros(3, np.int64)
    >>> count_matches(np.array([2, 0, 2], np.int32), counts)
    >>> counts.tolist()
    [1, 0, 2]
    """
    counts += np.bincount(ids, minlength=len(counts))


def count_kept(matches: Matches, keep: NDArray[np.bool_], counts: Counts64) -> None:
    """Add the matches of the pairs that were kept to the counts of the queries.

    Args:
        matches: of the N pairs of a partition.
        keep: (N,).
        counts: (Q,), added to in place.
    """
    count_matches(matches.ids[np.repeat(keep, np.diff(matches.offsets))], counts)


def probabilities(counts: Counts64, cap: int) -> NDArray[np.float64]:
    """Return the probability with which a pair is drawn for each query: min(1, cap / count).

    >>> probabilities(np.array([0, 5, 40]), 10).tolist()
    [1.0, 1.0, 0.25]
    """
    return np.minimum(1.0, cap / np.maximum(counts, 1))


def plan_balance(
    queries: Column | Sequence[str], counts: Counts64, settings: BalanceSettings, *, read: Read | None = None
) -> BalancePlan:
    """Find the threshold of every query.

    Args:
        queries: (Q,) their texts.
        counts: (Q,) matches of each over all partitions.
        settings: cap, mode and seed.
        read: passes over the partitions; needed in mode "exact" alone, which takes about three.

    Raises:
        IntegrityError: mode "exact", and the partitions have not the matches that were counted.
    """
    column = queries if isinstance(queries, pa.Array | pa.ChunkedArray) else pa.array(queries, pa.string())
    hashes = _hashes(column, np.uint64(mixed(np.uint64(settings.seed))))
    below = np.full(len(counts), ALWAYS, np.uint64)
    heads = np.flatnonzero(counts > settings.cap)
    below[heads] = [(settings.cap << 64) // count for count in counts[heads].tolist()]
    if settings.mode == "exact":
        assert read is not None, "mode exact needs passes over the partitions"
        below[heads] = _exact_thresholds(heads, BalancePlan(counts, hashes, below), settings.cap, read)
    return BalancePlan(counts, hashes, below)


def balance_partition(keys: Column, matches: Matches, plan: BalancePlan) -> Balanced:
    """Decide which pairs of a partition are kept.

    Args:
        keys: (N,) of the pairs.
        matches: their queries.
        plan: from `plan_balance`.

    >>> plan = plan_balance(["dog", "axolotl"], np.array([1_000_000, 1]), BalanceSettings(cap=1))
    >>> matches = Matches(np.array([0, 1, 3]), np.array([0, 0, 1], np.int32))
    >>> balance_partition(pa.array(["a", "b"]), matches, plan).keep
    array([False,  True])
    """
    (below,) = fixed(plan.below)
    offsets, ids = drawn(*_arrays(keys, matches, plan), below)
    return Balanced(np.diff(offsets) > 0, Matches(offsets, ids))


def sorted_curve(counts: Counts64) -> tuple[Counts64, NDArray[np.float64]]:
    """Return the curve that shows how unequal queries are.

    Args:
        counts: (Q,) matches of each.

    Returns:
        (Q,) the counts, ascending, and (Q,) which share of all matches the queries up to there have.

    >>> sorted_curve(np.array([6, 1, 3]))
    (array([1, 3, 6]), array([0.1, 0.4, 1. ]))
    """
    ascending = np.sort(counts)
    return ascending, np.cumsum(ascending) / max(1, int(ascending.sum()))


def _exact_thresholds(heads: Counts64, plan: BalancePlan, cap: int, read: Read) -> Numbers:
    """Find for every head query the number below which exactly `cap` of its pairs are.

    A pass counts numbers in bins within a window, which is then narrowed to the bin in which the threshold
    lies, until a bin begins with it.
    """
    result = plan.below[heads]
    lows, shifts = _first_windows(plan.counts[heads], cap)
    unsettled = np.arange(len(heads))
    while len(unsettled):
        upto = _count_pass(heads[unsettled], plan, lows[unsettled], shifts[unsettled], read)
        np.cumsum(upto, axis=1, out=upto)  # numbers before each bin
        chosen = (upto <= cap).sum(axis=1) - 1  # the last bin that begins with at most cap numbers before it
        missed = (chosen < 0) | (chosen == 1 << BIN_BITS)
        whole = missed & (shifts[unsettled] == 64 - BIN_BITS)
        if whole.any():
            raise IntegrityError(
                "the matches are not those that were counted",
                where=f"query {heads[unsettled[whole][0]]}",
                found=f"{upto[whole][0, -1]} matches",
                expected=f"{plan.counts[heads[unsettled[whole][0]]]}",
                fix="remove the balance stage's folder and run it again",
            )
        starts = lows[unsettled] + (np.maximum(chosen, 0).astype(np.uint64) << shifts[unsettled])
        exact = np.take_along_axis(upto, np.maximum(chosen, 0)[:, None], axis=1)[:, 0] == cap
        settled = ~missed & (exact | (shifts[unsettled] == 0))
        result[unsettled[settled]] = starts[settled]
        narrower = np.maximum(shifts[unsettled].astype(np.int64) - BIN_BITS, 0).astype(np.uint64)
        lows[unsettled] = np.where(missed, np.uint64(0), starts)
        shifts[unsettled] = np.where(missed, np.uint64(64 - BIN_BITS), narrower)
        unsettled = unsettled[~settled]
    return result


def _first_windows(counts: Counts64, cap: int) -> tuple[Numbers, Numbers]:
    """Return where the bins of each head query begin and, as a power of two, how wide they are."""
    lows, shifts = np.zeros(len(counts), np.uint64), np.zeros(len(counts), np.uint64)
    for row, count in enumerate(counts.tolist()):
        half = (int(SIGMAS * np.sqrt(cap) + 1) << 64) // count
        low = max(0, (cap << 64) // count - half)
        high = min(1 << 64, (cap << 64) // count + half)
        shifts[row] = ((high - low - 1) >> BIN_BITS).bit_length()
        lows[row] = low if shifts[row] < 64 - BIN_BITS else 0
    return lows, shifts


def _count_pass(heads: Counts64, plan: BalancePlan, lows: Numbers, shifts: Numbers, read: Read) -> Counts64:
    bins = np.zeros((len(heads), 1 + (1 << BIN_BITS)), np.int64)
    rows = np.full(len(plan.counts), -1, np.int32)
    rows[heads] = np.arange(len(heads))
    for keys, matches in read():
        count_numbers(*_arrays(keys, matches, plan), rows, lows, shifts, bins)
    return bins


def _arrays(keys: Column, matches: Matches, plan: BalancePlan) -> tuple[Any, Any, Any, Any]:
    """Return hashes of keys, offsets, ids and hashes of queries, whose sizes fit.

    Raises:
        IntegrityError: they do not.
    """
    queries = 1 + int(matches.ids.max(initial=-1))
    if len(keys) != len(matches) or queries > len(plan.hashes):
        raise IntegrityError(
            "matches of other pairs or queries",
            found=f"{len(matches):,} pairs, {queries:,} queries or more",
            expected=f"{len(keys):,} pairs, {len(plan.hashes):,} queries",
            fix="remove the folders of this stage and of the matches, and run them again",
        )
    numbers, hashes = fixed(_hashes(keys, np.uint64(0)), plan.hashes)
    offsets, ids = fixed(matches.offsets, matches.ids)
    return numbers, offsets, ids, hashes


def _hashes(column: Column, salt: np.uint64) -> Numbers:
    data, offsets = fixed(*text_buffers(column))
    hashes: Numbers = text_hashes(data, offsets, salt)
    return hashes
