"""The sections of a report, each from its data to its markup; a section without data is None.

A section is a leaf of two panels like the masthead: words on the left, pictures and numbers on the right.
"""

import math
from collections.abc import Sequence

import numpy as np

from diptych.core.records import Metric
from diptych.report.images import hung, mark, shortened
from diptych.report.markup import Html, join, tag
from diptych.report.page import Leaf, titled
from diptych.report.parts import (
    ClassCard,
    ClassStudy,
    Comparison,
    ImageQuery,
    PromptTable,
    TextQuery,
    Tile,
)
from diptych.report.plots import (
    SPACE,
    Curve,
    curve_chart,
    heat_map,
    interval_bar,
    number,
    percent,
    points,
    whole,
)

SHOWN_CLASSES = 20
"""Classes in the heat map: more cannot be read; with more, those with the most errors are shown."""

SHOWN_CONFUSIONS = 12
"""Mistakes in words: two columns of six."""


def headline(tiles: Sequence[Tile]) -> Leaf | None:
    """The numbers that matter, each with its interval."""
    if not tiles:
        return None
    shown = [
        tag(
            "div",
            tag("p", titled(tile.label), class_="label"),
            tag("p", _big(tile.metric.value), class_="value"),
            interval_bar(tile.metric.value, tile.metric.ci95),
            tag("p", _interval(tile.metric), class_="interval"),
            tag("p", tile.note, class_="note") if tile.note else Html(""),
            class_="tile",
        )
        for tile in tiles
    ]
    words = tag(
        "p",
        "Shares of all test items. The whisker on each bar spans the 95 % confidence interval of its number.",
    )
    return Leaf("In numbers", words, tag("div", *shown, class_="tiles"))


def learning(curves: Sequence[Curve]) -> Leaf | None:
    """The run over time: the first curve large, the others small."""
    if not curves:
        return None
    first, *others = curves
    words = tag(
        "p",
        "A model that knows nothing guesses among the N pairs of a batch, and its loss is ln N: "
        "the dashed line. What lies below it was learnt.",
    )
    small = (
        tag("div", *(curve_chart(curve) for curve in others), class_="small-curves") if others else Html("")
    )
    return Leaf("Learning", words, join(curve_chart(first, tall=True), small))


def prompts(tables: Sequence[PromptTable]) -> Leaf | None:
    """What the wording of the class names is worth."""
    tables = [table for table in tables if table.bars]
    if not tables:
        return None
    words = tag(
        "p",
        "The same pictures and the same model; only the sentences differ in which the class names are "
        "written. Gains are measured picture by picture against the first row, in percentage points with "
        "95 % intervals.",
    )
    shown = (join(_prompt_table(table), _verdict(table)) for table in tables)
    return Leaf("The gain of prompts", words, join(*shown))


def _verdict(table: PromptTable) -> Html:
    """Say whether the last prompts of a task beat the first, by intervals that do not overlap."""
    first, last = table.bars[0], table.bars[-1]
    if first is last or first.metric.ci95 is None or last.metric.ci95 is None:
        return Html("")
    (low, high), (last_low, last_high) = first.metric.ci95, last.metric.ci95
    ends = f"({percent(low)} to {percent(high)} against {percent(last_low)} to {percent(last_high)})"
    names = f"“{first.name}”", f"“{last.name}”"
    if last_low > high or last_high < low:
        word = "beats" if last_low > high else "is worse than"
        return tag("p", f"{names[1]} {word} {names[0]}: their intervals do not overlap {ends}.")
    return tag("p", f"{names[1]} does not clearly beat {names[0]}: their intervals overlap {ends}.")


def comparison(part: Comparison) -> Leaf:
    """The same task under several circumstances."""
    return Leaf(part.title, tag("p", part.words), _prompt_table(part.table))


