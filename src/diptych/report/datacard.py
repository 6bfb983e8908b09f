"""Write `datacard.html` of a finished curation, from its `datacard.json` and a few pairs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.files.reading import read_json
from diptych.data.shards.reader import ShardSet
from diptych.report.data import Curve, ImageExample
from diptych.report.page import COVER_IMAGES, Header, write_page
from diptych.report.plots import number, percent, whole

SHOWN_PAIRS = 36

SOURCES = {
    "words": "words of the corpus",
    "bigrams": "pairs of words",
    "titles": "titles of articles",
    "wordnet": "WordNet",
    "list": "a given list",
}


def write_card(folder: Path) -> None:
    """Write the page beside the JSON."""
    card = read_json(folder / "datacard.json")
    shards, balance = ShardSet.open(folder), card["balance"]
    # At equal distances through the set: chosen by nobody.
    rows = sorted({int(row) for row in np.linspace(0, len(shards) - 1, min(SHOWN_PAIRS, len(shards)))})
    pairs = [shards.pair(row) for row in rows]
    examples = [ImageExample(p.image, p.captions[0], note=p.captions[0]) for p in pairs]
    facts = (
        ("pairs", whole(card["pairs"])),
        ("kept of the candidates", percent(card["pairs"] / max(1, card["flow"][0]["in"]))),
        ("queries", f"{whole(balance['queries_with_matches'])} of {whole(card['queries']['total'])}"),
        ("at most a query", whole(balance["cap"])),
        ("size", f"{number(card['bytes'])}B"),
        ("digest", card["digest"][:16]),
    )
    after = {int(row[0]): int(row[1]) for row in balance["histogram"]["after"]}
    left_out = []
    for row in card["flow"]:
        for reason, count in sorted(row["dropped"].items(), key=lambda item: -item[1]):
            example = next(iter(row["examples"].get(reason, ())), "")
            left_out.append((f"{row['stage']}: {reason.replace('_', ' ')}", count, example))
    write_page(
        folder / "datacard.html",
        "datacard.html",
        Header("data card", card["title"], card["summary"], facts, tuple(examples[:COVER_IMAGES])),
        card=card,
        examples=examples,
        sources=SOURCES,
        shares=_shares(balance["curve"]),
        histogram=[(edge, count, after.get(edge, 0)) for edge, count in balance["histogram"]["before"]],
        licenses=card.get("licenses", card.get("licences", {})),
        left_out=left_out,
        recipe=json.dumps(card["recipe"], indent=2, ensure_ascii=False),
    )


def _shares(curve: Mapping[str, Any]) -> Curve:
    steps = len(curve["before"])
    x = tuple(100 * (step + 1) / steps for step in range(steps))
    x_name, beside = (
        "per cent of the queries with matches, rare ones first",
        ("after balancing", tuple(curve["after"])),
    )
    return Curve("share of all matches, before", x, tuple(curve["before"]), x_name, beside=beside)
