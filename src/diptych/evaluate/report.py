"""Write `report.html`: one file that tells a run in pictures and numbers, and needs nothing else.

No script, no request, no font from elsewhere: pictures are small re-encoded copies inside the file, and the
page's own policy forbids the browser to load anything. Every text goes through `markup`, so a caption cannot
become code.

Reads: `page/report.html` and `page/report.css` of this package. Writes: the file it is told to.
"""

from importlib import resources
from pathlib import Path
from string import Template

from diptych.core.files import write_text
from diptych.evaluate import sections
from diptych.evaluate.markup import Html, escaped, join
from diptych.evaluate.report_parts import Report


def write_report(path: str | Path, report: Report) -> None:
    """Render a report and write it durably.

    Args:
        path: the file, usually `report.html` in the run's folder.
        report: what it says.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """Return the whole page as text; the same report gives the same bytes."""
    page = resources.files("diptych.evaluate") / "page"
    skeleton = Template((page / "report.html").read_text(encoding="utf-8"))
    return skeleton.substitute(
        title=escaped(report.title),
        style=(page / "report.css").read_text(encoding="utf-8"),
        body=_body(report),
    )


def _body(report: Report) -> Html:
    """Number the sections that have something to say and put them in order."""
    leaves = [
        leaf
        for leaf in (
            sections.headline(report.tiles),
            sections.learning(report.curves),
            sections.prompts(report.prompts),
            *(sections.classes(study) for study in report.classes),
            sections.retrieval(report.text_queries, report.image_queries),
            sections.left_out(report.left_out),
            sections.all_numbers(report.metrics, report.commands),
        )
        if leaf is not None
    ]
    return join(
        sections.masthead(report),
        *(sections.numbered(number, leaf) for number, leaf in enumerate(leaves, start=1)),
        sections.colophon(),
    )
