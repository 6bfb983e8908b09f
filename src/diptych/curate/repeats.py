"""What comes again: keys that were met before, captions that stand on too many sites.

Keys and captions are compared by 64-bit hashes over all tables of candidates: sixteen bytes of memory a pair
for each. (Of a billion different keys one pair in forty such runs would share a hash and be lost.)

Reads: tables of candidates, one after the other. Writes: `doubles.npy`, `frequent.npy`, `starts.npy`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.core.records import Counts, Reason
from diptych.curate.balance_kernels import row_hashes
from diptych.curate.words import normalized_column, text_buffers
from diptych.data.arrays import load_array, save_array

Hashes = NDArray[np.uint64]
SEED = np.uint64(0)
_NAMES = ("doubles", "frequent", "starts")


@dataclass(frozen=True, slots=True)
class Repeats:
    """What was found to repeat.

    Attributes:
        doubles: rows, counted over all units, whose key an earlier row has; ascending.
        frequent: hashes of the captions that stand on too many sites; ascending.
        starts: (U,) first row of each unit.
    """

    doubles: NDArray[np.int64]
    frequent: Hashes
    starts: NDArray[np.int64]

    def first_of_its_key(self, table: pa.Table, unit: int, counts: Counts) -> NDArray[np.bool_]:
        """Return (N,) bool: rows of a unit whose key was not met before; the others are counted."""
        start = int(self.starts[unit])
        low, high = np.searchsorted(self.doubles, [start, start + table.num_rows])
        keep = np.ones(table.num_rows, bool)
        keep[self.doubles[low:high] - start] = False
        for row in np.flatnonzero(~keep):
            counts.drop(Reason.DUPLICATE_KEY, table["key"][int(row)].as_py())
        return keep

    def too_often(self, table: pa.Table) -> NDArray[np.bool_]:
        """Return (N,) bool: rows whose caption stands on too many sites."""
        return np.isin(caption_hashes(table), self.frequent)

    def save(self, folder: Path) -> None:
        """Write the arrays durably."""
        for name in _NAMES:
            save_array(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> "Repeats":
        """Map what `save` wrote."""
        return cls(*(load_array(folder / f"{name}.npy") for name in _NAMES))


def find_repeats(units: Iterable[pa.Table], max_sites: int) -> Repeats:
    """Look through all candidates once.

    Args:
        units: the tables, with key, caption, url and page.
        max_sites: a caption on more sites than this says nothing about its picture; 0 for no limit. A pair
            without an address is a site by itself.
    """
    keys: list[Hashes] = []
    captions: list[Hashes] = []
    sites: list[Hashes] = []
    for number, table in enumerate(units):
        keys.append(row_hashes(*text_buffers(table["key"]), SEED))
        if max_sites:
            captions.append(caption_hashes(table))
            sites.append(_sites(table, number))
    starts = np.cumsum([0, *(len(part) for part in keys)], dtype=np.int64)[:-1]
    frequent = _frequent(_joined(captions), _joined(sites), max_sites)
    return Repeats(_again(_joined(keys)), frequent, starts)


def caption_hashes(table: pa.Table) -> Hashes:
    """Return (N,) hashes of the captions' words."""
    hashes: Hashes = row_hashes(*normalized_column(table["caption"]), SEED)
    return hashes


def _again(hashes: Hashes) -> NDArray[np.int64]:
    """Return the rows whose hash an earlier row has, ascending."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    return np.sort(order[same]).astype(np.int64)


def _frequent(captions: Hashes, sites: Hashes, most: int) -> Hashes:
    if not len(captions):
        return np.zeros(0, np.uint64)
    both = np.unique(np.stack([captions, sites], axis=1), axis=0)
    found, count = np.unique(both[:, 0], return_counts=True)
    return found[count > most]


def _sites(table: pa.Table, number: int) -> Hashes:
    """Return (N,) hashes of the pages' hosts, or of the pictures' where no page is known."""
    hosts = []
    for row, (page, url) in enumerate(zip(table["page"].to_pylist(), table["url"].to_pylist(), strict=True)):
        hosts.append(host_of(page) or host_of(url) or f"{number} {row}")
    hashes: Hashes = row_hashes(*text_buffers(pa.array(hosts)), SEED)
    return hashes


def host_of(address: str | None) -> str:
    """Return the host of an address; empty where there is none.

    >>> host_of("https://Example.org:8080/a"), host_of(None), host_of("nonsense")
    ('example.org', '', '')
    """
    try:
        return (urlsplit(address).hostname or "") if address else ""
    except ValueError:
        return ""


def _joined(parts: list[Hashes]) -> Hashes:
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)
