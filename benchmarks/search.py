"""Exact search beside numpy, faiss and usearch: queries per second, recall, and the time to a first answer.

Rows are drawn around centers, as embeddings lie; queries are rows with noise. Recall is of the 10 nearest by
float32, over 64 queries. A filter leaves the first tenth, hundredth or thousandth of the rows: graph
indexes search for as many times more as it leaves out (1,000 at most), and what it forbids is dropped.

    python benchmarks/search.py --peer-python PYTHON [--rows 200000] [--rounds 5] [--quick] [--json FILE]

The peer's interpreter needs faiss and usearch; without them only numpy is compared, which a million rows take
a minute for; building the two graphs over so many takes half an hour.
Writes: JSON to standard output, and to the file of --json.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
from contest import (
    Contestant,
    Rows,
    answer_questions,
    machine,
    missing,
    options_of,
    skip,
    write_result,
)

HERE = Path(__file__).resolve()
WIDTH, K, QUERIES, BATCH = 512, 10, 64, 32
CENTERS = 2000
FILTERS = (0.1, 0.01, 0.001)
MOST = 1000  # hits that the graph index is asked for under a filter


def drawn(count: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (count, width) and queries (QUERIES, width) of unit length."""
    draw = np.random.default_rng(seed)
    centers = draw.standard_normal((CENTERS, width), np.float32)
    rows = np.empty((count, width), np.float32)
    for start in range(0, count, 100_000):
        size = min(100_000, count - start)
        part = centers[draw.integers(CENTERS, size=size)] + draw.standard_normal((size, width), np.float32)
        rows[start : start + size] = part / np.linalg.norm(part, axis=1, keepdims=True)
    queries = rows[draw.integers(count, size=QUERIES)] + 0.05 * draw.standard_normal(
        (QUERIES, width), np.float32
    )
    return rows, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def allowed(count: int, share: float) -> np.ndarray:
    return np.arange(round(share * count))


def timed(run: Any, queries: np.ndarray, size: int) -> tuple[float, list[list[int]]]:
    """Return queries per second, and the rows of each query's hits."""
    hits: list[list[int]] = []
    started = time.perf_counter()
    for start in range(0, len(queries), size):
        hits += run(queries[start : start + size])
    return len(queries) / (time.perf_counter() - started), hits


def sides(folder: Path) -> dict[str, Any]:
    """Return what answers queries, by name: (queries, rows allowed or None) -> rows of hits."""
    rows = np.load(folder / "rows.npy")

    def by_numpy(queries: np.ndarray, chosen: np.ndarray | None = None) -> list[list[int]]:
        table = rows if chosen is None else rows[chosen]
        scores = table @ queries.T
        best = np.argpartition(-scores, K, axis=0)[:K]
        order = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 0), axis=0), 0).T
        return (order if chosen is None else chosen[order]).tolist()

    return {"numpy": by_numpy}


def peer_side() -> None:
    import faiss
    import usearch
    from usearch.index import Index as Graph

    kept: dict[str, Any] = {}

    def build(folder: str) -> dict[str, str]:
        faiss.omp_set_num_threads(2)
        rows = np.load(Path(folder) / "rows.npy")
        flat = faiss.IndexFlatIP(rows.shape[1])
        flat.add(rows)
        graph = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        graph.add(rows)
        small = Graph(ndim=rows.shape[1], metric="ip", dtype="f32")
        small.add(np.arange(len(rows)), rows)

        def by_usearch(queries: np.ndarray, k: int) -> np.ndarray:
            return np.asarray(small.search(queries, k).keys).reshape(len(queries), -1)

        kept["faiss flat"] = lambda queries, k: flat.search(queries, k)[1]
        kept["faiss HNSW"] = lambda queries, k: graph.search(queries, k)[1]
        kept["usearch HNSW"] = by_usearch
        return {"faiss": faiss.__version__, "usearch": usearch.__version__}

    def run(name: str, folder: str, size: int, share: float) -> list[Any]:
        count = len(np.load(Path(folder) / "rows.npy", mmap_mode="r"))
        end, step = (round(share * count), round(1 / share)) if share else (count, 1)

        def search(queries: np.ndarray) -> list[list[int]]:
            hits = kept[name](queries, min(MOST, K * step)).tolist()
            return [[row for row in of_query if 0 <= row < end][:K] for of_query in hits]

        return [*timed(search, np.load(Path(folder) / "queries.npy"), size)]

    answer_questions({"build": build, "run": run})


