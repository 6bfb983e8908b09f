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
    shards = ShardSet.open(folder)
    # At equal distances through the set: chosen by nobody.
    rows = sorted({int(row) for row in np.linspace(0, len(shards) - 1, min(SHOWN_PAIRS, len(shards)))})
    pairs = [shards.pair(row) for row in rows]
    examples = [ImageExample(p.image, p.captions[0], note=p.captions[0]) for p in pairs]
    facts = (
        ("pairs", whole(card["pairs"])),
        ("kept of the candidates", percent(card["pairs"] / max(1, card["flow"][0]["in"]))),
        ("queries", f"{whole(card['balance']['queries_with_matches'])} of {whole(card['queries']['total'])}"),
        ("at most a query", whole(card["balance"]["cap"])),
        ("size", f"{number(card['bytes'])}B"),
        ("digest", card["digest"][:16]),
    )
    head = Header("data card", card["title"], card["summary"], facts, tuple(examples[:COVER_IMAGES]))
    after = {int(row[0]): int(row[1]) for row in card["balance"]["histogram"]["after"]}
    write_page(
        folder / "datacard.html",
        "datacard.html",
        head,
        card=card,
        examples=examples,
        sources=SOURCES,
        shares=_shares(card["balance"]["curve"]),
        histogram=[
            (edge, count, after.get(edge, 0)) for edge, count in card["balance"]["histogram"]["before"]
        ],
        licenses=card.get("licenses", card.get("licences", {})),
        left_out=[
            (
                f"{row['stage']}: {reason.replace('_', ' ')}",
                n,
                next(iter(row["examples"].get(reason, ())), ""),
            )
            for row in card["flow"]
            for reason, n in sorted(row["dropped"].items(), key=lambda item: -item[1])
        ],
        recipe=json.dumps(card["recipe"], indent=2, ensure_ascii=False),
    )


def _shares(curve: Mapping[str, Any]) -> Curve:
    steps = len(curve["before"])
    return Curve(
        "share of all matches, before",
        tuple(100 * (step + 1) / steps for step in range(steps)),
        tuple(curve["before"]),
        x_name="per cent of the queries with matches, rare ones first",
        beside=("after balancing", tuple(curve["after"])),
    )
