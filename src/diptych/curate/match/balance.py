"""At most so many pairs per query, so that the most photographed things do not crowd out the rest.

A pair has a number in [0, 2^64) for each query that it matches, splitmix64(pair xor query), where pair =
splitmix64(FNV-1a(key) xor splitmix64(seed)), and query the same of the query's text and seed + 1. It is drawn
for a query if the number is at or below the query's limit, and kept if it is drawn for one of its queries. So
the decision about a pair depends on nothing but itself and the limits: not on order, partition or machine.

- "independent": the limit is min(1, cap / count) of the range, as MetaCLIP draws: about `cap` draws.
- "exact": the limit is the cap-th smallest number that there is for the query: min(cap, count) draws, the
  paper's "up to 20,000 pairs per query". It takes two more passes over the matches.

A pair that is kept for one query still counts among the matches of its others, so a frequent query may have
more than `cap` matches in the result.

Source: Radford et al. 2021, section 2.2; Xu et al. 2023 (MetaCLIP), algorithm 1 and section 3.3.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.core.checks import Ints
from diptych.core.errors import SettingsError
from diptych.curate.kernels import mixed, njit, row_hashes
from diptych.curate.match.match import Matches
from diptych.curate.words import text_buffers

Hashes = NDArray[np.uint64]
Keys: TypeAlias = pa.Array | pa.ChunkedArray
Part = tuple[Keys, Matches]  # keys and matches of one partition

ALL = np.uint64(2**64 - 1)
# Numbers of a query above the cap are counted in bins of their leading bits, 8 kB a query: 16,000 queries, as
# MetaCLIP had, take 130 MB; the numbers of one bin of each, a thousandth of all matches, 12 bytes each.
BIN_BITS = 10
BIN_SHIFT = np.uint64(64 - BIN_BITS)


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """How much a query may have.

    Attributes:
        cap: pairs that are drawn for one query; 20,000 in the paper.
        mode: "independent" or "exact", as above.
        seed: another seed draws other pairs; 0 to 2^64 - 2.
    """

    cap: int = 20_000
    mode: Literal["independent", "exact"] = "independent"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise SettingsError("a cap below 1 keeps nothing", where="balance.cap", found=self.cap)
        if not 0 <= self.seed < 2**64 - 1:
            expected = "0 to 2^64 - 2"
            raise SettingsError("no such seed", where="balance.seed", found=self.seed, expected=expected)


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides about every pair: (Q,) hashes of the queries' texts, and the largest numbers drawn."""

    names: Hashes
    limits: Hashes
    seed: int


def count_matches(matches: Matches, counts: Ints) -> None:
    """Add the matches of a partition to (Q,) counts."""
    counts += np.bincount(matches.ids, minlength=len(counts))


def make_plan(
    queries: Keys,
    counts: Ints,
    settings: BalanceSettings,
    *,
    parts: Callable[[], Iterable[Part]] = lambda: (),
) -> Plan:
    """Decide the limits, from (Q,) texts of queries and their matches over all partitions.

    `parts` returns all partitions; mode "exact" reads them twice.
    """
    names: Hashes = row_hashes(*text_buffers(queries), np.uint64(settings.seed + 1))
    limits = np.full(len(counts), ALL)
    head = np.flatnonzero(counts > settings.cap)
    # Of 2^64 numbers, cap / count are drawn: in whole numbers, for floats end at 53 bits.
    limits[head] = [(settings.cap * 2**64) // int(count) - 1 for count in counts[head]]
    plan = Plan(names, limits, settings.seed)
    return _exact(plan, head, settings.cap, parts) if settings.mode == "exact" and len(head) else plan


def balance_partition(keys: Keys, matches: Matches, plan: Plan) -> tuple[NDArray[np.bool_], Matches]:
    """Draw the pairs of a partition; return (N,) which are kept, and the queries for which each was drawn.

    >>> plan = make_plan(pa.array(["dog"]), np.array([2]), BalanceSettings(cap=2))
    >>> matches = Matches(np.array([0, 1, 1]), np.array([0], np.int32))
    >>> keep, drawn = balance_partition(pa.array(["a", "b"]), matches, plan)
    >>> keep.tolist(), drawn.ids.tolist()
    ([True, False], [0])
    """
    drawn = Matches(*_draw(_hashes(keys, plan), plan.names, matches.offsets, matches.ids, plan.limits))
    return np.diff(drawn.offsets) > 0, drawn


def _hashes(keys: Keys, plan: Plan) -> Hashes:
    hashes: Hashes = row_hashes(*text_buffers(keys), np.uint64(plan.seed))
    return hashes


def _exact(plan: Plan, head: Ints, cap: int, parts: Callable[[], Iterable[Part]]) -> Plan:
    """Find the cap-th smallest number of each frequent query: first its bin, then itself."""
    heads = np.full(len(plan.limits), -1, np.int32)
    heads[head] = np.arange(len(head))
    counts = np.zeros((len(head), 1 << BIN_BITS), np.int64)

    def pick(bins: Ints) -> tuple[NDArray[np.int32], Hashes]:
        """Add all numbers to the counts; return the queries and numbers that lie in their query's bin."""
        picked = [
            _pick(_hashes(keys, plan), plan.names, (matches.offsets, matches.ids), heads, (counts, bins))
            for keys, matches in parts()
        ]
        owners, numbers = zip(*picked, strict=True)
        return np.concatenate(owners), np.concatenate(numbers)

    pick(np.full(len(head), -1))
    running = np.cumsum(counts, axis=1)
    bins = (running < cap).sum(axis=1)
    before = np.where(bins > 0, running[np.arange(len(head)), np.maximum(bins, 1) - 1], 0)
    owners, numbers = pick(bins)
    order = np.lexsort((numbers, owners))
    starts = np.searchsorted(owners[order], np.arange(len(head)))
    limits = plan.limits.copy()
    limits[head] = numbers[order][starts + cap - 1 - before]
    return replace(plan, limits=limits)


@njit(cache=True, nogil=True)
def _draw(keys: Any, names: Any, offsets: Any, ids: Any, limits: Any) -> Any:
    """Return (N + 1,) offsets and ids of the queries that drew each pair; keys and names are hashes."""
    chosen, ends, size = np.empty(len(ids), np.int32), np.zeros(len(offsets), np.int64), 0
    for row in range(len(keys)):
        for at in range(offsets[row], offsets[row + 1]):
            query = ids[at]
            if mixed(keys[row] ^ names[query]) <= limits[query]:
                chosen[size] = query
                size += 1
        ends[row + 1] = size
    return ends, chosen[:size].copy()


@njit(cache=True, nogil=True)
def _pick(keys: Any, names: Any, matches: Any, heads: Any, binned: Any) -> Any:
    """Return the queries and numbers of the matches whose number lies in its query's bin.

    `heads` (Q,) has the position of a query among the H above the cap, or -1; `binned`: (H, bins) counts, to
    which all numbers are added by their leading bits, and the (H,) bins that are asked for.
    """
    (offsets, ids), (counts, bins) = matches, binned
    owners, numbers, size = np.empty(len(ids), np.int32), np.empty(len(ids), np.uint64), 0
    for row in range(len(keys)):
        for at in range(offsets[row], offsets[row + 1]):
            head = heads[ids[at]]
            if head < 0:
                continue
            number = mixed(keys[row] ^ names[ids[at]])
            leading = np.int64(number >> BIN_SHIFT)
            counts[head, leading] += 1
            if leading == bins[head]:
                owners[size], numbers[size] = head, number
                size += 1
    return owners[:size].copy(), numbers[:size].copy()
