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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.core.checks import Bools, Ints
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
    names, limits = _hashes(queries, settings.seed + 1), np.full(len(counts), ALL)
    head = np.flatnonzero(counts > settings.cap)
    if settings.mode == "exact" and len(head):
        limits[head] = _exact_limits(names, head, settings, parts)
    else:
        # Of 2^64 numbers, cap / count are drawn: in whole numbers, for floats end at 53 bits.
        limits[head] = [(settings.cap * 2**64) // int(count) - 1 for count in counts[head]]
    return Plan(names, limits, settings.seed)


def balance_partition(keys: Keys, matches: Matches, plan: Plan) -> tuple[Bools, Matches]:
    """Draw the pairs of a partition; return (N,) which are kept, and the queries for which each was drawn.

    >>> plan = make_plan(pa.array(["dog"]), np.array([2]), BalanceSettings(cap=2))
    >>> matches = Matches(np.array([0, 1, 1]), np.array([0], np.int32))
    >>> keep, drawn = balance_partition(pa.array(["a", "b"]), matches, plan)
    >>> keep.tolist(), drawn.ids.tolist()
    ([True, False], [0])
    """
    hashes = _hashes(keys, plan.seed)
    drawn = Matches(*_draw(hashes, plan.names, matches.offsets, matches.ids, plan.limits))
    return np.diff(drawn.offsets) > 0, drawn


def _hashes(texts: Keys, seed: int) -> Hashes:
    hashes: Hashes = row_hashes(*text_buffers(texts), np.uint64(seed))
    return hashes


def _exact_limits(
    names: Hashes, head: Ints, settings: BalanceSettings, parts: Callable[[], Iterable[Part]]
) -> Hashes:
    """Return the cap-th smallest number of each frequent query: first find its bin, then itself."""
    heads, rows = np.full(len(names), -1, np.int32), np.arange(len(head))
    heads[head] = rows

    def numbers_of_heads() -> Iterator[tuple[Ints, Hashes, Ints]]:
        """Yield the query's row in `head`, the number and the number's bin of the matches of each part."""
        for keys, matches in parts():
            hashes = _hashes(keys, settings.seed)
            owners, numbers = _numbers(hashes, names, matches.offsets, matches.ids, heads)
            yield owners, numbers, (numbers >> BIN_SHIFT).astype(np.int64)

    counts = np.zeros((len(head), 1 << BIN_BITS), np.int64)
    for owners, _, bins in numbers_of_heads():
        np.add.at(counts.reshape(-1), owners << BIN_BITS | bins, 1)
    up_to = np.cumsum(counts, axis=1)
    wanted = (up_to < settings.cap).sum(axis=1)
    picked = [
        (owners[bins == wanted[owners]], numbers[bins == wanted[owners]])
        for owners, numbers, bins in numbers_of_heads()
    ]
    owners, numbers = map(np.concatenate, zip(*picked, strict=True))
    order = np.lexsort((numbers, owners))
    before = up_to[rows, wanted] - counts[rows, wanted]
    limits: Hashes = numbers[order][np.searchsorted(owners[order], rows) + settings.cap - 1 - before]
    return limits


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
def _numbers(keys: Any, names: Any, offsets: Any, ids: Any, heads: Any) -> Any:
    """Return the rows of queries and the numbers of all matches whose query has a row in `heads` (Q,)."""
    owners, numbers, size = np.empty(len(ids), np.int64), np.empty(len(ids), np.uint64), 0
    for row in range(len(keys)):
        for at in range(offsets[row], offsets[row + 1]):
            head = heads[ids[at]]
            if head >= 0:
                owners[size], numbers[size] = head, mixed(keys[row] ^ names[ids[at]])
                size += 1
    return owners[:size], numbers[:size]