def make_index(folder: Path) -> None:
    """Write the rows as an index of ours."""
    from diptych.search.index import MAX_ROWS, Change, Index
    from diptych.search.items import Item, Place

    rows = np.load(folder / "rows.npy", mmap_mode="r")
    stand: Any = SimpleNamespace(
        digest="benchmark",
        config=SimpleNamespace(embed_dim=rows.shape[1]),
        preprocess=SimpleNamespace(reading={"orientation": "upright", "scaled_jpeg": False}),
    )
    index = Index.create(folder / "index", stand, "benchmark")
    for start in range(0, len(rows), MAX_ROWS):
        part = rows[start : start + MAX_ROWS].astype(np.float16)
        items = [
            Item(f"{n}", (Place("rows", f"{n}"),), fields={"number": n})
            for n in range(start, start + len(part))
        ]
        index.commit(Change(items, part))


FIRST = """
import sys, time
from pathlib import Path
import numpy as np
started = time.perf_counter()
from diptych.search.index import Index
from diptych.search.scan import top_k
index = Index.open(sys.argv[1])
query = np.load(sys.argv[2])[:1]
for segment in index.segments:
    positions, scores = top_k(segment.coded, segment.read, query, 10)[0]
    list(segment.items.get(positions.tolist()))
print(time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter with faiss and usearch")
    parser.add_argument("--side", choices=("peer",), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write besides standard output")
    given = options_of(parser, rounds=3, rows=30_000)
    if given.side:
        peer_side()
        return
    with tempfile.TemporaryDirectory() as place:
        write_result(measured(given, Path(place)), given.json)


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from diptych.search.index import Index
    from diptych.search.query import Searcher

    rows, queries = drawn(given.rows, WIDTH, seed=0)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "queries.npy", queries)
    truth = sides(folder)["numpy"]
    make_index(folder)
    index = Index.open(folder / "index")
    searcher = Searcher.__new__(Searcher)  # of vectors: no model is asked
    searcher.index = index
    reason = missing(given.peer_python, "faiss", "usearch")
    peer = None if reason else Contestant([given.peer_python, str(HERE), "--side", "peer"])
    result: dict[str, Any] = {"benchmark": "search", "machine": machine(), "rows": given.rows, "width": WIDTH}
    result["skipped"] = skip("faiss and usearch", reason) if reason else {}
    if peer:
        result["versions"] = peer.ask(do="build", folder=str(folder))

    def ours(part: np.ndarray, where: str = "") -> list[list[int]]:
        chosen = searcher.chosen(where)
        hits = searcher.nearest(part, K, chosen)
        starts = np.cumsum([0, *(segment.rows for segment in index.segments)])
        return [[int(starts[number]) + row for number, row, _ in of_query] for of_query in hits]

    names = ["ours", "numpy", *(("faiss flat", "faiss HNSW", "usearch HNSW") if peer else ())]
    cases = {"one by one": (1, 0.0), f"batches of {BATCH}": (BATCH, 0.0)}
    cases |= {f"filter {share:.1%}": (1, share) for share in FILTERS}
    shown = Rows(len(cases) + 1)
    for case, (size, share) in cases.items():
        chosen = allowed(given.rows, share) if share else None
        where = f"number < {round(share * given.rows)}" if share else ""

        def asked(name: str, size=size, share=share, chosen=chosen, where=where) -> Any:  # type: ignore[no-untyped-def]
            if name == "ours":
                return timed(lambda part: ours(part, where), queries, size)
            if name == "numpy":
                return timed(lambda part: truth(part, chosen), queries, size)
            return peer.ask(do="run", name=name, folder=str(folder), size=size, share=share)

        asked_names = [name for name in names if not (share and name == "faiss flat")]
        result[case] = compared(asked, asked_names, truth(queries, chosen), given.rounds)
        shown.show(case, result[case])
    result["reopen and first query, seconds"] = first_query(folder, given.rounds)
    shown.show("reopen and first query", {"seconds": result["reopen and first query, seconds"]})
    return result


def compared(asked: Any, names: list[str], expected: list[list[int]], rounds: int) -> dict[str, Any]:
    """Ask the sides in turn; return the median rate and the recall of each."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    recall: dict[str, float] = {}
    for _ in range(rounds):
        for name in names:
            rate, hits = asked(name)
            rates[name].append(rate)
            same = [len({*a} & {*b}) / K for a, b in zip(hits, expected, strict=True)]
            recall[name] = round(sum(same) / len(same), 4)
    return {name: {"queries/s": round(median(rates[name]), 1), "recall@10": recall[name]} for name in names}


def first_query(folder: Path, rounds: int) -> float:
    import subprocess

    words = [sys.executable, "-c", FIRST, str(folder / "index"), str(folder / "queries.npy")]
    taken = [
        float(subprocess.run(words, capture_output=True, text=True, check=True).stdout) for _ in range(rounds)
    ]
    return round(median(taken), 3)


if __name__ == "__main__":
    main()
