"""Draw how far a model's confidence can be believed."""

import math
from collections.abc import Sequence

from diptych.page.markup import Html, tag
from diptych.page.plots import level_line, percent, ticks, whole


def reliability_chart(
    confidences: Sequence[float], accuracies: Sequence[float], counts: Sequence[int], *, name: str
) -> Html:
    """Draw how often answers of a confidence are right: a dot for each bin, as large as it has answers.

    Args:
        confidences: mean confidence of each of B bins, NaN for an empty one.
        accuracies: share of right answers in each.
        counts: answers in each.
        name: what is shown.
    """
    most = math.sqrt(max([1, *counts]))
    dots = [
        tag(
            "span",
            class_="dot",
            style=f"left:{100 * confidence:.2f}%;top:{100 * (1 - share):.2f}%;"
            f"--size:{math.sqrt(count) / most:.3f}",
            title=f"{percent(confidence)} sure, {percent(share)} right, {whole(count)} answers",
        )
        for confidence, share, count in zip(confidences, accuracies, counts, strict=True)
        if count
    ]
    grid = [level_line(level, 0, 1, class_="grid") for level in ticks(0, 1)]
    honest = tag("line", x1=0, y1=1000, x2=1000, y2=0, class_="reference")
    drawing = tag(
        "svg", *grid, honest, viewBox="0 0 1000 1000", preserveAspectRatio="none", role="img", aria_label=name
    )
    y_labels = [tag("span", percent(level), style=f"top:{100 * (1 - level):.2f}%") for level in ticks(0, 1)]
    x_labels = [tag("span", percent(level), style=f"left:{100 * level:.2f}%") for level in ticks(0, 1)]
    return tag(
        "figure",
        tag("figcaption", tag("span", name)),
        tag(
            "div",
            tag("div", *y_labels, class_="y"),
            tag("div", drawing, *dots, class_="plot"),
            class_="frame",
        ),
        tag("div", *x_labels, class_="x"),
        tag("p", "how sure the model is; upwards: how often it is right", class_="axis"),
        class_="curve tall reliability",
    )
