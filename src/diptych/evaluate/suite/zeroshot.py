"""The protocol zeroshot: classify images by the names of the classes, with several sets of prompts.

Source: Radford et al. 2021, section 3.1 (top-k, mean per class; the gain of prompts in section 3.1.4).
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.core.checks import Bools, Doubles, Floats
from diptych.core.errors import UsageError
from diptych.core.records import Metric
from diptych.evaluate.classifier import build_classifier, class_probabilities
from diptych.evaluate.metrics.classification import reliability
from diptych.evaluate.metrics.intervals import paired_gain, share
from diptych.evaluate.prompts.templates import BARE, PHOTO, Templates, fill
from diptych.evaluate.suite.scoring import Predictions, ProtocolResult, TaskRunner, classify

if TYPE_CHECKING:
    from diptych.models.encode import Precision
    from diptych.models.model import Model

DIGITS = 4  # decimals of confidences: what a diagram shows, and the same whatever the batch size


def zeroshot(runner: TaskRunner) -> ProtocolResult:
    """Classify by words alone, in the metric of the data set; unreadable images are wrong.

    The last set of prompts is the task's own; the others show what it gains.
    """
    model, task, labels = runner.model, runner.task, runner.labels
    name, embeds = task.spec.name, np.asarray(runner.embedded.image_embeds[labels.rows])
    sets: list[tuple[Templates, Predictions]] = []
    for prompts, classifier in classifiers(
        model,
        labels.class_names,
        prompt_ladder(task.templates),
        precision=runner.settings.precision,
        cache=None if runner.cache is None else runner.cache / "classifiers",
    ):
        ranked = class_probabilities(model, embeds, classifier) if task.metric == "map_11pt" else None
        sets.append((prompts, classify(embeds, labels, classifier, task.metric, probabilities=ranked)))
    shown: list[dict[str, Any]] = []
    top1s: list[Metric] = []
    gains: list[Metric] = []
    for prompts, made in sets:
        top1 = share(name, f"top1[{prompts.name}]", int(made.hits.sum()), len(embeds))
        example = fill(prompts, labels.class_names[:1])[0][0]
        entry = {"name": prompts.name, "value": top1.value, "ci95": top1.ci95, "example": example}
        if top1s:
            gain, interval = paired_gain(sets[0][1].hits, made.hits)
            entry |= {"gain": gain, "gain_ci95": interval}
            title = f"top1_gain[{prompts.name} over {sets[0][0].name}]"
            gains.append(Metric(name, title, gain, interval, len(embeds)))
        shown.append(entry)
        top1s.append(top1)
    matrix, count = labels.label_matrix, len(embeds)
    occurring = len(np.unique(labels.class_ids)) if matrix is None else int((matrix > 0).any(axis=0).sum())
    classes = {"classes": len(labels.class_names), "classes_that_occur": occurring}
    extra: dict[str, Any] = {"prompts": shown, **classes}
    if labels.group_field:
        extra["groups"] = labels.group_field
    if matrix is None and runner.cache is not None:  # (N, C) of memory for the files of a suite
        extra["reliability"] = _reliability(class_probabilities(model, embeds, classifier), made.hits)
    counts = [Metric(name, what, float(value), None, count) for what, value in classes.items()]
    unreadable = float(np.isnan(embeds[:, 0]).sum())
    counts.append(Metric(name, "unlabelled", float(labels.unlabelled), None, count + labels.unlabelled))
    counts.append(Metric(name, "unreadable", unreadable, None, count))
    return replace(runner.classified(made, extra), logged=(*top1s[:-1], *gains, *counts))


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
    cleaned = Templates("cleaned names", BARE.templates, templates.names, templates.source)
    with_names = templates.names and templates.templates != BARE.templates
    return (BARE, PHOTO, *([cleaned] if with_names else []), templates)


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
