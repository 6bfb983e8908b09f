"""Charts that stand alone: well-formed, true to their numbers, and safe with any name."""

import xml.etree.ElementTree as ET

import pytest

from experiments.claims.charts import Axis, Series, bar_chart, line_chart, log_ticks

SVG = "{http://www.w3.org/2000/svg}"
X, Y = Axis("pairs seen"), Axis("accuracy", percent=True)


def points(text: str) -> list[tuple[float, ...]]:
    found = ET.fromstring(text).findall(f".//{SVG}polyline")[0].get("points", "")
    return [tuple(map(float, pair.split(","))) for pair in found.split()]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_equal_steps_or_ratios_are_equal_distances_and_more_is_higher(logarithmic: bool) -> None:
    xs, ys = ((1, 10, 100), (0.2, 0.4, 0.8)) if logarithmic else ((0, 10, 20), (0.1, 0.2, 0.3))
    axes = Axis("compute", logarithmic=logarithmic), Axis("e", logarithmic=logarithmic)
    way = points(line_chart("t", [Series("a", xs, ys)], *axes))
    assert way[1][0] - way[0][0] == pytest.approx(way[2][0] - way[1][0], abs=0.2)
    assert way[1][1] - way[0][1] == pytest.approx(way[2][1] - way[1][1], abs=0.2)
    assert way[0][1] > way[1][1]


def test_every_point_has_its_dot_every_interval_its_whisker_and_a_fit_is_a_dashed_line() -> None:
    series = Series("a", (1, 2), (0.5, 0.6), ((0.4, 0.6), None))
    drawn = ET.fromstring(line_chart("t", [series], X, Y))
    assert len([dot for dot in drawn.iter(f"{SVG}circle") if dot.get("r") == "4"]) == 2
    assert len([line for line in drawn.iter(f"{SVG}line") if line.get("stroke") == "#0b6e99"]) == 3
    drawn = ET.fromstring(line_chart("t", [Series("fit", (1, 2), (0.5, 0.6), dashed=True)], X, Y))
    assert drawn.find(f"{SVG}polyline").get("stroke-dasharray") == "6 5"  # type: ignore[union-attr]
    assert not [dot for dot in drawn.iter(f"{SVG}circle") if dot.get("r") == "4"]


def test_names_cannot_break_out() -> None:
    name = '<script>"&'
    for text in (
        line_chart(name, [Series(name, (1,), (0.5,))], Axis(name), Axis(name)),
        bar_chart(name, [(name, 0.5, (0.4, 0.6)), ("b", 0.2, None)], name),
    ):
        told = [element.text for element in ET.fromstring(text).iter(f"{SVG}text")]
        assert told.count(name) >= 3


def test_bars_are_as_long_as_their_shares() -> None:
    drawn = ET.fromstring(bar_chart("t", [("a", 0.2, None), ("b", 0.4, (0.3, 0.5)), ("c", 0.0, None)], "n"))
    widths = [float(bar.get("width", "")) for bar in drawn.iter(f"{SVG}rect")][1:]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert widths[2] == 0


def test_marks_of_many_decades_are_powers_of_ten_and_a_narrow_axis_has_some() -> None:
    assert log_ticks(0.9, 2e5) == [1, 10, 100, 1000, 10_000, 100_000]
    assert log_ticks(0.83, 0.98) == [0.85, 0.9, 0.95]
