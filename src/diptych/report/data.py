"""Contents of a report as plain data, without HTML. A section without data is left out of the page."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.core.records import Metric


@dataclass(frozen=True, slots=True)
class ImageExample:
    """An image with its caption, which is also its alternative text; unreadable ones are an empty frame."""

    data: bytes = b""  # the encoded file, as the source has it
    caption: str = ""
    right: bool | None = None  # predicted right, or a right hit; None where neither applies
    note: str = ""  # text under it, such as the predicted class
    row: int = 0  # in its source, where image and caption are not read yet


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the run; gaps are NaN."""

    name: str
    x: tuple[float, ...]  # positions, rising
    y: tuple[float, ...]  # as many values
    x_name: str = "pairs seen"  # what x counts
    reference: tuple[str, float] | None = None  # a level to compare with: ("chance, ln 512", 6.24)
    band: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # lower and upper values
    beside: tuple[str, tuple[float, ...]] | None = None  # a second quantity, in the other color


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
    """Confusion matrix and example classes of one task."""

    task: str
    class_names: tuple[str, ...]  # C names
    # (C, C + 1) counts, true class by predicted class; the last column is "no prediction"
    confusion: NDArray[np.int64]
    best: tuple[ClassCard, ...] = ()  # classes of the highest accuracy, best first
    worst: tuple[ClassCard, ...] = ()  # of the lowest, worst first


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
    """Contents of a run's report, or of a part of it."""

    title: str = ""
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()  # name and value, about model, data and machine
    cover: tuple[ImageExample, ...] = ()  # images for the header
    tiles: tuple[Tile, ...] = ()
    curves: tuple[Curve, ...] = ()  # the loss first
    comparisons: tuple[PromptComparison, ...] = ()
    prompts: tuple[PromptTable, ...] = ()  # one table per zero-shot task
    classes: tuple[ClassStudy, ...] = ()  # one study per zero-shot task
    text_queries: tuple[TextQuery, ...] = ()
    image_queries: tuple[ImageQuery, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()  # reason, and samples that were not used or not readable
    metrics: tuple[Metric, ...] = ()  # every number, for the table at the end
    commands: tuple[tuple[str, str], ...] = ()  # purpose and command line
