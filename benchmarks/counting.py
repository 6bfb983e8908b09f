"""Megabytes of text a second whose words and pairs of words are counted on one core, beside plain Python.

The peer is `collections.Counter` over `str.lower().split()`, words and pairs, which splits less well but is
what one would write. Rounds alternate; processor seconds
are what is told, so that a busy machine does not measure its other users. Before, all counts of ours are
compared with a brute force that splits as we do.

    python benchmarks/counting.py [--data FOLDER] [--megabytes 60] [--rounds 5] [--quick] [--json FILE]

Reads: the captions of `inputs.py` and, under `--data`, the definitions of `text/oewn_synsets.tsv`, shuffled
and repeated. A repeated text would have nothing new in it, so in each copy one word of a text is made a new
one.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import time
from collections import Counter
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
from contest import Rows, machine, options_of, ratio, write_result
from inputs import add_data, captions, described

from diptych.curate.queries.counting import CountingSettings, count_part
from diptych.curate.words import normalized

BATCH_TEXTS = 40_000
SEED = 2021
CAPTIONS = 25_000


def given_texts(data: Path | None) -> list[str]:
    """Return the captions and, of the real data, the definitions of WordNet, shuffled."""
    texts = captions(data, CAPTIONS)
    if data:
        rows = (Path(data) / "text" / "oewn_synsets.tsv").read_text(encoding="utf-8").splitlines()[1:]
        texts += [row.split("\t")[4] for row in rows]
    random.Random(SEED).shuffle(texts)
    return texts


def repeated(texts: list[str], megabytes: int) -> list[str]:
    """Return copies of the texts; in each, one word of a text is made a new one."""
    rng = random.Random(SEED)
    found: list[str] = []
    size, copy = 0, 0
    while size < megabytes * 1e6:
        for text in texts:
            words = text.split(" ")
            if copy and len(words) > 3:
                words[rng.randrange(len(words))] += str(copy)
            found.append(" ".join(words))
            size += len(found[-1].encode())
        copy += 1
    return found


def count_ours(batches: list[pa.Array], *, pairs: bool) -> int:
    runs: list[pa.Table] = []
    count_part(batches, lambda _, table: runs.append(table), CountingSettings(pairs=pairs))
    return sum(table.num_rows for table in runs)


def count_python(texts: list[str], *, pairs: bool) -> int:
    words: Counter[str] = Counter()
    couples: Counter[tuple[str, str]] = Counter()
    for text in texts:
        found = text.lower().split()
        words.update(found)
        if pairs:
            couples.update(pairwise(found))
    return len(words) + len(couples)


def timed(name: str, texts: list[str], batches: list[pa.Array], pairs: bool) -> float:
    """Return the processor seconds that one contestant takes."""
    start = time.process_time()
    if name == "diptych":
        count_ours(batches, pairs=pairs)
    else:
        count_python(texts, pairs=pairs)
    return time.process_time() - start


def compared(texts: list[str]) -> dict:
    """Count everything with brute force; return how many counts differ."""
    words, couples = Counter(), Counter()
    for text in texts:
        found = normalized(text).split(" ") if normalized(text) else []
        words.update(found)
        couples.update(" ".join(pair) for pair in pairwise(found))
    ours: dict[str, Counter] = {"words": Counter(), "pairs": Counter()}

    def write(name: str, table: pa.Table) -> None:
        ours[name.split("-")[1]].update(dict(zip(*table.to_pydict().values(), strict=True)))

    count_part([pa.array(texts)], write, CountingSettings(memory_bytes=4 << 20))
    different = sum((words - ours["words"]).values()) + sum((ours["words"] - words).values())
    different += sum((couples - ours["pairs"]).values()) + sum((ours["pairs"] - couples).values())
    return {"words": len(words), "pairs": len(couples), "different": different}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data(parser)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write; standard output has it too")
    options = options_of(parser, megabytes=10, rounds=2)
    pa.set_cpu_count(1)
    real = given_texts(options.data)
    texts = repeated(real, options.megabytes)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    batches = [pa.array(texts[at : at + BATCH_TEXTS]) for at in range(0, len(texts), BATCH_TEXTS)]
    count_ours(batches[:1], pairs=True)  # compiles, or loads what was compiled
    rows, shown = {}, Rows(2)
    for what, pairs in (("words", False), ("words_and_pairs", True)):
        rates: dict[str, list[float]] = {name: [] for name in ("diptych", "python")}
        for _ in range(options.rounds):
            for name in rates:
                seconds = timed(name, texts, batches, pairs)
                rates[name].append(megabytes / seconds)
        rows[what] = {
            "megabytes_per_core_second": {
                name: round(statistics.median(one), 1) for name, one in rates.items()
            },
            "times_the_peer": ratio(rates["diptych"], rates["python"]),
            "rounds": {name: [round(rate, 1) for rate in one] for name, one in rates.items()},
        }
        shown.show(what, rows[what])
    result = {
        "benchmark": "counting",
        "machine": machine(),
        "measured_on": described(options.data),
        "versions": {name: version(name) for name in ("diptych", "numba", "pyarrow", "numpy")},
        "megabytes": round(megabytes, 1),
        "brute_force": compared(real),
        "rows": rows,
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }
    write_result(result, options.json)


if __name__ == "__main__":
    main()
