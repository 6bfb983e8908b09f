"""The data card as a page: for people who look rather than read.

Reads: the plain data of `datacard` and a few pairs. Writes: the file it is told to, see
`diptych.report.page`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core.files.json_objects import read_json
from diptych.core.records import Pair
from diptych.curate.pipeline.datacard import sample_pairs
from diptych.report.images import Picture, hung, shortened
from diptych.report.markup import Html, join, tag
from diptych.report.page import WALL, Leaf, Masthead, titled, write_page
from diptych.report.plots import Curve, curve_chart, interval_bar, number, percent, whole

SOURCES = {
    "words": "words of the corpus",
    "bigrams": "pairs of words",
    "titles": "titles that are read",
    "wordnet": "WordNet",
    "list": "a list of your own",
}

SHOWN_INPUTS = 40
DIGEST = 16
"""Characters of a digest on the page; the JSON has them all."""


def write_card(folder: Path) -> None:
    """Draw the page of a finished curation: `datacard.html`, from `datacard.json` and the first pairs."""
    card, pairs = read_json(folder / "datacard.json"), sample_pairs(folder)
    write_page(folder / "datacard.html", _head(card, pairs), [leaf(card, pairs) for leaf in _LEAVES])


def _head(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Masthead:
    facts = (
        ("pairs", whole(card["pairs"])),
        ("kept of the candidates", percent(card["pairs"] / max(1, card["flow"][0]["in"]))),
        ("queries", f"{whole(card['balance']['queries_with_matches'])} of {whole(card['queries']['total'])}"),
        ("at most a query", whole(card["balance"]["cap"])),
        ("size", f"{number(card['bytes'])}B"),
        ("digest", card["digest"][:DIGEST]),
    )
    return Masthead("data card", card["title"], card["summary"], facts, tuple(map(_picture, pairs[:WALL])))


def _flow(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Leaf:
    del pairs
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
    words = tag("p", "From candidate pairs to the finished set. Each bar is what a stage passed on.")
    return Leaf("The way of the pairs", words, join(*rows))


def _left_out(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Leaf | None:
    del pairs
    rows = []
    for row in card["flow"]:
        for reason, count in sorted(row["dropped"].items(), key=lambda item: -item[1]):
            example = next(iter(row["examples"].get(reason, ())), "")
            rows.append(
                tag(
                    "tr",
                    tag("th", f"{row['stage']}: {reason.replace('_', ' ')}", scope="row"),
                    tag("td", whole(count)),
                    tag("td", shortened(example), class_="quiet"),
                )
            )
    words = tag(
        "p", "Every pair that is not in the set is counted under one reason, with the first examples."
    )
    return Leaf("Left out", words, _table(rows)) if rows else None


def _balanced(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Leaf | None:
    del pairs
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
    rows = [
        tag("tr", tag("th", query, scope="row"), tag("td", whole(before)), tag("td", whole(after)))
        for query, before, after in balance["largest"]
    ]
    words = join(
        tag(
            "p",
            f"A query keeps about {whole(balance['cap'])} pairs. {whole(balance['queries_above_cap'])} of "
            f"{whole(balance['queries_with_matches'])} queries had more. Rare queries hold "
            f"{percent(balance['tail_share']['before'])} of all matches before and "
            f"{percent(balance['tail_share']['after'])} after.",
        ),
        tag("p", "A pair that was drawn for one query still counts for its others: some pass the cap."),
    )
    heads = ("query", "before", "after")
    content = join(
        curve_chart(curve, tall=True),
        tag("h3", "The most frequent queries"),
        _table(rows, heads),
        tag("h3", "Queries by their number of matches"),
        _table(_histogram(balance["histogram"]), ("matches from", "queries before", "after")),
    )
    return Leaf("Balance", words, content)


def _histogram(histogram: Mapping[str, Sequence[Sequence[int]]]) -> list[Html]:
    after = {int(row[0]): int(row[1]) for row in histogram["after"]}
    return [
        tag(
            "tr",
            tag("th", whole(edge), scope="row"),
            tag("td", whole(count)),
            tag("td", whole(after.get(edge, 0))),
        )
        for edge, count in histogram["before"]
    ]


def _queries(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Leaf:
    del pairs
    queries = card["queries"]
    rows = [
        tag(
            "tr",
            tag("th", titled(SOURCES.get(source, source)), scope="row"),
            tag("td", whole(count)),
            tag("td", whole(queries["metaclip"][source]) if source in queries["metaclip"] else "–"),
        )
        for source, count in queries["by_source"].items()
    ]
    words = tag("p", "What was looked for in the texts. MetaCLIP's list of 500,000 stands beside it.")
    return Leaf("Queries", words, _table(rows, ("source", "here", "MetaCLIP")))


def _texts(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Leaf:
    del pairs
    captions = card["captions"]
    share = captions["words"] / captions["webtext_words"]
    rows = [
        _row("captions", whole(captions["count"])),
        _row("words", whole(captions["words"])),
        _row("words per caption", str(captions["words_per_caption"])),
        _row("longest caption in words", whole(captions["longest"])),
        _row("share of WebText's words (GPT-2)", f"{100 * share:.2g} %"),
    ]
    words = tag("p", "The paper's set has about as many words as WebText, on which GPT-2 was trained.")
    return Leaf("Words", words, _table(rows))


def _origins(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Leaf:
    del pairs
    stated = [_row(name, whole(count)) for name, count in card["licences"].items()]
    asked = [_row(name.replace("_", " "), whole(count)) for name, count in card["opted_out"].items()]
    hosts = [_row(name, whole(count)) for name, count in list(card["hosts"]["largest"].items())[:10]]
    files = [
        tag(
            "tr",
            tag("th", entry["name"], scope="row"),
            tag("td", f"{number(entry['bytes'])}B"),
            tag("td", entry["sha256"][:DIGEST], class_="quiet"),
        )
        for entry in card["inputs"][:SHOWN_INPUTS]
    ]
    words = tag(
        "p", "Licences as the pages state them; requests of sites not to be used for training, honoured."
    )
    parts = [
        tag("h3", "Licences"),
        _table(stated),
        tag("h3", "Left out because its site asked"),
        _table(asked),
    ]
    if hosts:
        parts += [tag("h3", f"Hosts ({whole(card['hosts']['count'])} in all)"), _table(hosts)]
    if files:
        parts += [tag("h3", "Read"), _table(files)]
    return Leaf("Where it comes from", words, join(*parts))


def _grid(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Leaf | None:
    del card
    if not pairs:
        return None
    frames = [hung(_picture(pair)) for pair in pairs]
    words = tag("p", "Pairs at equal distances through the set: nobody chose them.")
    return Leaf("Pairs", words, tag("div", *frames, class_="pairs"))


def _recipe(card: Mapping[str, Any], pairs: Sequence[Pair]) -> Leaf:
    del pairs
    text = json.dumps(card["recipe"], indent=2, ensure_ascii=False)
    words = tag("p", "With this recipe and these inputs, the same bytes come out on any machine.")
    return Leaf("Recipe", words, tag("pre", text, class_="scroll", tabindex="0"))


def _picture(pair: Pair) -> Picture:
    return Picture(pair.image, pair.captions[0], note=pair.captions[0])


def _row(name: str, value: str) -> Html:
    return tag("tr", tag("th", titled(name), scope="row"), tag("td", value))


def _table(rows: Sequence[Html], heads: Sequence[str] = ()) -> Html:
    head = tag("thead", tag("tr", *(tag("th", titled(name), scope="col") for name in heads)))
    return tag(
        "div",
        tag("table", head if heads else Html(""), tag("tbody", *rows), class_="figures"),
        class_="scroll",
    )


_LEAVES = (_flow, _grid, _balanced, _queries, _texts, _left_out, _origins, _recipe)