def classes(study: ClassStudy) -> Leaf | None:
    """Where a zero-shot task goes right and wrong, class by class."""
    if not study.class_names:
        return None
    many = len(study.class_names) > SHOWN_CLASSES
    words = [
        tag(
            "p",
            f"{whole(int(study.confusion.sum()))} pictures among {len(study.class_names)} names. "
            "Each row of the table is a true class, each column an answer; ",
            tag("span", "right answers", class_="in-right"),
            " lie on the diagonal, ",
            tag("span", "wrong ones", class_="in-wrong"),
            " beside it.",
        )
    ]
    if many:
        words.append(tag("p", f"Shown are the {SHOWN_CLASSES} classes with the most errors."))
    content = [tag("h3", "Confusion"), _confusion(study), _confusions(study)]
    for title, cards in (("Best classes", study.best), ("Worst classes", study.worst)):
        if cards:
            content += [tag("h3", title), tag("div", *map(_class_card, cards), class_="cards")]
    return Leaf(f"{titled(study.task)}, class\u00a0by\u00a0class", join(*words), join(*content))


def retrieval(texts: Sequence[TextQuery], images: Sequence[ImageQuery]) -> Leaf | None:
    """Texts and what they found, pictures and what they found."""
    if not texts and not images:
        return None
    words = tag(
        "p",
        "Neither panel was told about the other: the text is embedded, the pictures are embedded, and "
        "the nearest ones are hung here, best first. A tick marks a right one.",
    )
    content: list[Html] = []
    if texts:
        content += [tag("h3", "From words to pictures"), *map(_text_query, texts)]
    if images:
        content += [
            tag("h3", "From pictures to words"),
            tag("div", *map(_image_query, images), class_="readings"),
        ]
    return Leaf("Asked in words", words, join(*content))


def all_numbers(
    metrics: Sequence[Metric], commands: Sequence[tuple[str, str]], *, shares: str = "Wilson"
) -> Leaf | None:
    """Every number of the run and the commands that made them; `shares` names the intervals of shares."""
    if not metrics and not commands:
        return None
    head = tag(
        "tr", *(tag("th", name, scope="col") for name in ("task", "measure", "value", "95 % interval", "n"))
    )
    rows = [
        tag(
            "tr",
            tag("td", metric.task),
            tag("td", metric.metric),
            tag("td", _plain(metric)),
            tag("td", _ends(metric)),
            tag("td", whole(metric.n)),
        )
        for metric in metrics
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="figures")
    again = [
        join(tag("p", titled(purpose), class_="label"), tag("pre", command)) for purpose, command in commands
    ]
    words = tag(
        "p",
        f"Accuracies and recalls carry {shares} intervals, means over classes a bootstrap over pictures, "
        "gains an interval for paired shares. A tie with a wrong answer counts as wrong.",
    )
    content = join(tag("div", table, class_="scroll", tabindex=0) if rows else Html(""), *again)
    return Leaf("Every number", words, content)


def _prompt_table(table: PromptTable) -> Html:
    ends = [bar.metric.ci95[1] if bar.metric.ci95 else bar.metric.value for bar in table.bars]
    finite = [end for end in ends if not math.isnan(end)]
    top = min(1.0, math.ceil(10 * max(finite, default=1.0)) / 10) or 1.0
    rows = []
    for bar in table.bars:
        gain = Html("")
        if bar.gain is not None:
            known = bar.gain.ci95
            ends_text = f" ({points(known[0])} to {points(known[1])})" if known else ""
            kind = (
                "gain" if known is None or known[0] > 0 else "gain unsure" if known[1] >= 0 else "gain loss"
            )
            gain = tag("span", tag("b", points(bar.gain.value)), ends_text, class_=kind)
        rows.append(
            tag(
                "div",
                tag("p", bar.name, class_="prompt-name"),
                tag("p", bar.example, class_="prompt-example") if bar.example else Html(""),
                interval_bar(bar.metric.value, bar.metric.ci95, top=top),
                tag("p", tag("b", percent(bar.metric.value)), " ", gain, class_="prompt-value"),
                class_="prompt-row",
            )
        )
    scale = tag("p", tag("span", "0"), tag("span", percent(top)), class_="scale", aria_hidden="true")
    return join(
        tag("h3", f"{titled(table.task)}: first guess right"), tag("div", *rows, scale, class_="prompt-table")
    )


