"""What commands read and say: columns in, JSON and small tables out."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diptych.core.errors import UsageError
from diptych.core.files import write_text
from diptych.core.records import SETTING_OF, Counts, Metric

if TYPE_CHECKING:
    from diptych.data.sources import Columns

MAX_BAD_FRACTION = 0.1
"""Share of a source's samples that may be bad, where no other is given."""


def parse_columns(text: str) -> "Columns":
    """Read `image=photo,caption=title`.

    >>> parse_columns("caption=title").caption
    'title'
    """
    from diptych.core.settings import from_mapping
    from diptych.data.sources import Columns

    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for name, sign, value in pairs:
        if not (name.strip() and sign and value.strip()):
            raise UsageError(
                "columns are given as name=column",
                where="--columns",
                found=text,
                expected="for example image=photo,caption=title",
            )
    return from_mapping(Columns, {name.strip(): value.strip() for name, _, value in pairs}, where="--columns")


def answer(result: object, where: str = "-") -> int:
    """Write a result as JSON to stdout or a file; a list has one record a line.

    A file name that is not UTF-8 is written with the escapes that JSON has for it, such as \\udcff.
    """
    if isinstance(result, list):
        records = ",\n  ".join(json.dumps(record, ensure_ascii=False, allow_nan=False) for record in result)
        text = f"[\n  {records}\n]" if result else "[]"
    else:
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    text = text.encode("utf-8", "backslashreplace").decode()
    if where == "-":
        sys.stdout.write(text + "\n")
    else:
        write_text(where, text + "\n")
    return 0


def show_dropped(counts: Counts) -> None:
    """Print to stderr how many samples could not be used: for each reason, the first place."""
    for reason, count in counts.dropped.most_common():
        first = next(iter(counts.examples.get(reason, ())), "")
        place = f" (first: {first})" if first else ""
        setting = f"; to keep them set {SETTING_OF[reason]}" if reason in SETTING_OF else ""
        sys.stderr.write(f"{count} of {counts.seen} samples: {reason}{place}{setting}\n")


def show(metrics: Sequence[Metric]) -> None:
    """Print metrics as a small table, to stderr: stdout is for the JSON."""
    for metric in metrics:
        interval = "" if metric.ci95 is None else f"  [{metric.ci95[0]:.4f}, {metric.ci95[1]:.4f}]"
        sys.stderr.write(
            f"{metric.task:>24}  {metric.metric:<40} {metric.value:8.4f}{interval}  n={metric.n}\n"
        )
