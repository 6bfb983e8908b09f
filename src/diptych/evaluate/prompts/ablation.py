"""The prompt lab: what each template is worth, how many are enough, and which to take.

Everything that is chosen (a set of templates, their weights) is chosen on validation images alone and
scored on test images that had no say. Ensembles are in embedding space unless they say otherwise.

Source: Radford et al. 2021, section 3.1.4 and figure 4 (ensembles in embedding space, 80 templates of
ImageNet, gain over bare names); Caruana et al. 2004 for greedy forward selection with repetition.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Bools, Floats, Ints
from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.evaluate.classifier import ensemble_probabilities
from diptych.evaluate.metrics.classification import label_ranks, score_ranks
from diptych.evaluate.metrics.intervals import Interval, mcnemar, paired_gain, share

if TYPE_CHECKING:
    from diptych.models.model import Model

FACTORS = (0.0, 0.5, 2.0)
"""What the coordinate search tries to multiply a weight with."""

TASK = "ablation"


@dataclass(frozen=True, slots=True)
class Examples:
    """Embedded images with their classes.

    Attributes:
        image_embeds: (N, E) float32, unit length; NaN rows are unreadable and count as wrong.
        labels: (N,) int64 in [0, C).
    """

    image_embeds: Floats
    labels: Ints

    def part(self, rows: Ints) -> "Examples":
        """Return some of them."""
        return Examples(self.image_embeds[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class LabSettings:
    """How much is tried.

    Attributes:
        draws: random orders of the templates behind the curve of sizes.
        rounds: of the coordinate search, each over all templates.
        seed: of both.
    """

    draws: int = 20
    rounds: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One way to write prompts, scored on the test images.

    Attributes:
        name: of it.
        accuracy: with its 95 % interval.
        over_bare: gain over bare names, paired; None for bare names themselves.
        over_all: gain over the plain ensemble of all templates, paired; None for that itself.
        p_value: exact McNemar, against the plain ensemble; 1 for that itself.
        weights: template -> weight where templates were chosen, weights adding up to one.
    """

    name: str
    accuracy: Metric
    over_bare: Metric | None
    over_all: Metric | None
    p_value: float
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Size:
    """Random ensembles of one size: templates, mean accuracy over draws, and the middle 95 % of the draws."""

    templates: int
    mean: float
    spread: Interval


@dataclass(frozen=True, slots=True)
class Ablation:
    """What the lab found.

    Attributes:
        sets: bare names, the default template, the plain ensembles in both spaces, the chosen ones.
        templates: each template by itself, the best first.
        sizes: random nested ensembles, by size.
        validation: images that choices were made on.
        test: images that everything was scored on.
    """

    sets: tuple[Row, ...]
    templates: tuple[Row, ...]
    sizes: tuple[Size, ...]
    validation: int
    test: int


def split_halves(count: int, *, seed: int = 0) -> tuple[Ints, Ints]:
    """Draw validation and test rows: two halves without a common row.

    >>> [len(half) for half in split_halves(5)]
    [2, 3]
    """
    order = numpy_rng(seed, "ablation split").permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def ensemble(classifiers: Floats, weights: NDArray[np.float64] | None = None) -> Floats:
    """Average templates into one classifier.

    Args:
        classifiers: (T, C, E) unit length, see `build_template_classifiers`.
        weights: (T,) not negative, not all zero; equal ones by default.

    Returns:
        (C, E) float32, unit length.
    """
    shares = np.ones(len(classifiers)) if weights is None else weights
    mean = np.tensordot(shares / shares.sum(), classifiers.astype(np.float64), axes=1)
    unit: Floats = (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)
    return unit


def accuracy(examples: Examples, classifier: Floats) -> float:
    """Return the share of images whose class scores highest, ties counting as wrong."""
    return float(_hits(examples, classifier).mean())


def choose_greedily(validation: Examples, classifiers: Floats) -> NDArray[np.float64]:
    """Add the template that helps most, again and again, until none helps; a template may be added twice.

    Args:
        validation: images to choose on.
        classifiers: (T, C, E).

    Returns:
        (T,) counts.
    """
    weights = np.zeros(len(classifiers))
    best = -1.0
    while True:
        tried = []
        for place in range(len(classifiers)):
            more = weights.copy()
            more[place] += 1
            tried.append(accuracy(validation, ensemble(classifiers, more)))
        place = int(np.argmax(tried))
        if tried[place] <= best:
            return weights
        best = tried[place]
        weights[place] += 1


def choose_weights(validation: Examples, classifiers: Floats, settings: LabSettings) -> NDArray[np.float64]:
    """Search weights coordinate by coordinate, without gradients, from equal ones.

    Args:
        validation: images to choose on.
        classifiers: (T, C, E).
        settings: rounds and seed of the order in which templates are tried.

    Returns:
        (T,) weights.
    """
    rng = numpy_rng(settings.seed, "ablation weights")
    weights = np.ones(len(classifiers))
    best = accuracy(validation, ensemble(classifiers, weights))
    for _ in range(settings.rounds):
        before = best
        for place, factor in itertools.product(rng.permutation(len(classifiers)).tolist(), FACTORS):
            tried = weights.copy()
            tried[place] *= factor
            reached = accuracy(validation, ensemble(classifiers, tried)) if tried.any() else -1.0
            if reached > best:
                best, weights = reached, tried
        if best == before:
            break
    return weights


