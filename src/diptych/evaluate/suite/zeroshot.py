"""The protocol zeroshot: classify images by the names of the classes, with several sets of prompts.

Source: Radford et al. 2021, section 3.1 (top-k, mean per class; the gain of prompts in section 3.1.4).
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.core.checks import Bools, Doubles, Floats
from diptych.core.errors import UsageError
from diptych.core.records import Metric
from diptych.evaluate.classifier import build_classifier, class_probabilities
from diptych.evaluate.metrics.classification import reliability
from diptych.evaluate.metrics.intervals import paired_gain
from diptych.evaluate.prompts.templates import BARE, PHOTO, Templates, fill
from diptych.evaluate.suite.runner import ProtocolResult, TaskRunner
from diptych.evaluate.suite.scoring import Predictions, TaskLabels, classify, further_metrics

if TYPE_CHECKING:
    from diptych.models.encode import Precision
    from diptych.models.model import Model

DIGITS = 4  # decimals of confidences: what a diagram shows, and the same whatever the batch size


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Score of one set of prompts."""

    name: str
    metrics: tuple[Metric, ...]  # top1, top5 and mean_per_class
    predictions: Predictions
    gain: Metric | None  # of top-1 over the first set; None for the first set itself
    example: str  # the first prompt of the first class

    def as_dict(self) -> dict[str, Any]:
        """Return top-1 and the gain as plain values."""
        top1 = self.metrics[0]
        entry = {"name": self.name, "value": top1.value, "ci95": top1.ci95, "example": self.example}
        return entry | ({"gain": self.gain.value, "gain_ci95": self.gain.ci95} if self.gain else {})


@dataclass(frozen=True, slots=True)
class ZeroShotResult:
    """Everything that a report or a table needs about one zero-shot task."""

    task: str
    labels: TaskLabels
    scores: tuple[PromptScore, ...]  # one a set of prompts, the simplest first; the last is the task's own
    unreadable: int  # images that could not be decoded; they count as wrong

    @property
    def classes_that_occur(self) -> int:
        """Classes that some image has."""
        matrix = self.labels.label_matrix
        return (
            len(np.unique(self.labels.class_ids)) if matrix is None else int((matrix > 0).any(axis=0).sum())
        )

    def metrics(self) -> list[Metric]:
        """List the last set's metrics, top-1 of the others, every gain, and what was left out."""
        *others, best = self.scores
        labels, count = self.labels, len(self.labels.rows)
        return [
            *best.metrics,
            *(replace(score.metrics[0], metric=f"top1[{score.name}]") for score in others),
            *(score.gain for score in self.scores if score.gain is not None),
            Metric(self.task, "classes", float(len(labels.class_names)), None, count),
            Metric(self.task, "classes_that_occur", float(self.classes_that_occur), None, count),
            Metric(self.task, "unlabelled", float(labels.unlabelled), None, count + labels.unlabelled),
            Metric(self.task, "unreadable", float(self.unreadable), None, count),
        ]


def zeroshot(runner: TaskRunner) -> ProtocolResult:
    """Classify by words alone, in the metric of the data set; unreadable images are wrong."""
    model, task, labels = runner.model, runner.task, runner.labels
    name, embeds = task.spec.name, np.asarray(runner.embedded.image_embeds[labels.rows])
    scores: list[PromptScore] = []
    for prompts, classifier in classifiers(
        model,
        labels.class_names,
        prompt_ladder(task.templates),
        precision=runner.settings.precision,
        cache=None if runner.cache is None else runner.cache / "classifiers",
    ):
        ranked = class_probabilities(model, embeds, classifier) if task.metric == "map_11pt" else None
        made = classify(embeds, labels, classifier, task.metric, probabilities=ranked)
        gain = None
        if scores:
            value, interval = paired_gain(scores[0].predictions.hits, made.hits)
            title = f"top1_gain[{prompts.name} over {scores[0].name}]"
            gain = Metric(name, title, value, interval, len(embeds))
        example = fill(prompts, labels.class_names[:1])[0][0]
        scores.append(PromptScore(prompts.name, tuple(further_metrics(made, task=name)), made, gain, example))
    result = ZeroShotResult(name, labels, tuple(scores), int(np.isnan(embeds[:, 0]).sum()))
    extra: dict[str, Any] = {
        "prompts": [score.as_dict() for score in scores],
        "classes": len(labels.class_names),
        "classes_that_occur": result.classes_that_occur,
    }
    if labels.group_field:
        extra["groups"] = labels.group_field
    if labels.label_matrix is None and runner.cache is not None:  # (N, C) of memory for the files of a suite
        extra["reliability"] = _reliability(class_probabilities(model, embeds, classifier), made.hits)
    return replace(runner.classified(made, extra, list(scores[-1].metrics)), details=result)


def classifiers(
    model: "Model",
    class_names: Sequence[str],
    prompt_sets: Sequence[Templates],
    *,
    precision: "Precision" = "float32",
    cache: Path | None = None,
) -> Iterator[tuple[Templates, Floats]]:
    """Yield each set of prompts with its classifier.

    A set in which two classes are the same is left out with a warning; the last one, the task's own, refused.
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


def prompt_ladder(templates: Templates = PHOTO) -> tuple[Templates, ...]:
    """List the sets to compare: bare names, the paper's default, cleaned names where there are any, the file.

    >>> [prompts.name for prompts in prompt_ladder()]
    ['bare names', 'a photo of a {}.']
    """
    if templates == PHOTO:
        return BARE, PHOTO
    if not templates.names or templates.templates == BARE.templates:
        return BARE, PHOTO, templates
    return (
        BARE,
        PHOTO,
        Templates("cleaned names", BARE.templates, templates.names, templates.source),
        templates,
    )


def _reliability(probabilities: Doubles, hits: Bools) -> dict[str, Any]:
    """Return how often predictions of a confidence are right, as plain values, of readable images."""
    confidence = np.round(probabilities.max(axis=1), DIGITS)
    readable = ~np.isnan(confidence)
    bins = reliability(confidence[readable], hits[readable])

    def plain(values: Doubles) -> list[float | None]:
        return [None if np.isnan(value) else round(float(value), DIGITS) for value in values]

    return {
        "ece": plain(np.array([bins.error]))[0],
        "counts": bins.counts.tolist(),
        "confidences": plain(bins.confidences),
        "accuracies": plain(bins.accuracies),
    }
