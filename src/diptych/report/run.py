"""Build and write the report of a run.

Examples are chosen by rule: classes by the ends of their intervals, the first images of a class, queries
drawn with a seed.

Reads: results, their sources once more for the images, `metrics.jsonl`. Writes: `report.html`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from diptych.core.files.durable import write_text
from diptych.core.records import Counts, Pair
from diptych.evaluate.metrics.classification import confusion_matrix
from diptych.evaluate.metrics.intervals import clopper_pearson
from diptych.evaluate.suite.retrieval import (
    FOUND_IMAGES,
    RetrievalResult,
    draw_rows,
    image_queries,
    nearest,
    readable_rows,
    text_queries,
)
from diptych.evaluate.suite.run import SourceResult
from diptych.evaluate.suite.scoring import Predictions
from diptych.evaluate.suite.zeroshot import ZeroShotResult
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


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """A row of an embedded source to show, whether it is right, and its note."""

    row: int
    right: bool | None = None
    note: str = ""


def build_report(
    model: "Model",
    suites: Sequence[SourceResult],
    *,
    title: str,
    summary: str = "",
    queries: Sequence[str] = (),
    metrics_file: Path | None = None,
    seed: int = 0,
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
        seed: of the draws of queries and images.
    """
    with_retrieval = [suite for suite in suites if any(isinstance(r, RetrievalResult) for r in suite.results)]
    searched = next(iter((*with_retrieval, *suites)), None)
    parts = [_source_report(model, suite, queries if suite is searched else (), seed) for suite in suites]
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


def _source_report(model: "Model", suite: SourceResult, queries: Sequence[str], seed: int) -> Report:
    embedded = suite.embedded
    texts = encode_texts(model, list(queries))
    searches = [
        (query, [ExampleRow(int(row)) for row in nearest(text, embedded.image_embeds, FOUND_IMAGES)])
        for query, text in zip(queries, texts, strict=True)
    ]
    zero_shots = [result for result in suite.results if isinstance(result, ZeroShotResult)]
    cover = [ExampleRow(row) for row in draw_rows(readable_rows(embedded), COVER_IMAGES, seed, "wall")]
    cards = [choose_cards(result.scores[-1].predictions) for result in zero_shots]
    by_image: list[tuple[int, tuple[tuple[str, bool], ...]]] = []
    for retrieval in (result for result in suite.results if isinstance(result, RetrievalResult)):
        for text, hits in text_queries(retrieval, embedded, seed):
            searches.append((text, [ExampleRow(row, right) for row, right in hits]))
        by_image += image_queries(retrieval, embedded, seed)
    groups = [
        cover,
        *(hits for _, hits in searches),
        *(rows for pair in cards for side in pair for _, rows in side),
    ]
    pairs = fetch_pairs(
        suite.source, {e.row for group in groups for e in group} | {row for row, _ in by_image}
    )
    show = partial(image_examples, pairs=pairs)
    return Report(
        title="",
        cover=show(cover),
        tiles=tuple(tile for result in suite.results for tile in _tiles(result)),
        prompts=tuple(map(_prompt_table, zero_shots)),
        classes=tuple(
            class_study(
                result.task, result.scores[-1].predictions, *(with_images(side, pairs) for side in sides)
            )
            for result, sides in zip(zero_shots, cards, strict=True)
        ),
        text_queries=tuple(TextQuery(text, show(hits)) for text, hits in searches),
        image_queries=tuple(ImageQuery(show([ExampleRow(row)])[0], texts) for row, texts in by_image),
        left_out=_left_out(suite, zero_shots),
        metrics=tuple(suite.metrics()),
    )


def read_curves(path: Path) -> tuple[Curve, ...]:
    """Read the steps of a run's `metrics.jsonl`: the loss against ln N first, then scale, rates and waiting.

    A last line that was cut off is skipped. A missing file has no curves.
    """
    if not path.exists():
        return ()
    steps: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
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


def fetch_pairs(source: "Source", rows: set[int]) -> dict[int, Pair]:
    """Read a source once more, up to the last of the given rows, and keep their pairs."""
    pairs: dict[int, Pair] = {}
    for row, pair in enumerate(source.pairs(Counts())):
        if row in rows:
            pairs[row] = pair
        if len(pairs) == len(rows):
            break
    return pairs


def image_examples(examples: Iterable[ExampleRow], pairs: Mapping[int, Pair]) -> tuple[ImageExample, ...]:
    """Return the images of the given rows; a row without a pair is shown as unreadable."""
    missing = Pair("", b"", ())
    return tuple(
        ImageExample(pair.image, next(iter(pair.captions), pair.key), example.right, example.note)
        for example in examples
        for pair in [pairs.get(example.row, missing)]
    )


