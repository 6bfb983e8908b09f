"""The protocols that learn from images: the paper's linear probe, and probes on a few images of each class.

Source: Radford et al. 2021, section 3.2 (probe) and figure 6 (few shots).
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from diptych.core.checks import Bools, Floats, Ints
from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.evaluate.metrics.classification import score_ranks
from diptych.evaluate.metrics.intervals import bootstrap
from diptych.evaluate.metrics.ranks import NEVER
from diptych.evaluate.suite.scoring import Predictions, ProtocolResult, TaskLabels, TaskRunner, task_labels

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.evaluate.probe.linear_probe import LinearProbe

FEW_SHOT_C = 0.316  # OpenAI's README fits with it; k images of a class leave none to choose by
SHOT_DRAWS = 3  # draws of training images whose hits are averaged
HELD_OUT = 5  # where a data set has no validation split, a fifth of the training images is one


def probe(runner: TaskRunner) -> ProtocolResult:
    """Fit the paper's linear probe on the training images and score the same test images."""
    from diptych.evaluate.probe.linear_probe import search  # brings scikit-learn, where it is installed

    data = TrainingData(runner)
    (train, labels), (val, val_labels) = data.split()
    chosen = search(train, labels, val, val_labels)
    extra = {
        "C": chosen.probe.C,
        "trained_on": len(train) + len(val),
        "unreadable_in_training": chosen.unreadable,
        "gradient_norm": float(f"{chosen.probe.gradient_norm_:.3g}"),
    }
    return runner.classified(probe_predictions(chosen.probe, data.test, data.test_labels), extra)


def few_shot(runner: TaskRunner) -> ProtocolResult:
    """Fit probes on a few images of each class, or all it has; the value is that of the most images.

    Hits are averaged over a few draws; the interval is that of the test images.
    """
    from diptych.evaluate.probe.linear_probe import LinearProbe

    spec, data = runner.task.spec, TrainingData(runner)
    readable = np.asarray(~np.isnan(data.train).any(axis=1))
    curve: list[Metric] = []
    for shots in sorted(spec.shots):
        draws = [draw_shots(data.train_labels, readable, shots, draw) for draw in range(SHOT_DRAWS)]
        fitted = [LinearProbe(FEW_SHOT_C).fit(data.train[rows], data.train_labels[rows]) for rows in draws]
        hits = np.mean([probe_predictions(one, data.test, data.test_labels).hits for one in fitted], axis=0)
        interval = bootstrap(lambda rows, hits=hits: float(hits[rows].mean()), len(hits))  # type: ignore[misc]
        curve.append(Metric(spec.name, f"{shots}_shot_accuracy", float(hits.mean()), interval, len(hits)))
    extra = {"shots": sorted(spec.shots), "draws": SHOT_DRAWS, "C": FEW_SHOT_C}
    arrays = {"hits": hits.astype(np.float32)}
    return ProtocolResult(curve[-1], data.test_labels, tuple(curve), extra=extra, arrays=arrays)


class TrainingData:
    """Features before the projection: training images with their class numbers, and labeled test images."""

    def __init__(self, runner: TaskRunner) -> None:
        task, names = runner.task, runner.labels.class_names
        assert task.train is not None
        test = runner.features(task.source, "penultimate", runner.digest).image_embeds
        self.test = np.asarray(test[runner.labels.rows])

        def labeled(source: "Source") -> tuple[Floats, Ints]:
            nonlocal names
            embedded = runner.features(source, "penultimate")
            labels = task_labels(task, embedded, first=names)
            names = labels.class_names
            return np.asarray(embedded.image_embeds[labels.rows]), labels.class_ids

        self.train, self.train_labels = labeled(task.train)
        self._val = labeled(task.val) if task.val is not None else None
        self.test_labels = replace(runner.labels, class_names=names)  # and those of training images alone

    def split(self) -> tuple[tuple[Floats, Ints], tuple[Floats, Ints]]:
        """Return training and validation images."""
        if self._val is not None:
            return (self.train, self.train_labels), self._val
        order = numpy_rng(0, "validation").permutation(len(self.train_labels))
        held, kept = np.sort(order[::HELD_OUT]), np.sort(np.delete(order, np.s_[::HELD_OUT]))
        if not len(kept):
            raise DataError("too few training images for a probe", found=f"{len(order)}", expected="2")
        return (self.train[kept], self.train_labels[kept]), (self.train[held], self.train_labels[held])


def probe_predictions(probe: "LinearProbe", features: Floats, labels: TaskLabels) -> Predictions:
    """Classify features (N, D) by a probe that is fitted on class numbers; NaN rows are unreadable images.

    A class that the probe did not see in training is never predicted.
    """
    unreadable = np.isnan(features).any(axis=1)
    readable = np.flatnonzero(~unreadable)
    logits = np.full((len(features), len(labels.class_names)), -np.inf)
    logits[unreadable] = np.nan
    if len(readable):
        seen = probe.decision_function(features[readable])
        seen = np.stack([-seen / 2, seen / 2], axis=1) if seen.ndim == 1 else seen
        logits[np.ix_(readable, probe.classes_)] = seen
    predicted = np.full(len(features), -1, dtype=np.int64)
    predicted[readable] = logits[readable].argmax(axis=1)
    ranks = score_ranks(logits, labels.class_ids)
    ranks = np.where(np.isin(labels.class_ids, probe.classes_), ranks, NEVER)
    return Predictions(labels, ranks, predicted, logits)


def draw_shots(labels: Ints, readable: Bools, shots: int, draw: int) -> Ints:
    """Return the rows of up to `shots` readable images of every class; more shots keep those of fewer."""
    order = numpy_rng(0, "shots", draw).permutation(np.flatnonzero(readable))
    kept = [order[labels[order] == label][:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))
