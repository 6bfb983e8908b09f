"""Sections of a report, each from its data to its markup; a section without data is None."""

import math
from collections.abc import Sequence

import numpy as np

from diptych.core.records import Metric
from diptych.report.data import (
    ClassCard,
    ClassStudy,
    ImageQuery,
    PromptComparison,
    PromptTable,
    TextQuery,
    Tile,
)
from diptych.report.page import Html, Section, join, mark, render_image, shortened, table, tag, titled
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
"""Confusions in the list: two columns of six."""


def headline(tiles: Sequence[Tile]) -> Section | None:
    """Return the section of headline numbers, each with its interval."""
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
        "Shares of all test items. The whisker on each bar is the 95 % confidence interval.",
    )
    return Section("Headline numbers", words, tag("div", *shown, class_="tiles"))


def learning(curves: Sequence[Curve]) -> Section | None:
    """Return the section of training curves: the first curve large, the others small."""
    if not curves:
        return None
    first, *others = curves
    words = tag(
        "p",
        "The dashed line is ln N, the loss of a model that guesses at random among the N pairs of a batch.",
    )
    small = (
        tag("div", *(curve_chart(curve) for curve in others), class_="small-curves") if others else Html("")
    )
    return Section("Training curves", words, join(curve_chart(first, tall=True), small))


def prompts(tables: Sequence[PromptTable]) -> Section | None:
    """Return the section of prompt sets and their gains."""
    tables = [table for table in tables if table.bars]
    if not tables:
        return None
    words = tag(
        "p",
        "The same images and the same model; only the prompts differ. Gains are paired differences to the "
        "first row, in percentage points with 95 % intervals.",
    )
    shown = (join(_prompt_table(table), _comparison_of(table)) for table in tables)
    return Section("Prompts", words, join(*shown))


def _comparison_of(prompts: PromptTable) -> Html:
    """Return whether the last prompts of a task beat the first, by intervals that do not overlap."""
    first, last = prompts.bars[0], prompts.bars[-1]
    if first is last or first.metric.ci95 is None or last.metric.ci95 is None:
        return Html("")
    (low, high), (last_low, last_high) = first.metric.ci95, last.metric.ci95
    ends = f"({percent(low)} to {percent(high)} against {percent(last_low)} to {percent(last_high)})"
    names = f"“{first.name}”", f"“{last.name}”"
    if last_low > high or last_high < low:
        word = "beats" if last_low > high else "is worse than"
        return tag("p", f"{names[1]} {word} {names[0]}: their intervals do not overlap {ends}.")
    return tag("p", f"{names[1]} does not clearly beat {names[0]}: their intervals overlap {ends}.")


def comparison(part: PromptComparison) -> Section:
    """Return the section that compares several models on one task."""
    return Section(part.title, tag("p", part.text), _prompt_table(part.table))


def classes(study: ClassStudy) -> Section | None:
    """Return the section of a zero-shot task's confusions and example classes."""
    if not study.class_names:
        return None
    many = len(study.class_names) > SHOWN_CLASSES
    words = [
        tag(
            "p",
            f"{whole(int(study.confusion.sum()))} images among {len(study.class_names)} names. "
            "Each row of the table is a true class, each column a predicted class; ",
            tag("span", "right predictions", class_="in-right"),
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
    return Section(f"{titled(study.task)}, class\u00a0by\u00a0class", join(*words), join(*content))


def retrieval(texts: Sequence[TextQuery], images: Sequence[ImageQuery]) -> Section | None:
    """Return the section of text-to-image and image-to-text examples."""
    if not texts and not images:
        return None
    words = tag(
        "p",
        "Nearest embeddings by cosine similarity, best first. A tick marks a right one.",
    )
    content: list[Html] = []
    if texts:
        content += [tag("h3", "Text to images"), *map(_text_query, texts)]
    if images:
        content += [
            tag("h3", "Image to texts"),
            tag("div", *map(_image_query, images), class_="readings"),
        ]
    return Section("Retrieval examples", words, join(*content))


def left_out(counts: Sequence[tuple[str, int]]) -> Section | None:
    """Return the section of samples that were not used or not readable, by reason."""
    if not counts:
        return None
    rows = [(titled(reason), whole(count)) for reason, count in counts]
    words = tag(
        "p",
        "An image that cannot be read stays in the total and counts as wrong.",
    )
    return Section("Left out", words, table(rows, scroll=False))


def all_numbers(metrics: Sequence[Metric], commands: Sequence[tuple[str, str]]) -> Section | None:
    """Return the section of every metric and the commands."""
    if not metrics and not commands:
        return None
    rows = [
        (metric.task, metric.metric, _plain(metric), _ends(metric), whole(metric.n)) for metric in metrics
    ]
    again = [
        join(tag("p", titled(purpose), class_="label"), tag("pre", command)) for purpose, command in commands
    ]
    words = tag(
        "p",
        "Accuracies and recalls carry Clopper-Pearson intervals, means over classes a bootstrap over images, "
        "gains an interval for paired shares. A tie with a wrong answer counts as wrong.",
    )
    content = join(table(rows, ("task", "metric", "value", "95 % interval", "n")) if rows else "", *again)
    return Section("All metrics", words, content)


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
        tag("h3", f"{titled(table.task)}: top-1 accuracy"), tag("div", *rows, scale, class_="prompt-table")
    )


def _confusion(study: ClassStudy) -> Html:
    """Draw all classes, or those with the most errors; classes not shown are summed as "other"."""
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
        ("no prediction", matrix[chosen, count]),
    ):
        if rest.any():
            shown = np.column_stack([shown, rest])
            columns.append(name)
    return heat_map(shown, names, columns)


def _confusions(study: ClassStudy) -> Html:
    """List the most frequent confusions."""
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
                tag("span", " predicted as ", class_="quiet"),
                tag("b", study.class_names[answer]),
            )
            items.append(tag("li", tag("span", *names), tag("span", f"{times} × · {share}", class_="quiet")))
    return (
        join(tag("h3", "Most frequent confusions"), tag("ol", *items, class_="mistakes"))
        if items
        else Html("")
    )


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
        tag("div", *map(render_image, card.images), class_="strip"),
        class_="card",
    )


def _text_query(query: TextQuery) -> Html:
    return tag(
        "div",
        tag("blockquote", tag("p", shortened(query.text), dir="auto")),
        tag("div", *map(render_image, query.hits), class_="strip"),
        class_="query",
    )


def _image_query(query: ImageQuery) -> Html:
    lines = [
        tag("li", mark(right), tag("span", shortened(text), dir="auto"), class_="is-right" if right else "")
        for text, right in query.hits
    ]
    return tag("div", render_image(query.image), tag("ol", *lines), class_="reading")


def _big(value: float) -> Html:
    if math.isnan(value):
        return tag("span", "–")
    return join(f"{100 * value:.1f}", tag("small", f"{SPACE}%"))


def _interval(metric: Metric) -> str:
    """Return the interval and the number of items as text."""
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
