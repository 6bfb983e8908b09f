"""Write the HTML page of a curation's data card.

Reads: `datacard.json` and a few pairs. Writes: `datacard.html` beside it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core.files.json_objects import read_json
from diptych.core.records import Pair
from diptych.curate.pipeline.datacard import sample_pairs
from diptych.report.page import (
    COVER_IMAGES,
    Header,
    Html,
    ImageExample,
    Section,
    join,
    render_image,
    shortened,
    table,
    tag,
    titled,
    write_page,
)
from diptych.report.plots import Curve, curve_chart, interval_bar, number, percent, whole

SOURCES = {
    "words": "words of the corpus",
    "bigrams": "pairs of words",
    "titles": "titles of articles",
    "wordnet": "WordNet",
    "list": "a given list",
}

SHOWN_INPUTS = 40
DIGEST = 16
"""Characters of a digest on the page; the JSON has them all."""


def write_card(folder: Path) -> None:
    """Write `datacard.html` of a finished curation, from `datacard.json` and the first pairs."""
    card, pairs = read_json(folder / "datacard.json"), sample_pairs(folder)
    sections = [
        _flow(card), _grid(pairs), _balanced(card), _queries(card),
        _captions(card), _left_out(card), _origins(card), _recipe(card),
    ]  # fmt: skip
    write_page(folder / "datacard.html", _head(card, pairs), sections)


def _head(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Header:
    facts = (
        ("pairs", whole(card["pairs"])),
        ("kept of the candidates", percent(card["pairs"] / max(1, card["flow"][0]["in"]))),
        ("queries", f"{whole(card['balance']['queries_with_matches'])} of {whole(card['queries']['total'])}"),
        ("at most a query", whole(card["balance"]["cap"])),
        ("size", f"{number(card['bytes'])}B"),
        ("digest", card["digest"][:DIGEST]),
    )
    return Header(
        "data card", card["title"], card["summary"], facts, tuple(map(_image_example, pairs[:COVER_IMAGES]))
    )


def _flow(card: Mapping[str, Any]) -> Section:
    rows, top = [], max(1, *(row["in"] for row in card["flow"]))
    for row in card["flow"]:
        lost = row["in"] - row["out"]
        rows.append(
            tag(
                "div",
                tag("p", titled(row["stage"]), class_="prompt-name"),
                interval_bar(row["out"] / top, None),
                tag(
                    "p",
                    f"{whole(row['out'])} pairs",
                    tag("span", f" · {whole(lost)} left out", class_="quiet") if lost else Html(""),
                    class_="prompt-value",
                ),
                class_="prompt-row",
            )
        )
    words = tag(
        "p", "From candidate pairs to the finished set. Each bar is the number of pairs after a stage."
    )
    return Section("Pairs kept by each stage", words, join(*rows))


def _left_out(card: Mapping[str, Any]) -> Section | None:
    rows = [
        (
            f"{row['stage']}: {reason.replace('_', ' ')}",
            whole(count),
            tag("span", shortened(next(iter(row["examples"].get(reason, ())), "")), class_="quiet"),
        )
        for row in card["flow"]
        for reason, count in sorted(row["dropped"].items(), key=lambda item: -item[1])
    ]
    words = tag(
        "p", "Every pair that is not in the set is counted under one reason, with the first examples."
    )
    return Section("Left out", words, table(rows)) if rows else None


def _balanced(card: Mapping[str, Any]) -> Section | None:
    balance = card["balance"]
    if not balance["curve"]["before"]:
        return None
    steps = len(balance["curve"]["before"])
    curve = Curve(
        "share of all matches, before",
        tuple(100 * (step + 1) / steps for step in range(steps)),
        tuple(balance["curve"]["before"]),
        x_name="per cent of the queries with matches, rare ones first",
        beside=("after balancing", tuple(balance["curve"]["after"])),
    )
    rows = [(query, whole(before), whole(after)) for query, before, after in balance["largest"]]
    words = join(
        tag(
            "p",
            f"A query keeps about {whole(balance['cap'])} pairs. {whole(balance['queries_above_cap'])} of "
            f"{whole(balance['queries_with_matches'])} queries had more. Rare queries hold "
            f"{percent(balance['tail_share']['before'])} of all matches before and "
            f"{percent(balance['tail_share']['after'])} after.",
        ),
        tag(
            "p",
            "A pair drawn for one query also counts for its other queries, so some queries exceed the cap.",
        ),
    )
    after = {int(row[0]): int(row[1]) for row in balance["histogram"]["after"]}
    histogram = [
        (whole(edge), whole(count), whole(after.get(edge, 0)))
        for edge, count in balance["histogram"]["before"]
    ]
    content = join(
        curve_chart(curve, tall=True),
        tag("h3", "The most frequent queries"),
        table(rows, ("query", "before", "after")),
        tag("h3", "Queries by their number of matches"),
        table(histogram, ("matches from", "queries before", "after")),
    )
    return Section("Balance", words, content)


def _queries(card: Mapping[str, Any]) -> Section:
    queries = card["queries"]
    rows = [
        (
            titled(SOURCES.get(source, source)),
            whole(count),
            whole(queries["metaclip"][source]) if source in queries["metaclip"] else "–",
        )
        for source, count in queries["by_source"].items()
    ]
    words = tag(
        "p",
        "Queries that captions are matched against, by source. MetaCLIP's list of 500,000 stands beside it.",
    )
    return Section("Queries", words, table(rows, ("source", "here", "MetaCLIP")))


def _captions(card: Mapping[str, Any]) -> Section:
    captions = card["captions"]
    share = captions["words"] / captions["webtext_words"]
    rows = [
        ("captions", whole(captions["count"])),
        ("words", whole(captions["words"])),
        ("words per caption", str(captions["words_per_caption"])),
        ("longest caption in words", whole(captions["longest"])),
        ("share of WebText's words (GPT-2)", f"{100 * share:.2g} %"),
    ]
    words = tag("p", "The paper's set has about as many words as WebText, on which GPT-2 was trained.")
    return Section("Captions", words, table(rows))


def _origins(card: Mapping[str, Any]) -> Section:
    stated = [(name, whole(count)) for name, count in card.get("licenses", card.get("licences", {})).items()]
    asked = [(name.replace("_", " "), whole(count)) for name, count in card["opted_out"].items()]
    hosts = [(name, whole(count)) for name, count in list(card["hosts"]["largest"].items())[:10]]
    files = [
        (
            entry["name"],
            f"{number(entry['bytes'])}B",
            tag("span", entry["sha256"][:DIGEST], class_="quiet"),
        )
        for entry in card["inputs"][:SHOWN_INPUTS]
    ]
    words = tag(
        "p",
        "Licenses as the pages state them; images of sites that opted out of training are left out.",
    )
    parts = [
        tag("h3", "Licenses"),
        table(stated),
        tag("h3", "Left out because the site opted out"),
        table(asked),
    ]
    if hosts:
        parts += [tag("h3", f"Hosts ({whole(card['hosts']['count'])} in all)"), table(hosts)]
    if files:
        parts += [tag("h3", "Input files"), table(files)]
    return Section("Origin", words, join(*parts))


def _grid(pairs: Sequence[Pair]) -> Section | None:
    if not pairs:
        return None
    frames = [render_image(_image_example(pair)) for pair in pairs]
    words = tag("p", "Pairs at equal distances through the set.")
    return Section("Pairs", words, tag("div", *frames, class_="pairs"))


def _recipe(card: Mapping[str, Any]) -> Section:
    text = json.dumps(card["recipe"], indent=2, ensure_ascii=False)
    words = tag("p", "The same recipe and inputs give the same bytes on any machine.")
    return Section("Recipe", words, tag("pre", text, class_="scroll", tabindex="0"))


def _image_example(pair: Pair) -> ImageExample:
    return ImageExample(pair.image, pair.captions[0], note=pair.captions[0])
