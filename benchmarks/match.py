"""Captions a second against 500,000 queries, beside MetaCLIP's Aho-Corasick (pyahocorasick with its rule).

    python benchmarks/match.py --peer-python PEERS/bin/python [--data FOLDER]
        [--rounds 5] [--quick] [--json FILE]

Queries, of the real data: the lemmas of Open English WordNet, the 1- and 2-gram lists, and bi- and tri-grams
of the captions and of WordNet's definitions, the most frequent first, until there are 500,000. Captions: COCO
val2017 and the fashion titles.

The peer matches them twice: as they are, beside our rule "metaclip"; and with their case folded and without
marks, so that it finds what our rule "words" finds in them as they are. Matches are compared, speeds too:
captions a second of processor time (one core) and of wall time. Every contender is a process of its own;
rounds alternate between them, medians are told. "megabytes" is what a process grew by as it built its index.

Without --data, runs of one to four words of the made captions. The peer's interpreter needs pyahocorasick;
without it only ours is measured.
Reads: `inputs.py`; `text/` and `fashion/` under --data. Writes: JSON to standard output, and to --json.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from contest import Contestant, Rows, answer_questions, machine, missing, options_of, skip, write_result
from inputs import add_data, captions, described

QUERIES = 500_000
CAPTIONS = 25_014
PEERS = {"words": "pyahocorasick, plain captions", "metaclip": "pyahocorasick"}
MARKS = (",", ".", ";", ":", "?", "!", "`")


def given_texts(data: Path | None) -> tuple[list[str], list[str]]:
    """Return the queries and the captions."""
    texts, wanted, definitions = captions(data, CAPTIONS), list[str](), list[str]()
    if data:
        import pyarrow.parquet as pq

        for name in ("train", "test"):
            texts += pq.read_table(data / "fashion" / f"{name}.parquet")["caption"].to_pylist()
        with (data / "text" / "oewn_synsets.tsv").open(encoding="utf-8") as file:
            synsets = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        wanted = [lemma.replace("_", " ") for synset in synsets for lemma in synset["members"].split(",")]
        definitions = [synset["definition"] for synset in synsets]
        for name in ("1grams_english.csv", "2grams_english.csv"):
            with (data / "text" / name).open(encoding="utf-8") as file:
                wanted += [row["ngram"] for row in csv.DictReader(file)]
    grams, sizes = Counter[str](), (2, 3) if data else (1, 2, 3, 4)
    for text in [*texts, *definitions]:
        words = plain(text).split()
        grams.update(" ".join(words[at : at + n]) for n in sizes for at in range(len(words) - n + 1))
    wanted += [gram for gram, _ in grams.most_common(QUERIES)]
    return list(dict.fromkeys(filter(None, map(plain, wanted))))[:QUERIES], texts


def plain(text: str) -> str:
    """Return the words of a text in lower case, with one space between them."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def resident_bytes() -> int:
    """Return what this process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def digest(lists) -> str:
    """Return a hash of the sorted matches of every caption."""
    state = hashlib.sha256()
    for ids in lists:
        state.update((",".join(map(str, sorted(ids))) + "\n").encode())
    return state.hexdigest()


def peer_matcher(queries: list[str], captions: list[str]):
    """Build MetaCLIP's automaton; return what matches all captions, and what tells the matches."""
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for number, query in enumerate(queries):
        automaton.add_word(f" {query} ", number)
    automaton.make_automaton()

    def spaced(text: str) -> str:
        text = f" {text} "
        for mark in MARKS:
            text = text.replace(mark, f" {mark} ")
        return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")

    def match() -> list[list[int]]:
        return [list({number for _, number in automaton.iter(spaced(text))}) for text in captions]

    return match, lambda found: found


def our_matcher(rule: str, queries: list[str], captions: list[str]):
    """Build our index; return what matches all captions, and what tells the matches."""
    import pyarrow as pa

    from diptych.curate.match.match import MatchSettings, QueryIndex

    column, texts = pa.array(captions), pa.array(queries)
    index = QueryIndex.build(texts, MatchSettings(rule))  # type: ignore[arg-type]
    return lambda: index.match(column), lambda found: found.to_arrow().to_pylist()


def work(name: str, folder: Path) -> None:
    """Serve as a contestant: build once, then match as often as asked."""
    queries, texts = (json.loads((folder / part).read_text()) for part in ("queries.json", "captions.json"))
    if name == PEERS["words"]:
        texts = list(map(plain, texts))

    def build(queries: list[str], captions: list[str]):
        if name in PEERS.values():
            return peer_matcher(queries, captions)
        return our_matcher(name, queries, captions)

    build(queries[:9], texts[:9])[0]()  # compiles, or loads what was compiled
    ready = []

    def timed_build() -> dict:
        before, start = resident_bytes(), time.process_time()
        match, told = build(queries, texts)
        spent = {"build_seconds": time.process_time() - start, "megabytes": (resident_bytes() - before) / 1e6}
        ready.append(match)
        found = told(match())
        return spent | {"matches": sum(map(len, found)), "digest": digest(found)}

    def timed_match() -> dict:
        start, start_cpu = time.perf_counter(), time.process_time()
        ready[0]()
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}

    answer_questions({"build": timed_build, "match": timed_match})


def compare(pythons: dict[str, str], folder: Path, rounds: int) -> dict:
    """Measure all contenders, interleaved."""
    workers = {
        name: Contestant([python, __file__, "--worker", name, "--data", str(folder)])
        for name, python in pythons.items()
    }
    results = {name: worker.ask(do="build") for name, worker in workers.items()}
    taken: dict[str, list[dict]] = {name: [] for name in workers}
    shown = Rows(rounds * len(workers))
    for _ in range(rounds):
        for name, worker in workers.items():
            taken[name].append(worker.ask(do="match"))
            shown.show(name, f"{taken[name][-1]['cpu_seconds']:.2f} s of one core")
    for worker in workers.values():
        worker.close()
    captions = len(json.loads((folder / "captions.json").read_text()))
    for name, rows in taken.items():
        for unit, rate in (("cpu_seconds", "captions_per_core_second"), ("seconds", "captions_per_second")):
            results[name][rate] = captions / statistics.median(row[unit] for row in rows)
    for ours, theirs in PEERS.items():
        if theirs in taken:
            pairs = zip(taken[theirs], taken[ours], strict=True)
            ratios = [one["cpu_seconds"] / other["cpu_seconds"] for one, other in pairs]
            results[ours]["speed_up"] = statistics.median(ratios)
            results[ours]["same_matches"] = results[ours]["digest"] == results[theirs]["digest"]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write; standard output has it too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = options_of(parser, rounds=1)
    if options.worker:
        work(options.worker, options.data)
        return
    queries, texts = given_texts(options.data)
    pythons = dict.fromkeys(PEERS, sys.executable)
    reason = missing(options.peer_python, "ahocorasick")
    skipped = skip("pyahocorasick", reason) if reason else {}
    pythons |= {} if reason else dict.fromkeys(PEERS.values(), options.peer_python)
    with tempfile.TemporaryDirectory() as folder:
        for name, given in (("queries.json", queries), ("captions.json", texts)):
            (Path(folder) / name).write_text(json.dumps(given))
        results = compare(pythons, Path(folder), options.rounds)
    report = {
        "benchmark": "match",
        "machine": machine(),
        "versions": {name: version(name) for name in ("numpy", "numba", "pyarrow")},
        "queries": len(queries),
        "captions": len(texts),
        "measured_on": described(options.data),
        "skipped": skipped,
        "results": results,
    }
    write_result(report, options.json)


if __name__ == "__main__":
    main()
