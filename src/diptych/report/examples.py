"""Choose what a report shows, and fetch the pictures for it.

Nothing is hand-picked: classes are ordered by the ends of their intervals, the pictures of a class are its
first ones, queries are drawn with a seed.

Reads: the results of a suite, its source once more for the pictures, `metrics.jsonl`. Writes: nothing.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from diptych.core.records import Counts
from diptych.embed.features import EmbeddedPairs, embed_texts
from diptych.evaluate.metrics.accuracy import confusion_matrix, wilson
from diptych.evaluate.retrieval import (
    FOUND_IMAGES,
    RetrievalResult,
    draw_rows,
    image_queries,
    nearest,
    readable_rows,
    text_queries,
)
from diptych.evaluate.source import SuiteResult
from diptych.evaluate.zeroshot import ZeroShotResult
from diptych.report.images import Picture
from diptych.report.parts import (
    ClassCard,
    ClassStudy,
    ImageQuery,
    PromptBar,
    PromptTable,
    Report,
    TextQuery,
    Tile,
)
from diptych.report.plots import Curve, percent

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model

CARDS, CARD_PICTURES = 6, 4
WALL_PICTURES = 12
"""What fits on a page without scrolling past it."""

CURVES = (
    ("scale", "scale"),
    ("samples_per_second", "pairs per second"),
    ("data_wait_fraction", "time spent waiting for data"),
    ("lr", "learning rate"),
)
"""Keys of `metrics.jsonl` behind the small curves, and what they are called."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A picture to show: its row in the embedded source, and what is said of it."""

    row: int
    right: bool | None = None
    note: str = ""


def build_report(
    model: "Model",
    suite: SuiteResult,
    *,
    title: str,
    summary: str = "",
    queries: Sequence[str] = (),
    metrics_file: Path | None = None,
    seed: int = 0,
) -> Report:
    """Turn the results of a suite into a report; `replace` adds facts, commands and further counts.

    Args:
        model: embeds the free queries.
        suite: what was found.
        title: the run's name.
        summary: one or two sentences under it.
        queries: texts to look for among the pictures, beside captions drawn from the source.
        metrics_file: `metrics.jsonl` of the run; None leaves the curves out.
        seed: of the draws of queries and pictures.
    """
    embedded, asked = suite.embedded, _free_queries(model, suite.embedded, queries)
    zero_shots = [result for result in suite.results if isinstance(result, ZeroShotResult)]
    wall = [Choice(row) for row in draw_rows(readable_rows(embedded), WALL_PICTURES, seed, "wall")]
    cards = [choose_cards(result) for result in zero_shots]
    read: list[tuple[int, tuple[tuple[str, bool], ...]]] = []
    for retrieval in (result for result in suite.results if isinstance(result, RetrievalResult)):
        for text, hits in text_queries(retrieval, embedded, seed):
            asked.append((text, [Choice(row, right) for row, right in hits]))
        read += image_queries(retrieval, embedded, seed)
    groups = [wall, *(picks for pair in cards for side in pair for _, picks in side)]
    rows = {choice.row for group in (*groups, *(hits for _, hits in asked)) for choice in group}
    pictures = fetch_pictures(suite.source, rows | {row for row, _ in read})

    def hang(choices: Iterable[Choice]) -> tuple[Picture, ...]:
        return tuple(
            Picture(pictures.get(c.row, b""), next(iter(embedded.captions[c.row]), ""), c.right, c.note)
            for c in choices
        )

    return Report(
        title=title,
        summary=summary,
        wall=hang(wall),
        tiles=tuple(tile for result in suite.results for tile in _tiles(result)),
        curves=read_curves(metrics_file) if metrics_file is not None else (),
        prompts=tuple(map(_prompt_table, zero_shots)),
        classes=tuple(
            replace(
                class_study(result),
                best=tuple(replace(card, pictures=hang(picks)) for card, picks in best),
                worst=tuple(replace(card, pictures=hang(picks)) for card, picks in worst),
            )
            for result, (best, worst) in zip(zero_shots, cards, strict=True)
        ),
        text_queries=tuple(TextQuery(text, hang(found)) for text, found in asked),
        image_queries=tuple(ImageQuery(hang([Choice(row)])[0], texts) for row, texts in read),
        left_out=_left_out(suite, zero_shots),
        metrics=tuple(suite.metrics()),
    )


