"""Draw several series with their intervals as one SVG file that stands alone, for documents.

Charts that live inside a report are those of `plots`; these carry their own text, colors and background, so
that a page without our style sheet shows them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from diptych.report.plots import number, ticks

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 46, 58
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
INK, FAINT, PAPER = "#1f2430", "#d9dce3", "#ffffff"
COLORS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7c3aed", "#9d174d")
"""Told apart in print and by those who confuse red and green: they differ in lightness and have names."""
LEGEND_ROW = 20
AIR = 0.06


@dataclass(frozen=True, slots=True)
class Series:
    """One row of points.

    Attributes:
        name: in the legend.
        x: positions, rising.
        y: values.
        intervals: both ends for each value, or None where there is none; empty for none at all.
        line: join the points; otherwise dots only.
        dashed: for levels and fits, without dots.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...] = ()
    line: bool = True
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """How one direction is drawn.

    Attributes:
        name: what it counts.
        logarithmic: whether equal distances are equal ratios.
        percent: write shares of one as per cent.
    """

    name: str
    logarithmic: bool = False
    percent: bool = False


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Draw a chart.

    Args:
        title: over the image, and what a screen reader says.
        series: at least one, with at least one point in all.
        x: across.
        y: upwards.

    Returns:
        The text of an SVG file.
    """
    ends = [end for one in series for pair in one.intervals if pair is not None for end in pair]
    across, x_marks = _scale([value for one in series for value in one.x], x, (LEFT, WIDTH - RIGHT))
    up, y_marks = _scale([*(value for one in series for value in one.y), *ends], y, (HEIGHT - BOTTOM, TOP))
    parts = [
        tag("rect", width=WIDTH, height=HEIGHT, fill=PAPER),
        _text(title, LEFT, 26, size=16, weight="600"),
        *(_grid(across(mark), None, _shown(mark, x)) for mark in x_marks),
        *(_grid(None, up(mark), _shown(mark, y)) for mark in y_marks),
        _text(x.name, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, anchor="middle"),
        _text(
            y.name, 0, 0, anchor="middle",
            transform=f"translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)",
        ),
    ]  # fmt: skip
    colors = [COLORS[place % len(COLORS)] for place in range(len(series))]
    for one, color in zip(series, colors, strict=True):
        parts += _drawn(one, across, up, color)
    parts += _legend([one.name for one in series], colors, low=_is_low(series, across, up))
    return tag(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH,
        height=HEIGHT, role="img", aria_label=title, font_family=FONT, fill=INK,
    ) + "\n"  # fmt: skip


def bar_chart(title: str, bars: Sequence[tuple[str, float, tuple[float, float] | None]], name: str) -> str:
    """Draw shares of one as bars with their intervals, one a row.

    Args:
        title: over the image.
        bars: name, share and interval of each.
        name: what the shares are of.

    Returns:
        The text of an SVG file.
    """
    row, names_width = 30, 250
    height = TOP + row * len(bars) + BOTTOM
    top = max([*(value for _, value, _ in bars), *(pair[1] for _, _, pair in bars if pair is not None)])
    across, marks = _scale([0.0, top], Axis(name, percent=True), (names_width, WIDTH - 80))
    parts = [
        tag("rect", width=WIDTH, height=height, fill=PAPER),
        _text(title, 18, 26, size=16, weight="600"),
        _text(name, (names_width + WIDTH - 80) / 2, height - 12, anchor="middle"),
    ]
    for mark in marks:
        place = across(mark)
        parts.append(_line(place, TOP, place, height - BOTTOM, FAINT))
        parts.append(
            _text(_shown(mark, Axis("", percent=True)), place, height - BOTTOM + 18, anchor="middle")
        )
    for number_of_bar, (label, value, interval) in enumerate(bars):
        middle = TOP + row * (number_of_bar + 0.5)
        width = max(0.0, across(value) - across(0.0))
        parts.append(_text(label, names_width - 10, middle + 4, anchor="end"))
        parts.append(
            tag("rect", x=_at(across(0.0)), y=_at(middle - 9), width=_at(width), height=18, fill=COLORS[0])
        )
        end = value
        if interval is not None:
            end = max(value, interval[1])
            parts += _whisker((across(interval[0]), middle), (across(interval[1]), middle), INK)
        parts.append(_text(f"{100 * value:.1f} %", across(end) + 8, middle + 4))
    return tag(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}", width=WIDTH,
        height=height, role="img", aria_label=title, font_family=FONT, fill=INK,
    ) + "\n"  # fmt: skip


def tag(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return one element; text is escaped, markup is kept, underscores become hyphens."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{''.join(map(escape, children))}</{name}>")


Place = Callable[[float], float]


def log_ticks(low: float, high: float) -> list[float]:
    """Choose 1, 2 and 5 times powers of ten inside [low, high]; powers of ten alone over three decades.

    Where fewer than two of them lie inside, evenly spread round numbers are chosen.

    >>> log_ticks(8, 150)
    [10.0, 20.0, 50.0, 100.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    marks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    inside = [mark for mark in marks if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
    return inside if len(inside) > 1 else ticks(low, high, 5)


def _scale(values: Sequence[float], axis: Axis, ends: tuple[float, float]) -> tuple[Place, list[float]]:
    """Return what places a value on the paper, and the values that get a mark."""
    low, high = min(values), max(values)
    if axis.logarithmic:
        low, high = math.log(low), math.log(high)
    elif 0 <= low < 0.6 * high:
        low = 0.0
    air = AIR * (high - low) or 1.0
    low, high = (low if low == 0.0 and not axis.logarithmic else low - air), high + air

    def place(value: float) -> float:
        share = ((math.log(value) if axis.logarithmic else value) - low) / (high - low)
        return ends[0] + share * (ends[1] - ends[0])

    marks = log_ticks(math.exp(low), math.exp(high)) if axis.logarithmic else ticks(low, high, 5)
    return place, marks


def _drawn(one: Series, across: Place, up: Place, color: str) -> list[Markup]:
    points = [(across(a), up(b)) for a, b in zip(one.x, one.y, strict=True)]
    parts = [
        mark
        for (place, _), pair in zip(points, one.intervals, strict=False)
        if pair is not None
        for mark in _whisker((place, up(pair[0])), (place, up(pair[1])), color)
    ]
    if one.line or one.dashed:
        way = " ".join(f"{_at(a)},{_at(b)}" for a, b in points)
        dashes = "6 5" if one.dashed else "none"
        parts.append(
            tag("polyline", points=way, fill="none", stroke=color, stroke_width=2, stroke_dasharray=dashes)
        )
    if not one.dashed:
        parts += [tag("circle", cx=_at(a), cy=_at(b), r=4, fill=color) for a, b in points]
    return parts


def _whisker(start: tuple[float, float], end: tuple[float, float], color: str) -> list[Markup]:
    """Draw an interval: a line with a short stroke across each end."""
    (x1, y1), (x2, y2) = start, end
    dx, dy = (0, 4) if y1 == y2 else (4, 0)
    return [
        _line(x1, y1, x2, y2, color),
        *(_line(x - dx, y - dy, x + dx, y + dy, color) for x, y in (start, end)),
    ]


def _is_low(series: Sequence[Series], across: Place, up: Place) -> bool:
    """Tell whether the legend is less in the way at the bottom right than at the top left."""
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    places = [(across(a), up(b)) for one in series for a, b in zip(one.x, one.y, strict=True)]
    high_left = sum(a < middle_x and b < middle_y for a, b in places)
    low_right = sum(a > middle_x and b > middle_y for a, b in places)
    return low_right < high_left


def _legend(names: Sequence[str], colors: Sequence[str], *, low: bool) -> list[Markup]:
    left = (LEFT + WIDTH - RIGHT) / 2 + 30 if low else LEFT + 16
    top = HEIGHT - BOTTOM - LEGEND_ROW * len(names) - 6 if low else TOP + 12
    parts = []
    for place, (name, color) in enumerate(zip(names, colors, strict=True)):
        middle = top + LEGEND_ROW * place
        parts.append(tag("circle", cx=_at(left), cy=_at(middle), r=5, fill=color))
        parts.append(_text(name, left + 12, middle + 4))
    return parts


def _grid(x: float | None, y: float | None, label: str) -> Markup:
    """Draw a line across the paper at x or y, and what it stands for."""
    if x is not None:
        line = _line(x, TOP, x, HEIGHT - BOTTOM, FAINT)
        return Markup(line + _text(label, x, HEIGHT - BOTTOM + 18, anchor="middle"))
    assert y is not None
    return Markup(_line(LEFT, y, WIDTH - RIGHT, y, FAINT) + _text(label, LEFT - 8, y + 4, anchor="end"))


def _shown(value: float, axis: Axis) -> str:
    return f"{100 * value:.4g} %" if axis.percent else number(value)


def _line(x1: float, y1: float, x2: float, y2: float, color: str) -> Markup:
    return tag("line", x1=_at(x1), y1=_at(y1), x2=_at(x2), y2=_at(y2), stroke=color)


def _text(
    text: str, x: float, y: float, *, size: int = 13, anchor: str = "start", weight: str = "400",
    transform: str = "",
) -> Markup:  # fmt: skip
    moved: dict[str, str] = {"transform": transform} if transform else {}
    return tag(
        "text", text, x=_at(x), y=_at(y), font_size=size, text_anchor=anchor, font_weight=weight, **moved
    )


def _at(value: float) -> str:
    return f"{value:.1f}"
