"""Prompt ablation: what each template is worth, how many are enough, and which to take.

Templates and weights are chosen on validation images and scored on test images, in embedding space.

Source: Radford et al. 2021, section 3.1.4 and figure 4; Caruana et al. 2004 (greedy selection).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from diptych.core.checks import Bools, Doubles, Floats, Ints
from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.evaluate.classifier import ensemble_probabilities
from diptych.evaluate.metrics.classification import label_ranks, score_ranks
from diptych.evaluate.metrics.intervals import Interval, mcnemar, paired_gain, share

if TYPE_CHECKING:
    from diptych.models.model import Model

DRAWS = 20  # random orders of the templates behind the curve of sizes
ROUNDS = 3  # of the coordinate search, each over all templates
FACTORS = (0.0, 0.5, 2.0)  # what the coordinate search tries to multiply a weight with
TASK = "ablation"


@dataclass(frozen=True, slots=True)
class LabeledImages:
    """Image embeddings (N, E), unit length or NaN where unreadable, with their classes (N,) in [0, C)."""

    image_embeds: Floats
    labels: Ints

    def part(self, rows: Ints) -> "LabeledImages":
        """Return some of them."""
        return LabeledImages(self.image_embeds[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class PromptScore:
    """One way to write prompts on the test images: accuracy with its 95 % interval, and paired gains.

    Attributes:
        over_all: gain over the plain ensemble of all templates, None for that itself, as `over_bare`.
        p_value: exact McNemar, against the plain ensemble.
        weights: template -> weight where templates were chosen, weights adding up to one.
    """

    name: str
    accuracy: Metric
    over_bare: Metric | None
    over_all: Metric | None
    p_value: float
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnsembleSize:
    """Random ensembles of one size: templates, mean accuracy over draws, and the middle 95 % of the draws."""

    templates: int
    mean: float
    spread: Interval


@dataclass(frozen=True, slots=True)
class Ablation:
    """Result of an ablation; `validation` and `test` are counts of images.

    Attributes:
        sets: bare names, the default template, the plain ensembles in both spaces, the chosen ones.
        templates: each template by itself, the best first.
        sizes: random nested ensembles, by size.
    """

    sets: tuple[PromptScore, ...]
    templates: tuple[PromptScore, ...]
    sizes: tuple[EnsembleSize, ...]
    validation: int
    test: int


def split_halves(count: int) -> tuple[Ints, Ints]:
    """Draw validation and test rows: two halves without a common row."""
    order = numpy_rng(0, "ablation split").permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def ensemble(classifiers: Floats, weights: Doubles | None = None) -> Floats:
    """Average templates (T, C, E), weighted (T,) or alike, into one classifier (C, E) of unit length."""
    weights = np.ones(len(classifiers)) if weights is None else weights
    mean = np.tensordot(weights / weights.sum(), classifiers.astype(np.float64), axes=1)
    unit: Floats = (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)
    return unit


def accuracy(images: LabeledImages, classifier: Floats) -> float:
    """Return the fraction of images whose class scores highest, ties counting as wrong."""
    return float(_hits(images, classifier).mean())


def choose_greedily(validation: LabeledImages, classifiers: Floats) -> Doubles:
    """Add the template that helps most, until none helps; one may be added twice. Return the counts (T,)."""
    counts = np.zeros(len(classifiers))
    best = -1.0
    while True:
        candidates = counts + np.eye(len(classifiers))
        accuracies = [accuracy(validation, ensemble(classifiers, candidate)) for candidate in candidates]
        chosen = int(np.argmax(accuracies))
        if accuracies[chosen] <= best:
            return counts
        best, counts = accuracies[chosen], candidates[chosen]


def choose_weights(validation: LabeledImages, classifiers: Floats) -> Doubles:
    """Search weights (T,) coordinate by coordinate, without gradients, from equal ones."""
    rng = numpy_rng(0, "ablation weights")
    weights = np.ones(len(classifiers))
    best = accuracy(validation, ensemble(classifiers, weights))
    for _ in range(ROUNDS):
        before = best
        for template, factor in itertools.product(rng.permutation(len(classifiers)).tolist(), FACTORS):
            candidate = weights.copy()
            candidate[template] *= factor
            reached = accuracy(validation, ensemble(classifiers, candidate)) if candidate.any() else -1.0
            if reached > best:
                best, weights = reached, candidate
        if best == before:
            break
    return weights


def ensemble_sizes(test: LabeledImages, classifiers: Floats) -> tuple[EnsembleSize, ...]:
    """Score random nested ensembles of 1, 2, 3, 4, 6, 8, 12, … and T templates."""
    rng = numpy_rng(0, "ablation sizes")
    sizes = sizes_to_try(len(classifiers))
    table = np.empty((DRAWS, len(sizes)))
    for draw in range(DRAWS):
        order = rng.permutation(len(classifiers))
        table[draw] = [accuracy(test, ensemble(classifiers[order[:size]])) for size in sizes]
    low, high = np.quantile(table, [0.025, 0.975], axis=0)
    return tuple(
        EnsembleSize(size, float(table[:, column].mean()), (float(low[column]), float(high[column])))
        for column, size in enumerate(sizes)
    )


def sizes_to_try(count: int) -> list[int]:
    """List ensemble sizes, closer together where they are small.

    >>> sizes_to_try(80)
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80]
    """
    powers = (2**power for power in range(count.bit_length() + 1))
    return sorted({size for power in powers for size in (power, power * 3 // 2) if size < count} | {count})


def ablate(
    validation: LabeledImages,
    test: LabeledImages,
    classifiers: Floats,
    *,
    templates: Sequence[str],
    plain: Sequence[tuple[str, Floats]],
    model: "Model",
) -> Ablation:
    """Score every way to write prompts on the test images; what is chosen is chosen on the validation images.

    Args:
        validation: images to choose on; none of them is in the test.
        test: images to score on.
        classifiers: (T, C, E), one for each template.
        templates: T texts.
        plain: further classifiers with their names, bare names the first.
        model: made the rest; for the ensemble in probability space.
    """
    if not len(validation.labels) or not len(test.labels):
        raise DataError(
            "too few labeled images to compare templates",
            found=f"{len(validation.labels)} to choose on, {len(test.labels)} to score",
            expected="one or more of each",
            fix="label more images, or name images to choose on with --validation",
        )
    whole = _hits(test, ensemble(classifiers))
    hits = {name: _hits(test, classifier) for name, classifier in plain}
    bare = hits[plain[0][0]]
    hits[f"all {len(templates)} templates"] = whole
    probabilities = ensemble_probabilities(model, test.image_embeds, classifiers)
    hits["all, in probability space"] = score_ranks(probabilities, test.labels) < 1
    scores = [_score(name, of_set, bare, whole) for name, of_set in hits.items()]
    alone = np.argmax([accuracy(validation, each) for each in classifiers])
    chosen = {
        "best template": np.eye(len(templates))[alone],
        "greedy": choose_greedily(validation, classifiers),
        "weighted": choose_weights(validation, classifiers),
    }
    for name, weights in chosen.items():
        shares = (weights / weights.sum()).tolist()
        named = {template: weight for template, weight in zip(templates, shares, strict=True) if weight}
        scores.append(_score(name, _hits(test, ensemble(classifiers, weights)), bare, whole, named))
    each = [
        _score(text, _hits(test, classifier), bare, whole)
        for text, classifier in zip(templates, classifiers, strict=True)
    ]
    each.sort(key=lambda score: -score.accuracy.value)
    sizes = ensemble_sizes(test, classifiers)
    return Ablation(tuple(scores), tuple(each), sizes, len(validation.labels), len(test.labels))


def _hits(images: LabeledImages, classifier: Floats) -> Bools:
    return label_ranks(images.image_embeds, images.labels, classifier) < 1


def _score(
    name: str, hits: Bools, bare: Bools, whole: Bools, weights: dict[str, float] | None = None
) -> PromptScore:
    return PromptScore(
        name,
        share(TASK, f"top1[{name}]", int(hits.sum()), len(hits)),
        _gain(f"top1_gain[{name} over bare names]", bare, hits) if hits is not bare else None,
        _gain(f"top1_gain[{name} over all templates]", whole, hits) if hits is not whole else None,
        mcnemar(whole, hits),
        weights or {},
    )


def _gain(name: str, before: Bools, after: Bools) -> Metric:
    value, interval = paired_gain(before, after)
    return Metric(TASK, name, value, interval, len(before))