def build_run_report(
    model: "Model",
    suites: Sequence[SuiteResult],
    *,
    title: str,
    summary: str = "",
    queries: Sequence[str] = (),
    metrics_file: Path | None = None,
    seed: int = 0,
) -> Report:
    """Turn the results of several suites into one report, section by section in the order of the suites.

    Args:
        model: embeds the free queries.
        suites: what was found, one per source; none leaves the curves alone on the page.
        title: the run's name.
        summary: one or two sentences under it.
        queries: texts to look for, among the pictures of the first suite that has a retrieval task.
        metrics_file: as in `build_report`.
        seed: as in `build_report`.
    """
    finders = [suite for suite in suites if any(isinstance(r, RetrievalResult) for r in suite.results)]
    asked = next(iter((*finders, *suites)), None)
    parts = [
        build_report(model, suite, title=title, queries=queries if suite is asked else (), seed=seed)
        for suite in suites
    ]
    walls = zip_longest(*(part.wall for part in parts))  # a picture of each source in turn
    named = len(parts) > 1
    return Report(
        title=title,
        summary=summary,
        wall=tuple(picture for row in walls for picture in row if picture is not None)[:WALL_PICTURES],
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


def read_curves(path: Path) -> tuple[Curve, ...]:
    """Read the steps of a run's `metrics.jsonl`: the loss against ln N first, then scale, rates and waiting.

    A run that was cut off may end in half a line; it is passed over. A missing file has no curves.
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


def fetch_pictures(source: "Source", rows: set[int]) -> Mapping[int, bytes]:
    """Read a source once more and keep the files of the given rows."""
    found: dict[int, bytes] = {}
    for row, pair in enumerate(source.pairs(Counts())):
        if row in rows:
            found[row] = pair.image
        if len(found) == len(rows):
            break
    return found


Cards = list[tuple[ClassCard, list[Choice]]]


def choose_cards(result: ZeroShotResult) -> tuple[Cards, Cards]:
    """Order classes by what their interval promises: few pictures make neither a best nor a worst class.

    A class without a right answer is never among the best, one without a mistake never among the worst.
    """
    score = result.scores[-1]
    count = len(result.class_names)
    totals = np.bincount(result.labels, minlength=count)
    right = np.bincount(result.labels[score.hits], minlength=count)
    ends = {c: wilson(float(right[c]), int(totals[c])) or (0.0, 1.0) for c in range(count) if totals[c]}
    shown = min(CARDS, max(1, len(ends) // 2))
    best = [c for c in sorted(ends, key=lambda c: -ends[c][0]) if right[c]][:shown]
    worst = [c for c in sorted(ends, key=lambda c: ends[c][1]) if right[c] < totals[c] and c not in best][
        :shown
    ]

    def card(c: int) -> tuple[ClassCard, list[Choice]]:
        picks = []
        for place in np.flatnonzero(result.labels == c)[:CARD_PICTURES]:
            hit, answer = bool(score.hits[place]), int(score.predicted[place])
            said = result.class_names[answer] if answer >= 0 else "nothing: unreadable"
            picks.append(Choice(int(result.rows[place]), hit, "" if hit else f"said {said}"))
        return ClassCard(result.class_names[c], int(right[c]), int(totals[c])), picks

    return [card(c) for c in best], [card(c) for c in worst]


def _free_queries(
    model: "Model", embedded: EmbeddedPairs, queries: Sequence[str]
) -> list[tuple[str, list[Choice]]]:
    texts = embed_texts(model, list(queries))
    return [
        (query, [Choice(int(row)) for row in nearest(text, embedded.image_embeds, FOUND_IMAGES)])
        for query, text in zip(queries, texts, strict=True)
    ]


def _tiles(result: object) -> list[Tile]:
    """Pick the headline numbers of a task and say what chance would give."""
    if isinstance(result, ZeroShotResult):
        top1, top5, mean = result.scores[-1].metrics
        classes = len(result.class_names)
        tiles = [
            Tile(f"{result.task}, first guess", top1, f"{classes} names; chance is {percent(1 / classes)}.")
        ]
        if classes > 10:
            tiles.append(Tile(f"{result.task}, among five guesses", top5))
        return [*tiles, Tile(f"{result.task}, mean over classes", mean)]
    if isinstance(result, RetrievalResult):
        named = {metric.metric: metric for metric in result.metrics()}
        return [
            Tile(
                "picture finds its text, first",
                named["image_to_text_recall@1"],
                _among(len(result.texts), "texts"),
            ),
            Tile("picture finds its text, in ten", named["image_to_text_recall@10"]),
            Tile(
                "text finds its picture, in ten",
                named["text_to_image_recall@10"],
                _among(len(result.image_ranks), "pictures"),
            ),
        ]
    return []


def _among(count: int, things: str) -> str:
    return f"Among {count:,} {things}.".replace(",", "\u202f")


def _prompt_table(result: ZeroShotResult) -> PromptTable:
    bars = (PromptBar(score.name, score.metrics[0], score.gain, score.example) for score in result.scores)
    return PromptTable(result.task, tuple(bars))


def class_study(result: ZeroShotResult) -> ClassStudy:
    """Count the answers of a task's own prompts, class by class."""
    matrix = confusion_matrix(result.labels, result.scores[-1].predicted, len(result.class_names))
    return ClassStudy(result.task, result.class_names, matrix)


def _left_out(suite: SuiteResult, zero_shots: Sequence[ZeroShotResult]) -> tuple[tuple[str, int], ...]:
    """Count what the source dropped, what could not be decoded, and what had no label."""
    counts = suite.embedded.counts
    unreadable = int(np.isnan(suite.embedded.image_embeds[:, 0]).sum())
    by_reason = [(str(reason).replace("_", " "), count) for reason, count in sorted(counts.dropped.items())]
    return (
        ("samples in the source", counts.seen),
        ("pictures that cannot be read (counted as wrong)", unreadable),
        *((f"dropped: {reason}", count) for reason, count in by_reason),
        *((f"no label for {result.task} (left out of it)", result.unlabelled) for result in zero_shots),
    )
