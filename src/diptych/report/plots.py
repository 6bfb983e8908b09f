"""Numbers as text, and the geometry of the plots that the templates draw as SVG and HTML."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.report.data import ClassStudy, Curve, PromptTable

MAX_POINTS = 600  # drawn of a curve; more than pixels only make the file larger
SMOOTHING = 40  # the running mean is over 1 / 40 of the points
SPACE = "\u202f"  # a narrow space that does not break: between a number and its unit
SHOWN_CLASSES = 20  # in the heat map: more cannot be read; with more, those with the most errors are shown
SHOWN_CONFUSIONS = 12  # in the list: two columns of six


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Choose about `count` round numbers inside [low, high].

    >>> ticks(0, 7)
    [0.0, 2.0, 4.0, 6.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Format a number for an axis.

    >>> number(1_250_000), number(12_500), number(0.25), number(3.0)
    ('1.25 M', '12.5 k', '0.25', '3')
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def whole(count: int) -> str:
    """Format a count with separated thousands.

    >>> whole(31009)
    '31\u202f009'
    """
    return f"{count:,}".replace(",", SPACE)


def percent(share: float) -> str:
    """Format a fraction as per cent with one decimal.

    >>> percent(0.4567)
    '45.7\u202f%'
    """
    return "–" if math.isnan(share) else f"{100 * share:.1f}{SPACE}%"


def points(share: float) -> str:
    """Format a difference of fractions as signed percentage points.

    >>> points(-0.0123)
    '−1.2'
    """
    return f"{100 * share:+.1f}".replace("-", "−")


def across(value: float, top: float = 1.0) -> float:
    """Return a value on [0, top] as per cent of the width of its bar."""
    return 0.0 if math.isnan(value) else 100 * min(max(value / top, 0.0), 1.0)


class Drawing(NamedTuple):
    """The geometry of a curve: points in a square of 1000, positions in per cent from the top or the left."""

    label: str
    last: float
    levels: list[tuple[float, float]]
    ticks: list[tuple[float, float]]
    values: str
    mean: str
    dot: bool
    beside: str
    band: str
    reference: float


def drawing(curve: Curve) -> Drawing | None:
    """Return the geometry of a curve, None where it has no finite value."""
    x, y = np.asarray(curve.x, dtype=np.float64), np.asarray(curve.y, dtype=np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    more = [*(curve.band or ()), *([curve.beside[1]] if curve.beside else ())]
    x, y, *others = [thin(np.asarray(part, dtype=np.float64)[finite]) for part in (x, y, *more)]
    if not len(x):
        return None
    low, high = _range(np.concatenate([y, *others]), curve.reference)
    left, right = float(x[0]) if len(x) > 1 else 0.0, float(x[-1])
    right = right if right > left else left + 1

    def top(level: float) -> float:
        return 100 * (1 - (level - low) / (high - low))

    def path(values: NDArray[np.float64]) -> list[str]:
        up, along = (values - low) / (high - low), (x - left) / (right - left)
        return [f"{1000 * a:.1f},{1000 * (1 - b):.1f}" for a, b in zip(along, up, strict=True)]

    def joined(values: NDArray[np.float64]) -> str:
        drawn = path(values)
        return " ".join(drawn if len(drawn) > 1 else 2 * drawn)  # a line of no length is a dot

    smoothed = smooth(y)
    ends = f"from {number(float(y[0]))} to {number(float(smoothed[-1]))}"
    return Drawing(
        label=f"{curve.name}: {ends} over {number(right)} {curve.x_name}",
        last=float(smoothed[-1]),
        levels=[(level, top(level)) for level in ticks(low, high) if low <= level <= high],
        ticks=[(tick, 100 * (tick - left) / (right - left)) for tick in ticks(left, right, 3)],
        values=joined(y),
        mean=joined(y if curve.beside else smoothed),
        dot=len(x) == 1,
        beside=joined(others[-1]) if curve.beside else "",
        band=" ".join(path(others[0]) + path(others[1])[::-1]) if curve.band else "",
        reference=top(curve.reference[1]) if curve.reference else 0.0,
    )


def thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep at most `MAX_POINTS` values, evenly spread, the first and the last among them."""
    kept = np.linspace(0, len(values) - 1, min(MAX_POINTS, len(values))).round().astype(np.int64)
    return values[kept]


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centered running mean; the window shrinks at the ends."""
    sums, index = np.concatenate([[0.0], np.cumsum(values)]), np.arange(len(values))
    reach = np.minimum(len(values) // SMOOTHING // 2, np.minimum(index, index[::-1]))
    return np.asarray((sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1), dtype=np.float64)


def _range(y: NDArray[np.float64], reference: tuple[str, float] | None) -> tuple[float, float]:
    """Choose the range of an axis: from zero where the values are near it, with a margin of 8 %."""
    low, high = float(y.min()), float(y.max())
    if reference is not None:
        low, high = min(low, reference[1]), max(high, reference[1])
    if low >= 0 and low < 0.6 * high:
        low = 0.0
    margin = 0.08 * (high - low) or abs(high) * 0.1 or 0.1
    return (low if low == 0 else low - margin), high + margin


def heat(study: ClassStudy) -> tuple[list[str], list[tuple[str, list[int]]]]:
    """Return names of columns, and a name and the counts of each row.

    They are of all classes, or of those with the most errors; others are summed as "other".
    """
    matrix, count = study.confusion, len(study.class_names)
    chosen = np.arange(count)
    if count > SHOWN_CLASSES:
        square = matrix[:, :count]
        errors = square.sum(axis=1) + square.sum(axis=0) - 2 * square.diagonal()
        chosen = np.sort(np.argsort(-errors, kind="stable")[:SHOWN_CLASSES])
    shown = matrix[np.ix_(chosen, chosen)]
    names = [study.class_names[c] for c in chosen]
    columns = list(names)
    other = matrix[chosen, :count].sum(axis=1) - shown.sum(axis=1)
    for name, rest in (("other", other), ("no prediction", matrix[chosen, count])):
        if rest.any():
            shown = np.column_stack([shown, rest])
            columns.append(name)
    return columns, list(zip(names, shown.tolist(), strict=True))


def confusions(study: ClassStudy) -> list[tuple[str, str, int, float]]:
    """List the most frequent confusions: true class, predicted class, count, share of the true class."""
    names, totals = study.class_names, study.confusion.sum(axis=1)
    wrong = study.confusion[:, : len(names)].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_CONFUSIONS]
    pairs = [divmod(int(cell), len(names)) for cell in order if wrong.flat[cell]]
    return [(names[i], names[j], int(wrong[i, j]), wrong[i, j] / totals[i]) for i, j in pairs]


def axis_top(table: PromptTable) -> float:
    """Return the end of the axis of a prompt table: the next tenth above every interval."""
    ends = [bar.metric.ci95[1] if bar.metric.ci95 else bar.metric.value for bar in table.bars]
    finite = [end for end in ends if not math.isnan(end)]
    return min(1.0, math.ceil(10 * max(finite, default=1.0)) / 10) or 1.0


def first_against_last(table: PromptTable) -> str:
    """Return whether the last prompts of a task beat the first, by intervals that do not overlap."""
    first, last = table.bars[0], table.bars[-1]
    if first is last or first.metric.ci95 is None or last.metric.ci95 is None:
        return ""
    (low, high), (last_low, last_high) = first.metric.ci95, last.metric.ci95
    ends = f"({percent(low)} to {percent(high)} against {percent(last_low)} to {percent(last_high)})"
    if low <= last_high and last_low <= high:
        return f"“{last.name}” does not clearly beat “{first.name}”: their intervals overlap {ends}."
    word = "beats" if last_low > high else "is worse than"
    return f"“{last.name}” {word} “{first.name}”: their intervals do not overlap {ends}."
