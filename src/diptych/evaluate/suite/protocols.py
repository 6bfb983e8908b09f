"""Ask a model in one way after the other: words, a probe, a few images, retrieval, a choice of captions.

Every protocol answers about the same images in the same order, so two of them, or two models, can be
compared image by image.

Reads: the pictures of a task, once (see `features_cache`). Writes: nothing but the caches.
Source: Radford et al. 2021, sections 3.1 (zero-shot), 3.2 (probe), figure 6 (few shots), appendix E.1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Bools, Doubles, Floats, Ints
from diptych.core.errors import DataError, unknown_name
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.classifier import class_probabilities
from diptych.evaluate.compositional import (
    caption_scores,
    choice_hits,
    choice_metrics,
    quadruple_hits,
    quadruple_metrics,
    quadruples,
)
from diptych.evaluate.metrics.classification import reliability, score_ranks
from diptych.evaluate.metrics.intervals import bootstrap, paired_gain
from diptych.evaluate.metrics.ranks import NEVER
from diptych.evaluate.prompts.templates import PHOTO, fill
from diptych.evaluate.retrieval import RetrievalEvaluator, image_queries, text_queries
from diptych.evaluate.suite.features_cache import FeatureSettings, Kind, cached_pairs, data_digest
from diptych.evaluate.suite.labels import TaskLabels, groups_of, labels_of
from diptych.evaluate.suite.plan import WITHOUT_CLASSES, Opened, Protocol
from diptych.evaluate.suite.scoring import (
    Outcome,
    classify,
    further_metrics,
    main_metric,
    mean_of_shares,
    sliced,
)
from diptych.evaluate.tasks.readers.choices import GROUP
from diptych.evaluate.zeroshot import classifiers, prompt_ladder

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.evaluate.probe.linear_probe import LinearProbe
    from diptych.models.model import Model

FEW_SHOT_C = 0.316
"""OpenAI's README fits with it; k images of a class leave none to choose by."""

SHOT_DRAWS = 3
"""Draws of training images whose answers are averaged."""

HELD_OUT = 5
"""Where a data set has no validation split, a fifth of the training images is one."""

DIGITS = 4
"""Decimals of confidences: what a diagram shows, and the same whatever the batch size."""

SOURCE_OF_PICTURES = "image_to_text_recall@1", "text_to_image_recall@1"