def _confusion(study: ClassStudy) -> Html:
    """Draw all classes, or those with the most errors; answers outside the choice are added up as "other"."""
    matrix = study.confusion
    count = len(study.class_names)
    chosen = np.arange(count)
    if count > SHOWN_CLASSES:
        square = matrix[:, :count]
        errors = square.sum(axis=1) + square.sum(axis=0) - 2 * square.diagonal()
        chosen = np.sort(np.argsort(-errors, kind="stable")[:SHOWN_CLASSES])
    shown = matrix[np.ix_(chosen, chosen)]
    names = [study.class_names[c] for c in chosen]
    columns = list(names)
    for name, rest in (
        ("other", matrix[chosen, :count].sum(axis=1) - shown.sum(axis=1)[: len(chosen)]),
        ("no answer", matrix[chosen, count]),
    ):
        if rest.any():
            shown = np.column_stack([shown, rest])
            columns.append(name)
    return heat_map(shown, names, columns)


def _confusions(study: ClassStudy) -> Html:
    """List the commonest mistakes in words."""
    count = len(study.class_names)
    wrong = study.confusion[:, :count].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_CONFUSIONS]
    totals = study.confusion.sum(axis=1)
    items = []
    for cell in order:
        true, answer = divmod(int(cell), count)
        times = int(wrong[true, answer])
        if times:
            share = percent(times / int(totals[true]))
            names = (
                tag("b", study.class_names[true]),
                tag("span", " taken for ", class_="quiet"),
                tag("b", study.class_names[answer]),
            )
            items.append(tag("li", tag("span", *names), tag("span", f"{times} × · {share}", class_="quiet")))
    return join(tag("h3", "Commonest mistakes"), tag("ol", *items, class_="mistakes")) if items else Html("")


def _class_card(card: ClassCard) -> Html:
    share = card.right / card.count if card.count else math.nan
    return tag(
        "div",
        tag(
            "p",
            tag("b", card.name),
            tag("span", f"{card.right} of {card.count}", class_="quiet"),
            class_="card-head",
        ),
        interval_bar(share, None),
        tag("div", *map(hung, card.pictures), class_="strip"),
        class_="card",
    )


def _text_query(query: TextQuery) -> Html:
    return tag(
        "div",
        tag("blockquote", tag("p", shortened(query.text), dir="auto")),
        tag("div", *map(hung, query.found), class_="strip"),
        class_="query",
    )


def _image_query(query: ImageQuery) -> Html:
    lines = [
        tag("li", mark(right), tag("span", shortened(text), dir="auto"), class_="is-right" if right else "")
        for text, right in query.found
    ]
    return tag("div", hung(query.picture), tag("ol", *lines), class_="reading")


def _big(value: float) -> Html:
    if math.isnan(value):
        return tag("span", "–")
    return join(f"{100 * value:.1f}", tag("small", f"{SPACE}%"))


def _interval(metric: Metric) -> str:
    """Say the interval and the number of items in words."""
    ends = f"{percent(metric.ci95[0])} to {percent(metric.ci95[1])} · " if metric.ci95 else ""
    return f"{ends}n = {whole(metric.n)}"


def _plain(metric: Metric) -> str:
    """Write a value for the table: gains in points, counts as they are, shares as per cent."""
    if "gain" in metric.metric:
        return f"{points(metric.value)} points"
    return percent(metric.value) if metric.ci95 is not None else number(metric.value)


def _ends(metric: Metric) -> str:
    if metric.ci95 is None:
        return ""
    write = points if "gain" in metric.metric else percent
    return f"{write(metric.ci95[0])} to {write(metric.ci95[1])}"