def with_images(cards: "Cards", pairs: Mapping[int, Pair]) -> tuple[ClassCard, ...]:
    """Return the cards of classes with the images of their example rows."""
    return tuple(replace(card, images=image_examples(rows, pairs)) for card, rows in cards)


Cards = list[tuple[ClassCard, list[ExampleRow]]]


def choose_cards(made: Predictions) -> tuple[Cards, Cards]:
    """Order classes by the lower (best) and upper (worst) end of their interval; return both with examples.

    A class without a right prediction is never among the best, one without an error never among the worst.
    """
    names, class_ids, hits = made.labels.class_names, made.labels.class_ids, made.hits
    totals = np.bincount(class_ids, minlength=len(names))
    right = np.bincount(class_ids[hits], minlength=len(names))
    ends = {c: clopper_pearson(int(right[c]), int(n)) or (0.0, 1.0) for c, n in enumerate(totals) if n}
    shown = min(CARDS, max(1, len(ends) // 2))
    best = [c for c in sorted(ends, key=lambda c: -ends[c][0]) if right[c]][:shown]
    wrong = [c for c in sorted(ends, key=lambda c: ends[c][1]) if right[c] < totals[c] and c not in best]

    def card(c: int) -> tuple[ClassCard, list[ExampleRow]]:
        picks = []
        for row in np.flatnonzero(class_ids == c)[:CARD_IMAGES]:
            hit, guess = bool(hits[row]), int(made.predicted[row])
            name = names[guess] if guess >= 0 else "nothing: unreadable"
            picks.append(ExampleRow(int(made.labels.rows[row]), hit, "" if hit else f"predicted {name}"))
        return ClassCard(names[c], int(right[c]), int(totals[c])), picks

    return [card(c) for c in best], [card(c) for c in wrong[:shown]]


def _tiles(result: object) -> list[Tile]:
    """Return the headline numbers of a task, with the accuracy of chance."""
    if isinstance(result, ZeroShotResult):
        top1, top5, mean = result.scores[-1].metrics
        classes = len(result.labels.class_names)
        tiles = [Tile(f"{result.task}, top-1", top1, f"{classes} names; chance is {percent(1 / classes)}.")]
        if classes > 10:
            tiles.append(Tile(f"{result.task}, top-5", top5))
        return [*tiles, Tile(f"{result.task}, mean over classes", mean)]
    if isinstance(result, RetrievalResult):
        named = {metric.metric: metric for metric in result.metrics()}
        texts = f"Among {whole(len(result.texts))} texts."
        images = f"Among {whole(len(result.image_ranks))} images."
        return [
            Tile("image to text, recall@1", named["image_to_text_recall@1"], texts),
            Tile("image to text, recall@10", named["image_to_text_recall@10"]),
            Tile("text to image, recall@10", named["text_to_image_recall@10"], images),
        ]
    return []


def _prompt_table(result: ZeroShotResult) -> PromptTable:
    bars = (PromptBar(score.name, score.metrics[0], score.gain, score.example) for score in result.scores)
    return PromptTable(result.task, tuple(bars))


def class_study(
    task: str, made: Predictions, best: tuple[ClassCard, ...], worst: tuple[ClassCard, ...]
) -> ClassStudy:
    """Count the predictions class by class."""
    names = made.labels.class_names
    return ClassStudy(
        task, names, confusion_matrix(made.labels.class_ids, made.predicted, len(names)), best, worst
    )


def _left_out(suite: SourceResult, zero_shots: Sequence[ZeroShotResult]) -> tuple[tuple[str, int], ...]:
    """Count what the source dropped, what could not be decoded, and what had no label."""
    counts = suite.embedded.counts
    unreadable = int(np.isnan(suite.embedded.image_embeds[:, 0]).sum())
    by_reason = [(str(reason).replace("_", " "), count) for reason, count in sorted(counts.dropped.items())]
    return (
        ("samples in the source", counts.seen),
        ("images that cannot be read (counted as wrong)", unreadable),
        *((f"dropped: {reason}", count) for reason, count in by_reason),
        *(
            (f"no label for {result.task} (left out of it)", result.labels.unlabelled)
            for result in zero_shots
        ),
    )


def write_report(path: str | Path, report: Report) -> None:
    """Render a report and write it durably to `path`."""
    write_text(path, render(report))


def render(report: Report) -> str:
    """Return the whole page as text; the same report gives the same bytes."""
    head = Header("report of a run", report.title, report.summary, report.facts, report.cover)
    return render_page("run.html", head, report=report)
