"""Draw numbers as inline SVG and HTML, without a plotting library.

Lines are SVG that stretches with the page; every label is HTML beside it, so that text keeps its size on a
small screen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.report.page import Html, join, tag

MAX_POINTS = 600
"""Points drawn of a curve; more than pixels only make the file larger."""

SMOOTHING = 40
"""The running mean is over 1 / 40 of the points."""

ROOMY = 8
"""Up to this many columns a heat map has room for large cells."""

SPACE = "\u202f"  # a narrow space that does not break: between a number and its unit


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the run.

    Attributes:
        name: what it is, such as "loss".
        x: positions, rising.
        y: values, as many as positions; gaps are NaN.
        x_name: what the positions count.
        reference: a level to compare with and its name, such as ("chance, ln 512", 6.24).
        band: lower and upper values, as many as positions.
        beside: a second quantity at the same positions and its name, drawn in the other color.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_name: str = "pairs seen"
    reference: tuple[str, float] | None = None
    band: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    beside: tuple[str, tuple[float, ...]] | None = None


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


def curve_chart(curve: Curve, *, tall: bool = False) -> Html:
    """Draw one curve: the values thin, their running mean bold, the reference dashed."""
    x, y = np.asarray(curve.x, dtype=np.float64), np.asarray(curve.y, dtype=np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    edges = [thin(np.asarray(edge, dtype=np.float64)[finite]) for edge in curve.band or ()]
    x, y = thin(x[finite]), thin(y[finite])
    other = np.asarray(curve.beside[1], dtype=np.float64) if curve.beside is not None else y[:0]
    other = thin(other[finite]) if len(other) else other
    if not len(x):
        return tag(
            "figure", tag("figcaption", curve.name), tag("p", "No values were logged."), class_="curve"
        )
    low, high = _range(np.concatenate([y, other, *edges]), curve.reference)
    left = float(x[0]) if len(x) > 1 else 0.0
    right = float(x[-1]) if x[-1] > left else left + 1

    def place(values: NDArray[np.float64], x: NDArray[np.float64] = x) -> str:
        across, up = (x - left) / (right - left), (values - low) / (high - low)
        points = [f"{1000 * a:.1f},{1000 * (1 - b):.1f}" for a, b in zip(across, up, strict=True)]
        return " ".join(points if len(points) > 1 else 2 * points)  # a line of no length is a dot

    line_class = "mean" if len(x) > 1 else "mean dot"
    levels = [level for level in ticks(low, high) if low <= level <= high]
    grid = [_level(level, low, high, class_="grid") for level in levels]
    lines = [
        *(
            tag("polygon", points=f"{place(low_edge)} {place(high_edge[::-1], x[::-1])}", class_="band")
            for low_edge, high_edge in ([edges] if edges else [])
        ),
        tag("polyline", points=place(y), class_="raw"),
        tag("polyline", points=place(smooth(y) if curve.beside is None else y), class_=line_class),
    ]
    name = Html("")
    if curve.beside is not None:
        lines.append(tag("polyline", points=place(other), class_="beside"))
    if curve.reference is not None:
        text, level = curve.reference
        grid.append(_level(level, low, high, class_="reference"))
        name = tag("span", text, class_="reference-name", style=f"top:{_from_top(level, low, high):.2f}%")
    ends = f"from {number(float(y[0]))} to {number(float(smooth(y)[-1]))}"
    label = f"{curve.name}: {ends} over {number(right)} {curve.x_name}"
    drawing = tag(
        "svg", *grid, *lines, viewBox="0 0 1000 1000", preserveAspectRatio="none", role="img",
        aria_label=label,
    )  # fmt: skip
    return tag(
        "figure",
        tag("figcaption", *_named(curve, float(smooth(y)[-1]))),
        tag(
            "div",
            tag("div", *_y_labels(levels, low, high), class_="y"),
            tag("div", drawing, name, class_="plot"),
            class_="frame",
        ),
        tag("div", *_x_labels(left, right), class_="x"),
        tag("p", curve.x_name, class_="axis"),
        class_="curve tall" if tall else "curve",
    )


def _y_labels(levels: Sequence[float], low: float, high: float) -> list[Html]:
    return [tag("span", number(level), style=f"top:{_from_top(level, low, high):.2f}%") for level in levels]


def _x_labels(left: float, right: float) -> list[Html]:
    """Label the ticks; a label at the right end ends there, or the page would scroll sideways."""
    places = [(tick, 100 * (tick - left) / (right - left)) for tick in ticks(left, right, 3)]
    return [
        tag("span", number(tick), style=f"left:{place:.2f}%" + ";transform:translateX(-100%)" * (place > 90))
        for tick, place in places
    ]


def _named(curve: Curve, last: float) -> tuple[Html, Html]:
    if curve.beside is None:
        return tag("span", curve.name), tag("b", number(last))
    return tag("span", curve.name, class_="in-right"), tag("span", curve.beside[0], class_="in-wrong")


def interval_bar(value: float, interval: tuple[float, float] | None, *, top: float = 1.0) -> Html:
    """Draw a share as a bar on [0, top] with its interval as a whisker."""
    parts = [tag("span", class_="bar", style=f"width:{_across(value, top):.2f}%")]
    if interval is not None:
        low, high = (_across(end, top) for end in interval)
        parts.append(
            tag("span", class_="whisker", style=f"left:{low:.2f}%;width:{max(high - low, 0.3):.2f}%")
        )
    return tag("span", *parts, class_="track", aria_hidden="true")


def heat_map(
    matrix: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str], *, diagonal: bool = True
) -> Html:
    """Draw counts as a table of tinted cells; each row is tinted by its own shares.

    Args:
        matrix: (R, C) counts.
        rows: R names, the true classes.
        columns: C names, the predictions.
        diagonal: whether cell (i, i) is a right prediction, drawn in the other color.
    """
    totals = matrix.sum(axis=1)
    head = tag("tr", tag("td"), *(tag("th", tag("span", name), scope="col") for name in columns))
    body = []
    for i, row in enumerate(rows):
        cells = [
            _cell(int(count), count / totals[i] if totals[i] else 0.0, right=diagonal and i == j)
            for j, count in enumerate(matrix[i])
        ]
        body.append(tag("tr", tag("th", row, scope="row"), *cells))
    kind = "heat roomy" if len(columns) <= ROOMY else "heat"
    return tag(
        "div", tag("table", tag("thead", head), tag("tbody", *body), class_=kind), class_="scroll", tabindex=0
    )


def reliability_diagram(
    confidences: Sequence[float | None], accuracies: Sequence[float | None], counts: Sequence[int]
) -> Html:
    """Draw accuracy over confidence; on the dashed diagonal they are equal.

    Args:
        confidences: the mean of each of B bins in [0, 1]; None in an empty one.
        accuracies: the accuracy in each; None in an empty one.
        counts: predictions in each; bars are as wide as their share of the fullest bin.
    """
    room, most = 1000 / max(1, len(counts)), max(counts, default=1) or 1
    drawn = [
        tag("line", x1=0, x2=1000, y1=1000 * level, y2=1000 * level, class_="grid") for level in (0, 0.5, 1)
    ]
    for place, (confidence, accuracy, count) in enumerate(zip(confidences, accuracies, counts, strict=True)):
        if confidence is None or accuracy is None:
            continue
        width = max(0.08, count / most) * room * 0.9
        left = (place + 0.5) * room - width / 2
        bar = {"x": f"{left:.1f}", "y": f"{1000 * (1 - accuracy):.1f}", "width": f"{width:.1f}"}
        description = (
            f"confidence {percent(confidence)}, accuracy {percent(accuracy)}, {whole(count)} predictions"
        )
        drawn.append(tag("rect", tag("title", description), **bar, height=f"{1000 * accuracy:.1f}"))
    drawn.append(tag("line", x1=0, y1=1000, x2=1000, y2=0, class_="reference"))
    drawing = tag(
        "svg", *drawn, viewBox="0 0 1000 1000", preserveAspectRatio="none", role="img",
        aria_label="accuracy over confidence",
    )  # fmt: skip
    y_labels = [tag("span", f"{level:.0%}", style=f"top:{100 * (1 - level):.0f}%") for level in (0, 0.5, 1)]
    x_labels = [tag("span", f"{level:.0%}", style=f"left:{100 * level:.0f}%") for level in (0, 0.5, 1)]
    return tag(
        "figure",
        tag("div", tag("div", *y_labels, class_="y"), tag("div", drawing, class_="plot"), class_="frame"),
        tag("div", *x_labels, class_="x"),
        tag("p", "confidence", class_="axis"),
        class_="curve reliability",
    )


def thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep at most `MAX_POINTS` values, evenly spread, the first and the last among them."""
    if len(values) <= MAX_POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, MAX_POINTS).round().astype(np.int64)]


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred running mean; the window shrinks at the ends."""
    reach = len(values) // SMOOTHING // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    half = np.minimum(reach, np.minimum(place, len(values) - 1 - place))
    return np.asarray((sums[place + half + 1] - sums[place - half]) / (2 * half + 1), dtype=np.float64)


def _range(y: NDArray[np.float64], reference: tuple[str, float] | None) -> tuple[float, float]:
    """Choose the range of an axis: from zero where the values are near it, with a margin of 8 %."""
    low, high = float(y.min()), float(y.max())
    if reference is not None:
        low, high = min(low, reference[1]), max(high, reference[1])
    if low >= 0 and low < 0.6 * high:
        low = 0.0
    margin = 0.08 * (high - low) or abs(high) * 0.1 or 0.1
    return (low if low == 0 else low - margin), high + margin


def _cell(count: int, share: float, *, right: bool) -> Html:
    if not count:
        return tag("td")
    return tag(
        "td", str(count), class_="right" if right else "wrong", style=f"--share:{max(share, 0.06):.3f}"
    )


def _across(value: float, top: float) -> float:
    return 0.0 if math.isnan(value) else 100 * min(max(value / top, 0.0), 1.0)


def _from_top(level: float, low: float, high: float) -> float:
    return 100 * (1 - (level - low) / (high - low))


def _level(level: float, low: float, high: float, *, class_: str) -> Html:
    at = f"{10 * _from_top(level, low, high):.1f}"
    return join(tag("line", x1=0, x2=1000, y1=at, y2=at, class_=class_))