def ensemble_sizes(test: Examples, classifiers: Floats, settings: LabSettings) -> tuple[Size, ...]:
    """Score random nested ensembles: each draw orders the templates and grows by them.

    Args:
        test: images.
        classifiers: (T, C, E).
        settings: draws and seed.

    Returns:
        One entry for each of the sizes 1, 2, 3, 4, 6, 8, 12, 16, 24, … and T.
    """
    rng = numpy_rng(settings.seed, "ablation sizes")
    count = len(classifiers)
    sizes = sizes_to_try(count)
    table = np.empty((settings.draws, len(sizes)))
    for draw in range(settings.draws):
        order = rng.permutation(count)
        for place, size in enumerate(sizes):
            table[draw, place] = accuracy(test, ensemble(classifiers[order[:size]]))
    low, high = np.quantile(table, [0.025, 0.975], axis=0)
    return tuple(
        Size(size, float(table[:, place].mean()), (float(low[place]), float(high[place])))
        for place, size in enumerate(sizes)
    )


def sizes_to_try(count: int) -> list[int]:
    """List ensemble sizes, closer together where they are small.

    >>> sizes_to_try(80)
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80]
    """
    powers = (2**power for power in range(count.bit_length() + 1))
    return sorted({size for power in powers for size in (power, power * 3 // 2) if size < count} | {count})


def ablate(
    validation: Examples,
    test: Examples,
    classifiers: Floats,
    *,
    templates: Sequence[str],
    plain: Sequence[tuple[str, Floats]],
    model: "Model",
    settings: LabSettings | None = None,
) -> Ablation:
    """Score every way to write prompts on the test images.

    Args:
        validation: images to choose on; none of them is in the test.
        test: images to score on.
        classifiers: (T, C, E), one for each template.
        templates: T texts.
        plain: further classifiers with their names, bare names the first.
        model: made the rest; for the ensemble in probability space.
        settings: how much is tried.

    Raises:
        DataError: there is no image to choose on, or none to score.
    """
    if not len(validation.labels) or not len(test.labels):
        raise DataError(
            "too few labelled images to compare templates",
            found=f"{len(validation.labels)} to choose on, {len(test.labels)} to score",
            expected="one or more of each",
            fix="label more images, or name images to choose on with --validation",
        )
    settings = settings or LabSettings()
    whole = _hits(test, ensemble(classifiers))
    hits = {name: _hits(test, classifier) for name, classifier in plain}
    bare = hits[plain[0][0]]
    shares = ensemble_probabilities(model, test.image_embeds, classifiers)
    rows = [_row(name, found, bare, whole) for name, found in hits.items()]
    rows.append(_row(f"all {len(templates)} templates", whole, bare, whole))
    rows.append(_row("all, in probability space", score_ranks(shares, test.labels) < 1, bare, whole))
    chosen = {
        "best template": _one(len(templates), [accuracy(validation, each) for each in classifiers]),
        "greedy": choose_greedily(validation, classifiers),
        "weighted": choose_weights(validation, classifiers, settings),
    }
    for name, weights in chosen.items():
        told = {
            templates[place]: float(weights[place] / weights.sum())
            for place in np.flatnonzero(weights).tolist()
        }
        rows.append(_row(name, _hits(test, ensemble(classifiers, weights)), bare, whole, told))
    each = [
        _row(text, _hits(test, classifier), bare, whole)
        for text, classifier in zip(templates, classifiers, strict=True)
    ]
    each.sort(key=lambda row: -row.accuracy.value)
    sizes = ensemble_sizes(test, classifiers, settings)
    return Ablation(tuple(rows), tuple(each), sizes, len(validation.labels), len(test.labels))


def _one(count: int, scores: Sequence[float]) -> NDArray[np.float64]:
    weights = np.zeros(count)
    weights[int(np.argmax(scores))] = 1.0
    return weights


def _hits(examples: Examples, classifier: Floats) -> Bools:
    return label_ranks(examples.image_embeds, examples.labels, classifier) < 1


def _row(name: str, hits: Bools, bare: Bools, whole: Bools, weights: dict[str, float] | None = None) -> Row:
    found = share(TASK, f"top1[{name}]", int(hits.sum()), len(hits))
    return Row(
        name,
        found,
        _gain(f"top1_gain[{name} over bare names]", bare, hits) if hits is not bare else None,
        _gain(f"top1_gain[{name} over all templates]", whole, hits) if hits is not whole else None,
        mcnemar(whole, hits),
        weights or {},
    )


def _gain(name: str, before: Bools, after: Bools) -> Metric:
    value, interval = paired_gain(before, after)
    return Metric(TASK, name, value, interval, len(before))
