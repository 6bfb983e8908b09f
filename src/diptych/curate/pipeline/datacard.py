"""The data card: what a curation took, dropped and kept, as plain data.

Everything is counted from the files of the stages; nothing of time or machine goes in, so that equal data
has an equal card.

Source: Gebru et al. 2021, "Datasheets for Datasets", for what is asked; Radford et al. 2021, section 2.2,
for the comparison of words with WebText; Xu et al. 2023, figure 1, for the curve over queries.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from diptych.core.checks import Ints
from diptych.core.manifest import FileEntry, content_digest, read_manifest
from diptych.core.records import Counts
from diptych.core.settings import to_mapping
from diptych.curate.pipeline.stages import Run, read_table
from diptych.curate.queries.queries import METACLIP
from diptych.curate.words import normalized
from diptych.data.shards.index import KIND as SHARDS_KIND
from diptych.data.shards.reader import ShardSet

# Of the text GPT-2 was trained on: 40 GB (Radford et al. 2019, section 2.1) at 5.7 bytes a word and space.
WEBTEXT_WORDS = 7_000_000_000

CURVE_POINTS = 200
SHOWN = 30  # queries, licenses and hosts

# The stages through which pairs pass.
FLOW = ("candidates", "filter", "match", "balance", "fetch", "fingerprint", "dedup", "shards")


def describe(run: Run) -> dict[str, Any]:
    """Return the card of a curation whose shards are written."""
    shards, rows = read_manifest(run.folder, SHARDS_KIND), flow(run)
    return {
        "title": run.recipe.card.title or "Image-text pairs",
        "summary": run.recipe.card.summary,
        "pairs": int(shards.extra["samples"]),
        "bytes": sum(entry.bytes for entry in shards.outputs),
        "digest": content_digest(shards),
        "flow": rows,
        **_queries_and_balance(run),
        **_contents(run.folder),
        "opted_out": {
            name: sum(int(row["dropped"].get(name, 0)) for row in rows) for name in ("robots", "opted_out")
        },
        "inputs": [asdict(entry) for entry in source_entries(run) if "/" not in entry.name or entry.bytes],
        "recipe": to_mapping(run.recipe),
    }


def flow(run: Run, names: Sequence[str] = FLOW) -> list[dict[str, Any]]:
    """Return for each stage how many pairs came in, went out and were dropped, by reason."""
    return [{"stage": name, **read_manifest(run.stage(name)).counts} for name in names]


def source_entries(run: Run) -> tuple[FileEntry, ...]:
    """Return the files from outside that queries and candidates were made from."""
    return tuple(
        entry for name in ("queries", "candidates") for entry in read_manifest(run.stage(name)).inputs
    )


def cumulative(counts: Ints, order: Ints, points: int = CURVE_POINTS) -> list[float]:
    """Return the share of all matches that the rarest queries hold, at equal steps through the queries.

    Args:
        counts: (Q,) matches per query.
        order: queries that have matches, from rare to frequent.
        points: steps.

    >>> cumulative(np.array([1, 1, 2]), np.array([0, 1, 2]), points=3)
    [0.25, 0.5, 1.0]
    """
    if not counts.sum():
        return []
    running = np.cumsum(counts[order]) / counts.sum()
    positions = np.ceil(np.arange(1, points + 1) * len(order) / points).astype(int) - 1
    return [round(float(share), 6) for share in running[positions]]


def _queries_and_balance(run: Run) -> dict[str, Any]:
    """Describe the queries, and what balancing did: head and tail, the curve over queries, the largest."""
    table = read_table(run.stage("queries") / "queries.parquet", ["query", "source"])
    cap = run.recipe.balance.cap
    before, after = (run.array("balance", name) for name in ("before", "after"))
    order = np.argsort(before, kind="stable")
    matched, head = order[before[order] > 0], before > cap
    largest = [q for q in order[::-1][:SHOWN].tolist() if before[q]]
    both = {"before": before, "after": after}
    balance = {
        "cap": cap,
        "queries_with_matches": int((before > 0).sum()),
        "queries_above_cap": int(head.sum()),
        "matches": {name: int(counts.sum()) for name, counts in both.items()},
        "tail_share": {
            name: round(float(counts[~head].sum() / max(1, counts.sum())), 6) for name, counts in both.items()
        },
        "curve": {name: cumulative(counts, matched) for name, counts in both.items()},
        "largest": [[table["query"][q].as_py(), int(before[q]), int(after[q])] for q in largest],
        "histogram": {name: _histogram(counts) for name, counts in both.items()},
    }
    by_source = dict(sorted(Counter(table["source"].to_pylist()).items()))
    return {
        "queries": {"total": table.num_rows, "by_source": by_source, "metaclip": METACLIP},
        "balance": balance,
    }


def _histogram(counts: Ints) -> list[list[int]]:
    """Count the queries by their number of matches: [from, queries] for 1, 2, 5, 10, 20, 50 …"""
    edges = [0, *(factor * 10**power for power in range(8) for factor in (1, 2, 5))]
    queries, _ = np.histogram(counts, [*edges, np.inf])
    last = int(np.flatnonzero(queries)[-1]) if queries.any() else 0
    return [[edges[step], int(queries[step])] for step in range(last + 1)]


def _contents(folder: Path) -> dict[str, Any]:
    """Read the finished set once: words of the captions, licenses, hosts."""
    lengths: list[int] = []
    licenses: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    for pair in ShardSet.open(folder).pairs(Counts()):
        lengths += [len(normalized(text).split()) for text in pair.captions]
        licenses[str(pair.fields.get("license") or "not stated")] += 1
        hosts[_host(str(pair.fields.get("url") or pair.fields.get("page") or ""))] += 1
    words = np.array(lengths, np.int64)
    return {
        "captions": {
            "count": len(words),
            "words": int(words.sum()),
            "webtext_words": WEBTEXT_WORDS,
            "words_per_caption": round(float(words.mean()), 2) if len(words) else 0.0,
            "longest": int(words.max(initial=0)),
        },
        "licenses": _most(licenses),
        "hosts": {"count": len(hosts.keys() - {""}), "largest": _most(hosts)},
    }


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _most(counts: Counter[str]) -> dict[str, int]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {name: count for name, count in ordered[:SHOWN] if name}
