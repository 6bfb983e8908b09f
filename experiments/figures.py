"""Draw a figure as an SVG file of its own, for pages that are read as Markdown, on dark and light grounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from diptych.report.plots import number, ticks

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 52
COLORS = ("#1d8a7d", "#c2503b", "#a8873f")
QUIET, GRID = "#7f776b", "#8f877a55"
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity over positions: values, perhaps with a band; with sizes in [0, 1] dots and no line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    sizes: Sequence[float] | None = None
    dashed: bool = False


def draw(lines: Sequence[Line], *, x_name: str, y_name: str, zero: bool = False) -> str:
    """Return the SVG of some lines over common axes.

    Args:
        lines: what to draw, each in a color of its own; dashed ones are quiet.
        x_name: what the positions are.
        y_name: what the values are.
        zero: whether the vertical axis begins at zero.
    """
    across = [x for line in lines for x in line.x]
    up = [y for line in lines for part in (line.y, *(line.band or ())) for y in part]
    low, high = min([0.0, *up] if zero else up), max(up)
    low, high = (low, high) if zero else (low - 0.06 * (high - low), high + 0.06 * (high - low))
    left, right = min(across), max(across)

    def at(x: float, y: float) -> tuple[float, float]:
        wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + wide * (x - left) / (right - left), TOP + tall * (1 - (y - low) / (high - low))

    def path(xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(x, y) for x, y in zip(xs, ys, strict=True)))

    parts = []
    for level in ticks(low, high):
        y = at(left, level)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(level)}</text>')
    for level in ticks(left, right, 6):
        x = at(level, low)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{number(level)}</text>'
        )
    solid = iter(COLORS)
    for place, line in enumerate(lines):
        color = QUIET if line.dashed else next(solid)
        if line.band is not None:
            around = path([*line.x, *reversed(line.x)], [*line.band[0], *reversed(line.band[1])])
            parts.append(f'<polygon points="{around}" fill="{color}" opacity=".18"/>')
        if line.sizes is None:
            dash = ' stroke-dasharray="6 5"' if line.dashed else ""
            drawn = f'points="{path(line.x, line.y)}" fill="none" stroke="{color}" stroke-width="2.2"{dash}'
            parts.append(f"<polyline {drawn}/>")
        for (x, y), size in zip(map(at, line.x, line.y), line.sizes or (), strict=line.sizes is not None):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 + 7 * size:.1f}" fill="{color}"/>')
        spot = f'x="{WIDTH - RIGHT - 4}" y="{HEIGHT - BOTTOM - 12 - 18 * (len(lines) - 1 - place)}"'
        parts.append(f'<text {spot} text-anchor="end" style="fill:{color}">{escape(line.name)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{escape(x_name)}</text>')
    parts.append(f'<text x="{-TOP}" y="14" text-anchor="end" transform="rotate(-90)">{escape(y_name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" fill="{QUIET}" {FONT}>'
    return "\n".join([head, *parts, "</svg>"]) + "\n"