@dataclass(frozen=True, slots=True)
class Answers:
    """What one protocol found.

    Attributes:
        metric: the main number.
        metrics: further ones.
        slices: the share of hits by values of fields.
        extra: whatever else a report of it shows, plain values.
        arrays: per image, by name: what another model's answers are compared with.
    """

    metric: Metric
    metrics: tuple[Metric, ...] = ()
    slices: tuple[Metric, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class TaskRunner:
    """A model in front of one task, whose images are embedded once.

    Args:
        model: the model.
        opened: the task.
        digest: the data's, see `features_cache`.
        cache: folder of features and classifiers.
        settings: how features are made.
    """

    def __init__(
        self, model: "Model", opened: Opened, *, digest: str, cache: Path, settings: FeatureSettings
    ) -> None:
        self.model, self.opened, self.cache, self.settings = model, opened, cache, settings
        self.model_digest, self.digest = model.digest, digest
        self.embedded = self.features(opened.source, "embeds", digest)
        self.task_labels: TaskLabels | None = None
        if opened.kind not in WITHOUT_CLASSES and set(opened.protocols) - {"retrieval"}:
            self.task_labels = labels_of(opened, self.embedded)

    def features(self, source: "Source", kind: Kind, digest: str = "") -> EmbeddedPairs:
        """Return the rows of a source, "embeds" or "penultimate" ones."""
        return cached_pairs(
            self.model,
            source,
            self.cache / "features",
            model_digest=self.model_digest,
            data_digest=digest or data_digest(source, *self.opened.choices),
            kind=kind,
            settings=self.settings,
        )

    def prepare(self) -> None:
        """Embed all that the task's protocols read, for another process to score."""
        refused = {protocol for protocol, _ in self.opened.missing}
        if {"probe", "few_shot"} & set(self.opened.protocols) - refused:
            _Learning(self)

    def labelled(self) -> TaskLabels:
        """Return the labels of a task that has some."""
        assert self.task_labels is not None
        return self.task_labels

    def run(self, protocol: Protocol) -> Answers:
        """Ask in one way."""
        return PROTOCOLS[protocol](self)


def zeroshot(runner: TaskRunner) -> Answers:
    """Classify by words alone, in the metric of the data set."""
    opened, task_labels = runner.opened, runner.labelled()
    embeds = np.asarray(runner.embedded.image_embeds[task_labels.rows])
    precision, cache = runner.settings.precision, runner.cache / "classifiers"
    prompts: list[dict[str, Any]] = []
    first: Bools | None = None
    groups, group_field = groups_of(opened, runner.embedded, task_labels.rows)
    ladder = prompt_ladder(None if opened.templates == PHOTO else opened.templates)
    for templates, classifier in classifiers(
        runner.model, task_labels.class_names, ladder, precision=precision, cache=cache
    ):
        outcome = classify(
            embeds, task_labels.class_ids, classifier, opened.metric,
            label_matrix=task_labels.marks, groups=groups,
            probabilities=class_probabilities(runner.model, embeds, classifier),
        )  # fmt: skip
        share = further_metrics(outcome, task=opened.spec.name)[0]
        example = fill(templates, task_labels.class_names[:1])[0][0]
        told = {"name": templates.name, "value": share.value, "ci95": share.ci95, "example": example}
        if first is not None:
            told["gain"], told["gain_ci95"] = paired_gain(first, outcome.hits)
        first = outcome.hits if first is None else first
        prompts.append(told)
    occurring = (
        np.unique(task_labels.class_ids)
        if task_labels.marks is None
        else np.flatnonzero((task_labels.marks > 0).any(axis=0))
    )
    extra: dict[str, Any] = {
        "prompts": prompts,
        "classes": len(task_labels.class_names),
        "classes_that_occur": len(occurring),
    }
    if group_field:
        extra["groups"] = group_field
    if task_labels.marks is None:
        confidence, answered = _confidences(runner.model, embeds, classifier)
        extra["reliability"] = _reliability(confidence[answered], outcome.hits[answered])
    return _classified(runner, outcome, extra)


def probe(runner: TaskRunner) -> Answers:
    """Fit the paper's linear probe on the training images and score the same test images."""
    from diptych.evaluate.probe.linear_probe import search  # brings scikit-learn, where it is installed

    task_labels = runner.labelled()
    learn = _Learning(runner)
    (train, labels), (val, val_labels) = learn.split()
    found = search(train, labels, val, val_labels)
    outcome = probe_outcome(
        found.probe, learn.test[task_labels.rows], task_labels.class_ids, learn.class_count
    )
    extra = {
        "C": found.probe.C,
        "trained_on": len(train) + len(val),
        "unreadable_in_training": found.unreadable,
        "gradient_norm": float(f"{found.probe.gradient_norm_:.3g}"),
    }
    return _classified(runner, outcome, extra)


def few_shot(runner: TaskRunner) -> Answers:
    """Fit probes on a few images of each class; the value is that of the most images.

    A class with fewer images gives those it has. Hits are averaged over a few draws; the interval is that
    of the test images.
    """
    from diptych.evaluate.probe.linear_probe import LinearProbe

    task_labels, spec = runner.labelled(), runner.opened.spec
    learn = _Learning(runner)
    curve: list[Metric] = []
    hits = np.zeros(len(task_labels.rows))
    for shots in sorted(spec.shots):
        drawn = []
        for draw in range(SHOT_DRAWS):
            rows = few(learn.labels, learn.readable, shots, draw)
            fitted = LinearProbe(FEW_SHOT_C).fit(learn.train[rows], learn.labels[rows])
            drawn.append(
                probe_outcome(
                    fitted, learn.test[task_labels.rows], task_labels.class_ids, learn.class_count
                ).hits
            )
        hits = np.mean(drawn, axis=0)
        interval = bootstrap(_mean_of(hits), len(hits))
        curve.append(Metric(spec.name, f"{shots}_shot_accuracy", float(hits.mean()), interval, len(hits)))
    extra = {"shots": sorted(spec.shots), "draws": SHOT_DRAWS, "C": FEW_SHOT_C}
    return Answers(curve[-1], tuple(curve), (), extra, {"hits": hits.astype(np.float32)})


def retrieval(runner: TaskRunner) -> Answers:
    """Find texts of images and images of texts; the value is the mean of recall at 1 both ways."""
    spec, embedded = runner.opened.spec, runner.embedded
    evaluator = RetrievalEvaluator(spec.name, runner.opened.source, runner.settings.precision)
    result = evaluator.score(runner.model, embedded)
    metrics = result.metrics()
    named = {found.metric: found for found in metrics}
    main = mean_of_shares(*(named[name] for name in SOURCE_OF_PICTURES), task=spec.name, name="recall")
    hits = result.image_ranks < 1
    extra = {
        "texts": len(result.texts),
        "captions": len(result.pairs),
        "text_queries": [
            {"text": text, "found": [list(pair) for pair in found]}
            for text, found in text_queries(result, embedded, 0)
        ],
        "image_queries": [
            {"row": row, "found": [list(pair) for pair in found]}
            for row, found in image_queries(result, embedded, 0)
        ],
    }
    arrays = {"hits": hits, "text_hits": result.text_ranks < 1}
    return Answers(main, tuple(metrics), _slices(runner, hits, np.arange(len(hits))), extra, arrays)


def caption_choice(runner: TaskRunner) -> Answers:
    """Tell right captions from wrong ones; of images in pairs, Winoground's three scores."""
    embedded, task = runner.embedded, runner.opened.spec.name
    scores = caption_scores(runner.model, embedded, precision=runner.settings.precision)
    if runner.opened.metric == "group_score":
        found = quadruple_hits(quadruples(scores, embedded))
        hits, metrics = found["group"], quadruple_metrics(found, task=task)
    else:
        hits = choice_hits(scores)
        metrics = choice_metrics([str(fields[GROUP]) for fields in embedded.fields], hits, task=task)
    main = next(metric for metric in metrics if metric.metric == runner.opened.metric)
    return Answers(main, tuple(metrics), (), {}, {"hits": hits})


PROTOCOLS: Mapping[Protocol, Callable[[TaskRunner], Answers]] = {
    "zeroshot": zeroshot, "probe": probe, "few_shot": few_shot, "retrieval": retrieval,
    "caption_choice": caption_choice,
}  # fmt: skip


def _mean_of(values: Doubles) -> Callable[[Ints], float]:
    return lambda rows: float(values[rows].mean())


def probe_outcome(probe: "LinearProbe", features: Floats, labels: Ints, class_count: int) -> Outcome:
    """Answer by a fitted probe; a class that it did not see in training is never the answer.

    Args:
        probe: fitted on class numbers.
        features: (N, D); NaN rows are unreadable.
        labels: (N,) in [0, C).
        class_count: C.
    """
    readable = np.flatnonzero(~np.isnan(features).any(axis=1))
    logits = np.full((len(features), class_count), -np.inf)
    logits[np.isnan(features).any(axis=1)] = np.nan
    if len(readable):
        found = probe.decision_function(features[readable])
        found = np.stack([-found / 2, found / 2], axis=1) if found.ndim == 1 else found
        logits[np.ix_(readable, probe.classes_)] = found
    predicted = np.full(len(features), -1, dtype=np.int64)
    predicted[readable] = logits[readable].argmax(axis=1)
    ranks = score_ranks(logits, labels)
    known = np.isin(labels, probe.classes_)
    return Outcome(labels, np.where(known, ranks, NEVER), predicted, class_count, logits)


class _Learning:
    """The training images of a task with their class numbers, and the test images, before projection."""

    def __init__(self, runner: TaskRunner) -> None:
        opened, self.names = runner.opened, runner.labelled().class_names
        assert opened.train is not None
        self.test = np.asarray(runner.features(opened.source, "penultimate", runner.digest).image_embeds)
        self.train, self.labels = self._labelled(runner, opened.train)
        self.val = self._labelled(runner, opened.val) if opened.val is not None else None
        self.readable: Bools = np.asarray(~np.isnan(self.train).any(axis=1))

    @property
    def class_count(self) -> int:
        """Classes of the task, and those that only training images have."""
        return len(self.names)

    def _labelled(self, runner: TaskRunner, source: "Source") -> tuple[Floats, Ints]:
        embedded = runner.features(source, "penultimate")
        task_labels = labels_of(runner.opened, embedded, beside=self.names)
        self.names = task_labels.class_names
        return np.asarray(embedded.image_embeds[task_labels.rows]), task_labels.class_ids

    def split(self) -> tuple[tuple[Floats, Ints], tuple[Floats, Ints]]:
        """Return training and validation images."""
        if self.val is not None:
            return (self.train, self.labels), self.val
        order = numpy_rng(0, "validation").permutation(len(self.labels))
        held, kept = np.sort(order[::HELD_OUT]), np.sort(np.delete(order, np.s_[::HELD_OUT]))
        if not len(kept):
            raise DataError("too few training pictures for a probe", found=f"{len(order)}", expected="2")
        return (self.train[kept], self.labels[kept]), (self.train[held], self.labels[held])


def few(labels: Ints, readable: Bools, shots: int, draw: int) -> Ints:
    """Draw up to `shots` readable pictures of every class; more shots keep those of fewer.

    Args:
        labels: (N,) class numbers.
        readable: (N,) bool.
        shots: images of each class.
        draw: which draw.

    Returns:
        Rows, rising.
    """
    order = numpy_rng(0, "shots", draw).permutation(np.flatnonzero(readable))
    kept = [order[labels[order] == label][:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))


def _classified(runner: TaskRunner, outcome: Outcome, extra: dict[str, Any]) -> Answers:
    spec, task_labels = runner.opened.spec, runner.labelled()
    if outcome.groups is None:
        groups, _ = groups_of(runner.opened, runner.embedded, task_labels.rows)
        outcome = Outcome(
            outcome.labels, outcome.ranks, outcome.predicted, outcome.class_count, outcome.scores,
            outcome.label_matrix, groups, outcome.probabilities,
        )  # fmt: skip
    return Answers(
        main_metric(outcome, runner.opened.metric, task=spec.name),
        tuple(further_metrics(outcome, task=spec.name)),
        _slices(runner, outcome.hits, task_labels.rows),
        extra,
        {"hits": outcome.hits, "predicted": outcome.predicted},
    )


def _slices(runner: TaskRunner, hits: Bools, rows: Ints) -> tuple[Metric, ...]:
    spec = runner.opened.spec
    found: list[Metric] = []
    known = dict.fromkeys(column for row in rows for column in runner.embedded.fields[row])
    for name in spec.slices:
        if name not in known:
            raise unknown_name("column to slice by", name, known, where=f"task {spec.name!r}")
        values = [runner.embedded.fields[row].get(name) for row in rows]
        found += sliced(hits, values, task=spec.name, name=name)
    return tuple(found)


def _confidences(model: "Model", embeds: Floats, classifier: Floats) -> tuple[Doubles, Bools]:
    """Return how sure the model is of each answer, and whether there is one."""
    confidence = class_probabilities(model, embeds, classifier).max(axis=1)
    return np.round(confidence, DIGITS), ~np.isnan(confidence)


def _reliability(confidence: Doubles, right: Bools) -> dict[str, Any]:
    found = reliability(confidence, right)

    def plain(values: Doubles) -> list[float | None]:
        return [None if np.isnan(value) else round(float(value), DIGITS) for value in values]

    return {
        "ece": plain(np.array([found.error]))[0],
        "counts": found.counts.tolist(),
        "confidences": plain(found.confidences),
        "accuracies": plain(found.accuracies),
    }
