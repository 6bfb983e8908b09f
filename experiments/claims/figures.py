"""Tables and images of the experiments' results, made of plain values only.

Writes: `NAME.json`, `NAME-EXAM.svg` and `claims.md` in the folder of the experiments. Run as a script, it
fills the tables and figures of README.md from `results/*.json`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diptych.core.files.durable import write_json, write_text
from diptych.core.files.reading import read_json
from experiments.claims.charts import Axis, Series, bar_chart, line_chart
from experiments.claims.scaling import PowerLaw

Result = dict[str, Any]

SEEN = Axis("pairs seen")
ACCURACY = Axis("zero-shot accuracy", percent=True)
GIGA = 1e9
README = Path(__file__).with_name("README.md")


def table_of(name: str, result: Result) -> str:
    """Return the tables of an experiment as Markdown.

    Args:
        name: of the experiment.
        result: what it measured, as its JSON file has it.
    """
    return _TABLES[name](result)


def figures_of(name: str, result: Result) -> dict[str, str]:
    """Return the figures of an experiment: name of the SVG file to its text."""
    return _FIGURES[name](result)


def write_results(folder: Path, results: Mapping[str, Result]) -> None:
    """Write what was measured, drawn and tabulated."""
    parts = []
    for name, result in results.items():
        write_json(folder / f"{name}.json", result)
        figures = figures_of(name, result)
        for file, text in figures.items():
            write_text(folder / file, text)
        shown = "\n".join(f"![{name}]({file})" for file in figures)
        parts.append(f"## {name}\n\n{table_of(name, result)}\n{shown}\n")
    write_text(folder / "claims.md", "\n".join(["# The paper's claims\n", *parts]))


def fill_readme() -> None:
    """Write the tables and draw the figures of README.md from the results beside it."""
    results = README.parent / "results"
    page = README.read_text(encoding="utf-8")
    for path in sorted(results.glob("*.json")):
        result = read_json(path)
        figures = figures_of(path.stem, result)
        for file, text in figures.items():
            write_text(results / file, text)
        shown = "\n\n".join(f"![{Path(file).stem}](results/{file})" for file in figures)
        begin, end = f"<!-- {path.stem} -->\n", f"<!-- end of {path.stem} -->\n"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{table_of(path.stem, result)}\n{shown}\n\n{end}{rest.partition(end)[2]}"
    write_text(README, page)


def _efficiency_figures(result: Result) -> dict[str, str]:
    return {
        _file("efficiency", eval_set): line_chart(
            f"Three objectives, {eval_set}", [_series(name, points) for name, points in curves.items()],
            SEEN, ACCURACY,
        )
        for eval_set, curves in result["eval_sets"].items()
    }  # fmt: skip


def _prompts_figures(result: Result) -> dict[str, str]:
    return {
        _file("prompts", eval_set): bar_chart(
            f"Prompts, {eval_set}",
            [(row["name"], row["value"], tuple(row["ci95"])) for row in found["rows"]],
            ACCURACY.name,
        )
        for eval_set, found in result["eval_sets"].items()
    }


def _scaling_figures(result: Result) -> dict[str, str]:
    figures = {}
    compute = [value / GIGA for value in result["compute"]]
    for eval_set, found in result["eval_sets"].items():
        law = PowerLaw(found["exponent"], found["factor"], None, found["r_squared"])
        ends = (min(compute), max(compute))
        series = [
            _errors(
                f"width {factor:g}",
                [
                    (x, point)
                    for x, point, run in zip(compute, found["points"], result["runs"], strict=True)
                    if run["factor"] == factor
                ],
            )
            for factor in sorted({run["factor"] for run in result["runs"]})
        ]
        fit = Series(
            f"compute^{found['exponent']:.3f}", ends, tuple(law.at(end * GIGA) for end in ends), dashed=True
        )
        figures[_file("scaling", eval_set)] = line_chart(
            f"Error against compute, {eval_set}", [*series, fit],
            Axis("billions of operations in training", logarithmic=True),
            Axis("zero-shot error", logarithmic=True, percent=True),
        )  # fmt: skip
    return figures


def _shots_figures(result: Result) -> dict[str, str]:
    points = result["probes"]
    shots = tuple(float(point["shots"]) for point in points)
    level = result["zero_shot"]["value"]
    probe = Series(
        "linear probe", shots, tuple(p["value"] for p in points), tuple(tuple(p["ci95"]) for p in points)
    )
    zero = Series("zero-shot", (shots[0], shots[-1]), (level, level), dashed=True)
    title = f"Zero-shot beside a probe, {result['classes']} classes"
    return {
        "shots.svg": line_chart(
            title, [probe, zero], Axis("labeled images per class", logarithmic=True),
            Axis("accuracy", percent=True),
        )
    }  # fmt: skip


def _efficiency_table(result: Result) -> str:
    lines = []
    for eval_set, curves in result["eval_sets"].items():
        lines += [f"| {eval_set}: pairs seen | " + " | ".join(curves) + " |", "|--:|" + "--:|" * len(curves)]
        for points in zip(*curves.values(), strict=True):
            lines.append(f"| {points[0]['samples']:,} | " + " | ".join(_shown(p) for p in points) + " |")
        lines.append("")
        for ratio in result["ratios"][eval_set]:
            lines.append(f"- {_told(ratio)}")
        lines.append("")
    return "\n".join(lines)


def _told(ratio: dict[str, Any]) -> str:
    ahead = f"{ratio['fast']} ends ahead of {ratio['slow']}"
    if not ratio["apart_at_end"]:
        return f"{ahead}, but the intervals overlap."
    if ratio["ratio"] is None:
        return f"{ahead} (intervals apart), which named nothing right."
    return (
        f"{ahead} (intervals apart), and was where that one ended, at {100 * ratio['level']:.1f} %, after "
        f"1/{ratio['ratio']:.2g} of the pairs."
    )


def _prompts_table(result: Result) -> str:
    lines = []
    for eval_set, found in result["eval_sets"].items():
        lines += [f"| {eval_set}: asked with | top-1 |", "|---|--:|"]
        lines += [f"| `{row['name']}` | {_shown(row)} |" for row in found["rows"]]
        lines += ["", "| gain of | over | points | 95 % |", "|---|---|--:|--:|"]
        for gain in found["gains"]:
            low, high = gain["ci95"]
            lines.append(
                f"| `{gain['of']}` | `{gain['over']}` | {100 * gain['value']:+.1f} | "
                f"{100 * low:+.1f} to {100 * high:+.1f} |"
            )
        lines.append("")
    return "\n".join(lines)


def _scaling_table(result: Result) -> str:
    eval_sets = list(result["eval_sets"])
    lines = [
        "| width | parameters | pairs | operations, 10⁹ | "
        + " | ".join(f"{eval_set}" for eval_set in eval_sets)
        + " |",
        "|--:|--:|--:|--:|" + "--:|" * len(eval_sets),
    ]
    for place, run in enumerate(result["runs"]):
        shown = " | ".join(_shown(result["eval_sets"][eval_set]["points"][place]) for eval_set in eval_sets)
        lines.append(
            f"| {run['factor']:g} | {run['parameters']:,} | {run['samples']:,} | "
            f"{result['compute'][place] / GIGA:,.0f} | {shown} |"
        )
    lines.append("")
    for eval_set, found in result["eval_sets"].items():
        low, high = found["interval"]
        lines.append(
            f"- {eval_set}: error ∝ compute^{found['exponent']:.3f} ({low:.3f} to {high:.3f}), "
            f"R² {found['r_squared']:.2f}"
        )
    return "\n".join([*lines, ""])


def _shots_table(result: Result) -> str:
    lines = ["| labeled images per class | top-1 | C |", "|--:|--:|--:|"]
    lines.append(f"| 0, zero-shot | {_shown(result['zero_shot'])} | |")
    lines += [f"| {point['shots']} | {_shown(point)} | {point['C']:.3g} |" for point in result["probes"]]
    match = result["shots_to_match"]
    told = "more than were tried" if match is None else f"{match:.1f}"
    return "\n".join([*lines, "", f"- labeled images per class that match zero-shot: {told}", ""])


_TABLES: dict[str, Callable[[Result], str]] = {
    "efficiency": _efficiency_table,
    "prompts": _prompts_table,
    "scaling": _scaling_table,
    "shots": _shots_table,
}
_FIGURES: dict[str, Callable[[Result], dict[str, str]]] = {
    "efficiency": _efficiency_figures,
    "prompts": _prompts_figures,
    "scaling": _scaling_figures,
    "shots": _shots_figures,
}


def _file(name: str, eval_set: str) -> str:
    return f"{name}-{eval_set.replace(' ', '-')}.svg"


def _series(name: str, points: list[dict[str, Any]]) -> Series:
    return Series(
        name,
        tuple(float(point["samples"]) for point in points),
        tuple(point["value"] for point in points),
        tuple(tuple(point["ci95"]) for point in points),
    )


def _errors(name: str, points: list[tuple[float, dict[str, Any]]]) -> Series:
    return Series(
        name,
        tuple(x for x, _ in points),
        tuple(1 - point["value"] for _, point in points),
        tuple((1 - point["ci95"][1], 1 - point["ci95"][0]) for _, point in points),
    )


def _shown(share: dict[str, Any]) -> str:
    low, high = share["ci95"]
    return f"{100 * share['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    fill_readme()
