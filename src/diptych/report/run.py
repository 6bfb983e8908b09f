"""Write `report.html`: one file that tells a run in pictures and numbers, and needs nothing else.

Writes: the file it is told to, see `diptych.report.page`.
"""

from pathlib import Path

from diptych.report import sections
from diptych.report.page import Leaf, Masthead, left_out, page, write_page
from diptych.report.parts import Report


def write_report(path: str | Path, report: Report) -> None:
    """Render a report and write it durably.

    Args:
        path: the file, usually `report.html` in the run's folder.
        report: what it says.
    """
    write_page(path, _head(report), _leaves(report))


def render(report: Report) -> str:
    """Return the whole page as text; the same report gives the same bytes."""
    return page(_head(report), _leaves(report))


def _head(report: Report) -> Masthead:
    return Masthead("report of a run", report.title, report.summary, report.facts, report.wall)


def _leaves(report: Report) -> list[Leaf | None]:
    return [
        sections.headline(report.tiles),
        sections.learning(report.curves),
        *(sections.comparison(part) for part in report.comparisons),
        sections.prompts(report.prompts),
        *(sections.classes(study) for study in report.classes),
        sections.retrieval(report.text_queries, report.image_queries),
        left_out(report.left_out),
        sections.all_numbers(report.metrics, report.commands),
    ]
