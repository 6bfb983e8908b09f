"""Classify images by words alone, and say how much the words mattered.

Reads: an embedded source and one of its columns as labels. Writes: nothing.
Source: Radford et al. 2021, section 3.1 (top-k, mean per class; the gain of prompts in section 3.1.4).
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Bools, Floats, Ints
from diptych.core.errors import DataError, UnknownNameError, UsageError, unknown_name
from diptych.core.records import Metric
from diptych.embed.features import EmbeddedPairs, embed_pairs
from diptych.evaluate.classifier import build_classifier
from diptych.evaluate.metrics.classification import label_ranks, mean_per_class, predictions
from diptych.evaluate.metrics.intervals import bootstrap_mean_per_class, paired_gain, share
from diptych.evaluate.prompts.templates import BARE, PHOTO, Templates, fill
from diptych.models.encode import Precision

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model

_DIGITS = re.compile(r"(\d{1,18})", re.ASCII)
LISTED = 5
"""How many odd labels an error names."""


@dataclass(frozen=True, slots=True)
class PromptScore:
    """What one set of prompts reached.

    Attributes:
        name: the set's name.
        metrics: top1, top5 and mean_per_class.
        hits: (N,) bool, which images were right at top-1.
        predicted: (N,) int64, the answers; -1 for an unreadable image.
        gain: top-1 over bare names in [-1, 1] with its interval; None for bare names themselves.
        example: the first prompt of the first class.
    """

    name: str
    metrics: tuple[Metric, ...]
    hits: Bools
    predicted: Ints
    gain: Metric | None
    example: str


@dataclass(frozen=True, slots=True)
class ZeroShotResult:
    """Everything a report or a table needs about one zero-shot task.

    Attributes:
        task: the task's name.
        class_names: C labels as the data has them.
        rows: (N,) int64, the places of the labelled images in the embedded source.
        labels: (N,) int64 in [0, C).
        scores: one entry per set of prompts, the simplest first; the last is the task's own.
        unlabelled: images without a label; they are no part of N.
        unreadable: images that could not be decoded; they are part of N, and wrong.
    """

    task: str
    class_names: tuple[str, ...]
    rows: Ints
    labels: Ints
    scores: tuple[PromptScore, ...]
    unlabelled: int
    unreadable: int

    def metrics(self) -> list[Metric]:
        """List the last set's metrics, then top-1 of the others, every gain, the classes to choose from, how
        many of them the data has, and what was left out.
        """
        *others, best = self.scores
        total = len(self.rows) + self.unlabelled
        return [
            *best.metrics,
            *(_renamed(score.metrics[0], f"top1[{score.name}]") for score in others),
            *(score.gain for score in self.scores if score.gain is not None),
            Metric(self.task, "classes", float(len(self.class_names)), None, len(self.rows)),
            Metric(self.task, "classes_that_occur", float(len(np.unique(self.labels))), None, len(self.rows)),
            Metric(self.task, "unlabelled", float(self.unlabelled), None, total),
            Metric(self.task, "unreadable", float(self.unreadable), None, len(self.rows)),
        ]


def zero_shot(
    image_embeds: Floats, labels: Ints, classifier: Floats, *, task: str = "zeroshot", seed: int = 0
) -> list[Metric]:
    """Score images against a classifier.

    Args:
        image_embeds: (N, E) float32, unit length; NaN rows are unreadable images and count as wrong.
        labels: (N,) int64 in [0, C).
        classifier: (C, E) float32, unit length.
        task: the name the metrics carry.
        seed: of the bootstrap behind the interval of the mean per class.

    Returns:
        top1, top5 (all classes when there are fewer than five) and mean_per_class, each in [0, 1] with 95 %
        intervals.

    >>> eye = np.eye(3, dtype=np.float32)
    >>> [round(metric.value, 3) for metric in zero_shot(eye[[0, 1, 2, 2]], np.array([0, 1, 2, 0]), eye)]
    [0.75, 1.0, 0.833]
    """
    ranks = label_ranks(image_embeds, labels, classifier)
    count, classes = len(labels), len(classifier)
    found = [share(task, f"top{k}", int((ranks < k).sum()), count) for k in (1, 5)]
    right = ranks < 1
    mean = mean_per_class(right, labels, classes)
    interval = bootstrap_mean_per_class(right, labels, classes, seed=seed)
    return [*found, Metric(task, "mean_per_class", mean, interval, count)]


def compare_prompts(
    model: "Model",
    image_embeds: Floats,
    labels: Ints,
    class_names: Sequence[str],
    *,
    prompt_sets: Sequence[Templates],
    task: str = "zeroshot",
    precision: Precision = "float32",
) -> tuple[PromptScore, ...]:
    """Score the same images with several sets of prompts; gains are over the first."""
    scores: list[PromptScore] = []
    for prompts, classifier in classifiers(model, class_names, prompt_sets, precision=precision):
        metrics = zero_shot(image_embeds, labels, classifier, task=task)
        hits = label_ranks(image_embeds, labels, classifier) < 1
        gain = None
        if scores:
            value, interval = paired_gain(scores[0].hits, hits)
            gain = Metric(
                task, f"top1_gain[{prompts.name} over {scores[0].name}]", value, interval, len(labels)
            )
        scores.append(
            PromptScore(
                name=prompts.name,
                metrics=tuple(metrics),
                hits=hits,
                predicted=predictions(image_embeds, classifier),
                gain=gain,
                example=fill(prompts, class_names[:1])[0][0],
            )
        )
    return tuple(scores)


def classifiers(
    model: "Model",
    class_names: Sequence[str],
    prompt_sets: Sequence[Templates],
    *,
    precision: Precision = "float32",
    cache: Path | None = None,
) -> Iterator[tuple[Templates, Floats]]:
    """Yield each set of prompts with its classifier; one to compare with is left out where two classes are
    the same in it.

    Raises:
        UsageError: two classes are the same in the last set, the task's own.
    """
    for prompts in prompt_sets:
        try:
            classifier = build_classifier(model, class_names, prompts, precision=precision, cache=cache)
        except UsageError as error:
            if prompts is prompt_sets[-1]:
                raise
            warnings.warn(f"{prompts.name!r} is not compared: {error.what}, {error.found}", stacklevel=2)
            continue
        yield prompts, classifier


def prompt_ladder(templates: Templates | None) -> tuple[Templates, ...]:
    """List the sets to compare: bare names, the paper's default, cleaned names where there are any, the file.

    >>> [prompts.name for prompts in prompt_ladder(None)]
    ['bare names', 'a photo of a {}.']
    """
    if templates is None:
        return BARE, PHOTO
    cleaned = (Templates("cleaned names", BARE.templates, templates.names, templates.source),)
    return (
        BARE,
        PHOTO,
        *(cleaned if templates.names and templates.templates != BARE.templates else ()),
        templates,
    )


@dataclass(frozen=True, slots=True)
class ZeroShotEvaluator:
    """Zero-shot classification of a source by one of its columns.

    Attributes:
        name: the task's name in metrics and reports.
        source: where the pairs come from.
        label_field: the column that holds the true class.
        class_names: the classes to choose from; empty means every label that occurs or has a cleaned name in
            the templates, in natural order: a class without an image can still be answered, wrongly.
        templates: the task's own prompts; None leaves bare names and the paper's default.
        precision: what the towers compute in.
    """

    name: str
    source: "Source"
    label_field: str
    class_names: tuple[str, ...] = ()
    templates: Templates | None = None
    precision: Precision = "float32"

    def __call__(self, model: "Model") -> list[Metric]:
        """Embed the source and score it."""
        return self.score(model, embed_pairs(model, self.source, precision=self.precision)).metrics()

    def score(self, model: "Model", embedded: EmbeddedPairs) -> ZeroShotResult:
        """Score a source that is embedded already.

        Raises:
            UnknownNameError: no pair has the label column.
            DataError: a label is not among the given classes, or there are no labels at all.
        """
        class_names, rows, labels = self.labelled(embedded)
        scores = compare_prompts(
            model,
            embedded.image_embeds[rows],
            labels,
            class_names,
            prompt_sets=prompt_ladder(self.templates),
            task=self.name,
            precision=self.precision,
        )
        unreadable = int(np.isnan(embedded.image_embeds[rows, 0]).sum())
        unlabelled = len(embedded.keys) - len(rows)
        return ZeroShotResult(self.name, class_names, rows, labels, scores, unlabelled, unreadable)

    def labelled(self, embedded: EmbeddedPairs) -> tuple[tuple[str, ...], Ints, Ints]:
        """Return the C class names, the rows that have a label, and the class of each of these.

        Raises:
            UnknownNameError: no pair has the label column.
            DataError: a label is not among the given classes, or there are no labels at all.
        """
        texts = self._label_texts(embedded)
        named = self.templates.names if self.templates is not None else ()
        class_names = self.class_names or tuple(
            sorted({text for text in texts if text} | set(named), key=natural_order)
        )
        rows = np.array([row for row, text in enumerate(texts) if text], dtype=np.int64)
        return class_names, rows, self._numbered([text for text in texts if text], class_names)

    def _label_texts(self, embedded: EmbeddedPairs) -> list[str]:
        """Read the label column of every pair as text; an empty text is a missing label."""
        known = dict.fromkeys(name for fields in embedded.fields for name in fields)
        if self.label_field not in known:
            raise unknown_labels(self.label_field, known, where=self.source.name)
        values = (fields.get(self.label_field) for fields in embedded.fields)
        return ["" if value is None else str(value).strip() for value in values]

    def _numbered(self, texts: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
        numbers = {name: number for number, name in enumerate(class_names)}
        unknown = sorted(set(texts) - set(numbers))
        if unknown or not texts:
            listed = ", ".join(map(repr, unknown[:LISTED])) + (", …" if len(unknown) > LISTED else "")
            raise DataError(
                "labels cannot be scored",
                where=f"column {self.label_field!r} of {self.source.name}",
                found=f"{len(unknown)} labels that are no class: {listed}" if unknown else "no labels",
                expected=f"one of {len(class_names)} class names in each row",
                fix="add the names to the classes, or leave the classes out to use every label that occurs",
            )
        return np.array([numbers[text] for text in texts], dtype=np.int64)


def unknown_labels(name: str, known: Iterable[str], *, where: object) -> UnknownNameError:
    """Build the error for a column of labels that a source does not have."""
    error = unknown_name("label column", name, known, where=where)
    error.fix = error.fix or "name the column: labels in a recipe, --labels in a command"
    return error


def natural_order(text: str) -> tuple[tuple[int | str, ...], str]:
    """Return a key that sorts numbers within names as numbers.

    >>> sorted(["10", "9", "b10", "b9", "a"], key=natural_order)
    ['9', '10', 'a', 'b9', 'b10']
    """
    parts = _DIGITS.split(text)  # every second part is a number, so parts of two names compare
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), text


def _renamed(metric: Metric, name: str) -> Metric:
    return Metric(metric.task, name, metric.value, metric.ci95, metric.n)
