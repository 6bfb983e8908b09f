"""What commands read and say: columns in, JSON and small tables out."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.core.errors import UsageError
from diptych.core.files.durable import write_text
from diptych.core.files.text import read_text
from diptych.core.records import SETTING_OF, Counts, Metric

if TYPE_CHECKING:
    from diptych.data.sources.open import Columns

MAX_BAD_FRACTION = 0.1
"""Share of a source's samples that may be bad, where no other is given."""


def parse_columns(text: str) -> "Columns":
    """Read `image=photo,caption=title`.

    >>> parse_columns("caption=title").caption
    'title'
    """
    from diptych.core.settings import from_mapping
    from diptych.data.sources.open import Columns

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


def parse_names(values: Sequence[str], *, where: str) -> list[str]:
    """Read class names: a text with commas, the path of a file with one a line, or several names as they are.

    Raises:
        UsageError: fewer than two names, or a file that is not UTF-8.

    >>> parse_names(["a cat, a dog"], where="--labels"), parse_names(["cat, asleep", "dog"], where="--labels")
    (['a cat', 'a dog'], ['cat, asleep', 'dog'])
    """
    listed = list(values)
    if len(listed) == 1:
        path = Path(listed[0])
        try:
            is_file = os.path.isfile(path)  # noqa: PTH113 — Path.is_file raises for a text of 300 letters
            listed = read_text(path).splitlines() if is_file else listed[0].split(",")
        except UnicodeDecodeError as error:
            raise UsageError("names are not text", where=path, found=error.reason, expected="UTF-8") from None
    names = [name.strip() for name in listed if name.strip()]
    if len(names) < 2:
        raise UsageError(
            "there is nothing to choose between",
            where=where,
            found=", ".join(names) or "no name",
            expected='at least two, such as "a cat,a dog", or a file with one name a line',
        )
    return names


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
