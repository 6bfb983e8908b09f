"""What a report says, as plain data: whoever fills it needs to know nothing about HTML.

Every part is optional; a section without parts is left out of the page.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diptych.core.records import Metric
from diptych.report.images import Picture
from diptych.report.plots import Curve


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number.

    Attributes:
        label: what it is, in plain words.
        metric: the number, a share in [0, 1].
        note: one sentence on what to hold it against.
    """

    label: str
    metric: Metric
    note: str = ""


@dataclass(frozen=True, slots=True)
class PromptBar:
    """What one set of prompts reached, and its gain over the first set."""

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
class Comparison:
    """The same task under several circumstances, such as with and without curation.

    Attributes:
        title: of its section.
        words: what was done, in one or two sentences.
        table: one bar for each circumstance.
    """

    title: str
    words: str
    table: PromptTable


@dataclass(frozen=True, slots=True)
class ClassCard:
    """One class with a few of its pictures."""

    name: str
    right: int
    count: int
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassStudy:
    """One task class by class.

    Attributes:
        task: the task's name.
        class_names: C names.
        confusion: (C, C + 1) counts, true class by answer; the last column is "no answer".
        best: classes that went well, best first.
        worst: classes that went badly, worst first.
    """

    task: str
    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    best: tuple[ClassCard, ...] = ()
    worst: tuple[ClassCard, ...] = ()


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A text and the pictures it found, best first."""

    text: str
    found: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """A picture and the texts it found, best first, each with whether it is a right one."""

    picture: Picture
    found: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A run, told.

    Attributes:
        title: the run's name.
        summary: one or two sentences: what was trained on what, and how well it does.
        facts: pairs of name and value about model, data and machine.
        wall: pictures for the masthead; up to 12 are shown.
        tiles: headline numbers.
        curves: quantities over the run, the loss first.
        comparisons: a section each, behind the curves.
        prompts: one table per zero-shot task.
        classes: one study per zero-shot task.
        text_queries: texts and the pictures they found.
        image_queries: pictures and the texts they found.
        left_out: pairs of reason and number of samples that were not used or not readable.
        metrics: every number, for the table at the end.
        commands: pairs of purpose and command line, to do it again.
    """

    title: str
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    wall: tuple[Picture, ...] = ()
    tiles: tuple[Tile, ...] = ()
    curves: tuple[Curve, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    prompts: tuple[PromptTable, ...] = ()
    classes: tuple[ClassStudy, ...] = ()
    text_queries: tuple[TextQuery, ...] = ()
    image_queries: tuple[ImageQuery, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    metrics: tuple[Metric, ...] = ()
    commands: tuple[tuple[str, str], ...] = field(default=())
