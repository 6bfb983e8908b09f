"""What commands print: JSON on stdout, small tables on stderr."""

import json
import sys
from collections.abc import Sequence

from diptych.core.files.durable import write_text
from diptych.core.records import SETTING_OF, Counts, Metric


def print_json(result: object, where: str = "-") -> int:
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


def print_dropped(counts: Counts) -> None:
    """Print to stderr how many samples could not be used: for each reason, the first place."""
    for reason, count in counts.dropped.most_common():
        first = next(iter(counts.examples.get(reason, ())), "")
        place = f" (first: {first})" if first else ""
        setting = f"; to keep them set {SETTING_OF[reason]}" if reason in SETTING_OF else ""
        sys.stderr.write(f"{count} of {counts.seen} samples: {reason}{place}{setting}\n")


def print_metrics(metrics: Sequence[Metric]) -> None:
    """Print metrics as a small table, to stderr: stdout is for the JSON."""
    for metric in metrics:
        interval = "" if metric.ci95 is None else f"  [{metric.ci95[0]:.4f}, {metric.ci95[1]:.4f}]"
        sys.stderr.write(
            f"{metric.task:>24}  {metric.metric:<40} {metric.value:8.4f}{interval}  n={metric.n}\n"
        )
