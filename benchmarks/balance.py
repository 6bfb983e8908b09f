"""Seconds and memory to balance 100 million matches, beside the draws of MetaCLIP in plain Python.

    python benchmarks/balance.py [--matches 100000000] [--cap 20000] [--quick] [--json FILE]

Matches are made up partition by partition: 500,000 queries by Zipf's law, 4 a pair, keys like addresses. Time
is that of all passes over them without making them up: counting, for mode "exact" finding the limits (two
passes), and drawing. The peak is that of the process, with one partition in memory. The plain loop draws for
every query of a pair with `random() < probability` until one is drawn, which is MetaCLIP's way; it does one
partition and is scaled to all.

Writes: JSON to standard output, and to --json.
"""

import argparse
import random
import resource
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from contest import Rows, machine, options_of, write_result

from diptych.curate.match.balance import BalanceSettings, balance_partition, make_plan
from diptych.curate.match.match import Matches

QUERIES, PER_PAIR, PAIRS = 500_000, 4, 250_000


def partition(number: int) -> tuple[pa.Array, Matches]:
    """Make up the keys and matches of a partition, the same ones each time."""
    rng = np.random.default_rng(number)
    ranks = np.exp(rng.random((PAIRS, PER_PAIR)) * np.log(QUERIES / PER_PAIR)).astype(np.int32) - 1
    ids = ranks * PER_PAIR + np.arange(PER_PAIR, dtype=np.int32)  # no query twice in a pair
    numbers = pa.array(np.arange(number * PAIRS, (number + 1) * PAIRS)).cast(pa.string())
    keys = pc.binary_join_element_wise("https://images.example.org/photo/", numbers, "")
    return keys, Matches(np.arange(0, ids.size + 1, PER_PAIR), np.sort(ids, axis=1).reshape(-1))


class Partitions:
    """All partitions, and the seconds that were spent on making them up."""

    def __init__(self, count: int) -> None:
        self.count, self.seconds = count, 0.0

    def __call__(self):
        """Yield each partition."""
        for number in range(self.count):
            start = time.perf_counter()
            part = partition(number)
            self.seconds += time.perf_counter() - start
            yield part


def balance(mode: str, cap: int, count: int) -> dict:
    """Balance all partitions; return seconds and what was drawn."""
    settings = BalanceSettings(cap=cap, mode=mode)  # type: ignore[arg-type]
    queries = pa.array([f"query {number}" for number in range(QUERIES)])
    parts = Partitions(count)
    counts, drawn, kept = np.zeros(QUERIES, np.int64), np.zeros(QUERIES, np.int64), 0
    start = time.perf_counter()
    for _, matches in parts():
        counts += np.bincount(matches.ids, minlength=QUERIES)
    plan = make_plan(queries, counts, settings, parts=parts)
    for keys, matches in parts():
        keep, chosen = balance_partition(keys, matches, plan)
        kept += int(keep.sum())
        drawn += np.bincount(chosen.ids, minlength=QUERIES)
    seconds = time.perf_counter() - start - parts.seconds
    assert (drawn[counts <= cap] == counts[counts <= cap]).all()
    assert mode == "independent" or drawn.max() <= cap
    return {
        "seconds": seconds,
        "million_matches_per_second": counts.sum() / seconds / 1e6,
        "queries_above_cap": int((counts > cap).sum()),
        "most_drawn": int(drawn.max()),
        "pairs": count * PAIRS,
        "pairs_kept": kept,
    }


def plain_loop(cap: int, count: int) -> dict:
    """Count and draw one partition in plain Python; return seconds for all partitions."""
    _, matches = partition(0)
    lists = matches.ids.reshape(-1, PER_PAIR).tolist()
    start = time.perf_counter()
    counts: dict[int, int] = {}
    for ids in lists:
        for one in ids:
            counts[one] = counts.get(one, 0) + 1
    chances = {one: min(1.0, cap / (count * found)) for one, found in counts.items()}
    kept = sum(any(random.random() < chances[one] for one in ids) for ids in lists)
    return {"seconds": (time.perf_counter() - start) * count, "pairs_kept": kept * count}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--matches", type=int, default=100_000_000)
    parser.add_argument("--cap", type=int, default=20_000)
    parser.add_argument("--json", type=Path, help="file to write; standard output has it too")
    options = options_of(parser, matches=4_000_000, cap=800)
    count = max(1, options.matches // (PAIRS * PER_PAIR))
    for mode in ("independent", "exact"):
        balance(mode, 10, 1)  # compiles, or loads what was compiled
    results, shown = {}, Rows(3)
    for mode in ("independent", "exact"):
        results[mode] = balance(mode, options.cap, count)
        shown.show(mode, results[mode])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    plain = plain_loop(options.cap, count)
    shown.show("plain loop", plain)
    report = {
        "benchmark": "balance",
        "machine": machine(),
        "versions": {name: version(name) for name in ("numpy", "numba", "pyarrow")},
        "matches": count * PAIRS * PER_PAIR,
        "results": results,
        "peak_megabytes": peak,
        "plain_loop": plain,
    }
    write_result(report, options.json)


if __name__ == "__main__":
    main()
