"""Build and write the report of a run, and the examples that reports of suites show too.

Examples are chosen by rule: classes by the ends of their intervals, the first images of a class, queries
drawn with a seed.

Reads: results, their sources once more for the images, `metrics.jsonl`. Writes: `report.html`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.files.durable import write_text
from diptych.core.records import Counts, Metric, Pair
from diptych.evaluate.metrics.classification import confusion_matrix
from diptych.evaluate.metrics.intervals import clopper_pearson
from diptych.evaluate.suite.retrieval import SHOWN_IMAGES, draw_rows, nearest, readable_rows
from diptych.evaluate.suite.run import SourceResult
from diptych.evaluate.suite.scoring import ProtocolResult, TaskLabels
from diptych.models.encode import encode_texts
from diptych.report.data import (
    ClassCard,
    ClassStudy,
    Curve,
    ImageExample,
    ImageQuery,
    PromptBar,
    PromptTable,
    Report,
    TextQuery,
    Tile,
)
from diptych.report.page import COVER_IMAGES, Header
from diptych.report.page import render as render_page
from diptych.report.plots import percent, whole

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model

CARDS, CARD_IMAGES = 6, 4  # classes among the best and the worst, and images of each

# Keys of `metrics.jsonl` that are drawn as small curves, and their names on the page
CURVES = (
    ("scale", "scale"),
    ("samples_per_second", "pairs per second"),
    ("data_wait_fraction", "time spent waiting for data"),
    ("lr", "learning rate"),
)


def build_report(
    model: "Model",
    suites: Sequence[SourceResult],
    *,
    title: str,
    summary: str = "",
    queries: Sequence[str] = (),
    metrics_file: Path | None = None,
) -> Report:
    """Return one report of the results of several sources; `replace` adds facts, commands and further counts.

    Args:
        model: embeds the free queries.
        suites: results, one per source, in the order of the page; none leaves the curves alone on it.
        title: the run's name.
        summary: one or two sentences under it.
        queries: texts to search for among the images of the first source that has a retrieval task, beside
            captions drawn from the source.
        metrics_file: `metrics.jsonl` of the run; None leaves the curves out.
    """
    with_retrieval = [each for each in suites if any("text_queries" in task.extra for task in each.results)]
    searched = next(iter((*with_retrieval, *suites)), None)
    parts = [_source_report(model, suite, queries if suite is searched else ()) for suite in suites]
    covers = zip_longest(*(part.cover for part in parts))  # an image of each source in turn
    named = len(parts) > 1
    return Report(
        title=title,
        summary=summary,
        cover=tuple(image for row in covers for image in row if image is not None)[:COVER_IMAGES],
        tiles=tuple(tile for part in parts for tile in part.tiles),
        curves=read_curves(metrics_file) if metrics_file is not None else (),
        prompts=tuple(table for part in parts for table in part.prompts),
        classes=tuple(study for part in parts for study in part.classes),
        text_queries=tuple(query for part in parts for query in part.text_queries),
        image_queries=tuple(query for part in parts for query in part.image_queries),
        left_out=tuple(
            (f"{reason} · {PurePath(suite.source.name).name}" if named else reason, count)
            for suite, part in zip(suites, parts, strict=True)
            for reason, count in part.left_out
        ),
        metrics=tuple(metric for part in parts for metric in part.metrics),
    )


def _source_report(model: "Model", suite: SourceResult, queries: Sequence[str]) -> Report:
    embedded = suite.embedded
    searches = []
    for query, text in zip(queries, encode_texts(model, queries) if queries else (), strict=True):
        rows = nearest(text, embedded.image_embeds, SHOWN_IMAGES).tolist()
        searches.append(TextQuery(query, tuple(ImageExample(row=row) for row in rows)))
    tasks = [task_report(task.metric.task, task.extra, task.labels, task.arrays) for task in suite.results]
    cover = draw_rows(readable_rows(embedded), COVER_IMAGES, "wall")
    report = Report(
        cover=tuple(ImageExample(row=row) for row in cover),
        tiles=tuple(tile for result in suite.results for tile in _tiles(result)),
        prompts=tuple(table for task in tasks for table in task.prompts),
        classes=tuple(study for task in tasks for study in task.classes),
        text_queries=(*searches, *(query for task in tasks for query in task.text_queries)),
        image_queries=tuple(query for task in tasks for query in task.image_queries),
        left_out=_left_out(suite),
        metrics=tuple(suite.metrics()),
    )
    return with_images(report, suite.source)


def task_report(
    task: str,
    scores: Mapping[str, Any],
    labels: TaskLabels,
    arrays: Mapping[str, NDArray[Any]],
    *,
    cards: int = CARDS,
) -> Report:
    """Return what a report shows of one protocol's result: prompts, classes, queries; images are not read.

    `scores` are a `ProtocolResult`'s extra, or what its file holds; `arrays` its hits and predictions.
    """
    classifies, count = "prompts" in scores, len(labels.rows)
    bars = []
    for entry in scores.get("prompts", ()):
        gain = Metric(task, "gain", entry["gain"], entry["gain_ci95"], count) if "gain" in entry else None
        top1 = Metric(task, "top1", entry["value"], entry["ci95"], count)
        bars.append(PromptBar(entry["name"], top1, gain, entry["example"]))
    by_text = (
        TextQuery(query["text"], tuple(ImageExample(row=row, right=right) for row, right in query["found"]))
        for query in scores.get("text_queries", ())
    )
    by_image = (
        ImageQuery(ImageExample(row=query["row"]), tuple((text, right) for text, right in query["found"]))
        for query in scores.get("image_queries", ())
    )
    return Report(
        prompts=(PromptTable(task, tuple(bars)),) if classifies else (),
        classes=(_class_study(task, labels, arrays, cards),)
        if classifies and labels.label_matrix is None
        else (),
        text_queries=tuple(by_text),
        image_queries=tuple(by_image),
    )


def _class_study(task: str, labels: TaskLabels, arrays: Mapping[str, NDArray[Any]], cards: int) -> ClassStudy:
    """Count predictions class by class, and show the best and the worst classes with examples.

    Classes are ordered by the lower (best) and upper (worst) end of their interval. One without a right
    prediction is never among the best, one without an error never among the worst.
    """
    names, class_ids = labels.class_names, labels.class_ids
    hits, predicted = np.asarray(arrays["hits"], np.bool_), arrays["predicted"]
    totals = np.bincount(class_ids, minlength=len(names))
    right = np.bincount(class_ids[hits], minlength=len(names))
    ends = {c: clopper_pearson(int(right[c]), int(n)) or (0.0, 1.0) for c, n in enumerate(totals) if n}
    shown = min(CARDS, max(1, len(ends) // 2))
    best = [c for c in sorted(ends, key=lambda c: -ends[c][0]) if right[c]][:shown]
    worst = [c for c in sorted(ends, key=lambda c: ends[c][1]) if right[c] < totals[c] and c not in best]

    def card(c: int) -> ClassCard:
        images = []
        for number in np.flatnonzero(class_ids == c)[:CARD_IMAGES]:
            hit, guess = bool(hits[number]), int(predicted[number])
            note = "" if hit else f"predicted {names[guess] if guess >= 0 else 'nothing: unreadable'}"
            images.append(ImageExample(right=hit, note=note, row=int(labels.rows[number])))
        return ClassCard(names[c], int(right[c]), int(totals[c]), tuple(images))

    matrix = confusion_matrix(class_ids, predicted, len(names))
    sides = (tuple(map(card, side[:shown][:cards])) for side in (best, worst))
    return ClassStudy(task, names, matrix, *sides)


def examples_of(report: Report) -> list[ImageExample]:
    """List the images of classes and of text queries."""
    sides = (side for study in report.classes for side in (study.best, study.worst))
    of_classes = (image for side in sides for card in side for image in card.images)
    return [*of_classes, *(image for query in report.text_queries for image in query.hits)]


def with_images(report: Report, source: "Source") -> Report:
    """Fill in images and captions of a report's examples, which are rows of one source; it is read again.

    A row without a pair is shown as unreadable.
    """
    asked = [*report.cover, *examples_of(report), *(query.image for query in report.image_queries)]
    pairs, missing = fetch_pairs(source, {example.row for example in asked}), Pair("", b"", ())

    def read(examples: Iterable[ImageExample]) -> tuple[ImageExample, ...]:
        found = ((example, pairs.get(example.row, missing)) for example in examples)
        return tuple(
            replace(example, data=pair.image, caption=next(iter(pair.captions), pair.key))
            for example, pair in found
        )

    def cards(side: Iterable[ClassCard]) -> tuple[ClassCard, ...]:
        return tuple(replace(card, images=read(card.images)) for card in side)

    return replace(
        report,
        cover=read(report.cover),
        classes=tuple(
            replace(study, best=cards(study.best), worst=cards(study.worst)) for study in report.classes
        ),
        text_queries=tuple(replace(query, hits=read(query.hits)) for query in report.text_queries),
        image_queries=tuple(replace(query, image=read([query.image])[0]) for query in report.image_queries),
    )


def fetch_pairs(source: "Source", rows: set[int]) -> dict[int, Pair]:
    """Read a source once more, up to the last of the given rows, and keep their pairs."""
    pairs: dict[int, Pair] = {}
    for row, pair in enumerate(source.pairs(Counts())):
        if row in rows:
            pairs[row] = pair
        if len(pairs) == len(rows):
            break
    return pairs


def read_curves(path: Path) -> tuple[Curve, ...]:
    """Read the steps of a run's `metrics.jsonl`: the loss against ln N first, then scale, rates and waiting.

    A last line that was cut off is skipped. A missing file has no curves.
    """
    steps: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "loss" in entry:
            steps.append({key: math.nan if value is None else float(value) for key, value in entry.items()})
    if not steps:
        return ()
    seen = tuple(step["samples_seen"] for step in steps)
    ln_n = steps[-1]["ln_n"]
    chance = (f"chance, ln {round(math.exp(ln_n))} = {ln_n:.2f}", ln_n)
    loss = Curve("loss", seen, tuple(step["loss"] for step in steps), reference=chance)
    small = (Curve(name, seen, tuple(step[key] for step in steps)) for key, name in CURVES if key in steps[0])
    return loss, *small


def _tiles(result: ProtocolResult) -> list[Tile]:
    """Return the headline numbers of a task, with the accuracy of chance."""
    task, extra = result.metric.task, result.extra
    if "prompts" in extra:
        (top1, top5, mean), classes = result.metrics, extra["classes"]
        tiles = [Tile(f"{task}, top-1", top1, f"{classes} names; chance is {percent(1 / classes)}.")]
        if classes > 10:
            tiles.append(Tile(f"{task}, top-5", top5))
        return [*tiles, Tile(f"{task}, mean over classes", mean)]
    named = {metric.metric: metric for metric in result.metrics}
    first = named["image_to_text_recall@1"]
    return [
        Tile("image to text, recall@1", first, f"Among {whole(extra['texts'])} texts."),
        Tile("image to text, recall@10", named["image_to_text_recall@10"]),
        Tile("text to image, recall@10", named["text_to_image_recall@10"], f"Among {whole(first.n)} images."),
    ]


def _left_out(suite: SourceResult) -> tuple[tuple[str, int], ...]:
    """Count what the source dropped, what could not be decoded, and what had no label."""
    counts = suite.embedded.counts
    unreadable = int(np.isnan(suite.embedded.image_embeds[:, 0]).sum())
    by_reason = [(str(reason).replace("_", " "), count) for reason, count in sorted(counts.dropped.items())]
    classified = [result for result in suite.results if "prompts" in result.extra]
    return (
        ("samples in the source", counts.seen),
        ("images that cannot be read (counted as wrong)", unreadable),
        *((f"dropped: {reason}", count) for reason, count in by_reason),
        *((f"no label for {one.metric.task} (left out of it)", one.labels.unlabelled) for one in classified),
    )


def write_report(path: str | Path, report: Report) -> None:
    """Render a report and write it durably to `path`."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """Return the whole page as text; the same report gives the same bytes."""
    head = Header("report of a run", report.title, report.summary, report.facts, report.cover)
    return render_page("run.html", head, report=report)
