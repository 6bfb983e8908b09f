"""Contents of a report as plain data, without HTML. A section without data is left out of the page."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diptych.core.records import Metric


@dataclass(frozen=True, slots=True)
class ImageExample:
    """An encoded image with its caption and, optionally, whether it is right.

    Attributes:
        data: the encoded file, as the source has it; unreadable ones are shown as an empty frame.
        caption: also the alternative text.
        right: whether it was predicted right, or is a right hit; None where neither applies.
        note: text under it, such as the predicted class.
    """

    data: bytes
    caption: str
    right: bool | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the run.

    Attributes:
        x: positions, rising; x_name is what they count.
        y: values, as many as positions; gaps are NaN.
        reference: name and value of a level to compare with, such as ("chance, ln 512", 6.24).
        band: lower and upper values, as many as positions.
        beside: name and values of a second quantity at the same positions, drawn in the other color.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_name: str = "pairs seen"
    reference: tuple[str, float] | None = None
    band: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    beside: tuple[str, tuple[float, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number in [0, 1] with a label, and a note on what to compare it with."""

    label: str
    metric: Metric
    note: str = ""


@dataclass(frozen=True, slots=True)
class PromptBar:
    """Accuracy of one set of prompts, and its gain over the first set."""

    name: str
    metric: Metric
    gain: Metric | None = None
    example: str = ""


@dataclass(frozen=True, slots=True)
class PromptTable:
    """The prompt sets of one task, side by side."""

    task: str
    bars: tuple[PromptBar, ...]


@dataclass(frozen=True, slots=True)
class PromptComparison:
    """A section that compares several models on one task, such as with and without curation."""

    title: str
    text: str
    table: PromptTable


@dataclass(frozen=True, slots=True)
class ClassCard:
    """One class: its right predictions, its number of images, and a few of them."""

    name: str
    right: int
    count: int
    images: tuple[ImageExample, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassStudy:
    """Confusion matrix and example classes of one task.

    Attributes:
        task: the task's name.
        class_names: C names.
        confusion: (C, C + 1) counts, true class by predicted class; the last column is "no prediction".
        best: classes of the highest accuracy, best first.
        worst: classes of the lowest accuracy, worst first.
    """

    task: str
    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    best: tuple[ClassCard, ...] = ()
    worst: tuple[ClassCard, ...] = ()


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A text and its retrieved images, best first."""

    text: str
    hits: tuple[ImageExample, ...]


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """An image and its retrieved texts, best first, each with whether it is right."""

    image: ImageExample
    hits: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Contents of a run's report.

    Attributes:
        title: the run's name.
        summary: one or two sentences.
        facts: pairs of name and value about model, data and machine.
        cover: images for the header; up to 12 are shown.
        curves: quantities over the run, the loss first.
        comparisons: a section each, after the curves.
        prompts: one table per zero-shot task.
        classes: one study per zero-shot task.
        left_out: pairs of reason and number of samples that were not used or not readable.
        metrics: every number, for the table at the end.
        commands: pairs of purpose and command line.
    """

    title: str
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    cover: tuple[ImageExample, ...] = ()
    tiles: tuple[Tile, ...] = ()
    curves: tuple[Curve, ...] = ()
    comparisons: tuple[PromptComparison, ...] = ()
    prompts: tuple[PromptTable, ...] = ()
    classes: tuple[ClassStudy, ...] = ()
    text_queries: tuple[TextQuery, ...] = ()
    image_queries: tuple[ImageQuery, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    metrics: tuple[Metric, ...] = ()
    commands: tuple[tuple[str, str], ...] = field(default=())
