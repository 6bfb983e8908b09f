"""Read the right answers of a task from the columns of its images.

Reads: the fields that a data set's reader, or a table of the user's own, gave each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.checks import Ints
from diptych.core.errors import DataError
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.suite.plan import Opened
from diptych.evaluate.tasks.tasks import IGNORED, LABELS
from diptych.evaluate.zeroshot import natural_order, unknown_labels

GROUP_FIELDS = ("region", "group", "income_group", "metadata_0")
"""Where data sets that are scored by their worst group say which it is; DataComp's copies number columns."""


@dataclass(frozen=True, slots=True)
class TaskLabels:
    """The labels of a task.

    Attributes:
        rows: (N,) int64, rows of the images that have a label.
        class_names: of class 0, 1, ….
        class_ids: (N,) int64, the class; of several the first, -1 for none.
        marks: (N, C) int64 where an image has several: 1, -1, or 0 for difficult ones.
        unlabelled: images without a label; they are not part of N.
    """

    rows: Ints
    class_names: tuple[str, ...]
    class_ids: Ints
    marks: Ints | None
    unlabelled: int


def labels_of(opened: Opened, embedded: EmbeddedPairs, *, beside: Sequence[str] = ()) -> TaskLabels:
    """Read the labels of all images.

    Args:
        opened: the task.
        embedded: its images, or those that probes learn from.
        beside: classes whose numbers are given already, for sources that name their own.

    Raises:
        UnknownNameError: no image has the label column.
        DataError: no image has a label.
    """
    if opened.row is not None:
        return _numbered(opened, embedded)
    name = opened.spec.labels
    known = dict.fromkeys(column for fields in embedded.fields for column in fields)
    if name not in known:
        raise unknown_labels(name, known, where=f"task {opened.spec.name!r}")
    values = [fields.get(name) for fields in embedded.fields]
    texts = ["" if value is None else str(value).strip() for value in values]
    rows = np.array([row for row, text in enumerate(texts) if text], dtype=np.int64)
    if not len(rows):
        raise DataError(
            "no picture has a label", where=f"task {opened.spec.name!r}", found=f"column {name!r}"
        )
    held = {text for text in texts if text}
    first = tuple(beside) or tuple(sorted(held | set(opened.templates.names), key=natural_order))
    names = (*first, *sorted(held - set(first), key=natural_order))
    numbers = {text: number for number, text in enumerate(names)}
    labels = np.array([numbers[texts[row]] for row in rows], dtype=np.int64)
    return TaskLabels(rows, names, labels, None, len(texts) - len(rows))


def groups_of(opened: Opened, embedded: EmbeddedPairs, rows: Ints) -> tuple[Ints | None, str]:
    """Return the group of each image where the metric asks for the worst one, and the field that says it.

    Raises:
        DataError: no field does.
    """
    if not opened.metric.startswith("worst_group"):
        return None, ""
    fields = [embedded.fields[row] for row in rows]
    wanted = opened.spec.slices[:1] or GROUP_FIELDS
    name = next((name for name in wanted if all(name in of_row for of_row in fields)), None)
    if name is None:
        raise DataError(
            "a metric over groups finds no groups",
            where=f"task {opened.spec.name!r}",
            found=", ".join(sorted({key for of_row in fields[:1] for key in of_row})) or "no fields",
            expected=f"one of the fields {', '.join(wanted)} for every picture",
            fix="name the field in slices, in a file of your own",
        )
    _, groups = np.unique([str(of_row[name]) for of_row in fields], return_inverse=True)
    return groups.astype(np.int64), name


def _numbered(opened: Opened, embedded: EmbeddedPairs) -> TaskLabels:
    """Read the class numbers that the reader of a known data set gives."""
    told = [_numbers(fields.get(LABELS)) for fields in embedded.fields]
    count = len(opened.class_names)
    rows = np.arange(len(told), dtype=np.int64)
    labels = np.array([numbers[0] if numbers else -1 for numbers in told], dtype=np.int64)
    if opened.kind != "multilabel":
        return TaskLabels(rows, opened.class_names, labels, None, 0)
    marks = np.full((len(told), count), -1, dtype=np.int64)
    for row, (numbers, fields) in enumerate(zip(told, embedded.fields, strict=True)):
        marks[row, _numbers(fields.get(IGNORED))] = 0
        marks[row, numbers] = 1
    return TaskLabels(rows, opened.class_names, labels, marks, 0)


def _numbers(value: object) -> list[int]:
    return [int(number) for number in str(value).split(",")] if value not in (None, "") else []
