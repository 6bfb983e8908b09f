"""Evaluation sets: one row each of what is known about them, and their data in any form on disk.

A task is a source of pairs like any other, with its classes and templates beside it. An image that is
missing or damaged stays in it, without bytes: whoever scores it counts it as wrong.

Reads: `tasks.toml` beside this file, which says what each entry of a row means; a data set in one of its
authors' forms, as WebDataset or as Parquet.
Source: Radford et al. 2021, appendix A and tables 9 to 11.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from diptych.core.errors import BadSampleError, DataError, unknown_name
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Need, Pair
from diptych.core.settings import from_mapping, load_toml
from diptych.data.captions import attempt
from diptych.data.sources.rows import Row
from diptych.evaluate.prompts.sets import PromptSet, folded, prompt_set
from diptych.evaluate.prompts.templates import Templates
from diptych.evaluate.tasks.readers import Example, Label, Reader, image_bytes
from diptych.evaluate.tasks.readers.arrays import ArrayReader
from diptych.evaluate.tasks.readers.captions import CaptionReader
from diptych.evaluate.tasks.readers.originals import OriginalReader
from diptych.evaluate.tasks.readers.tables import ListingReader, ParquetReader
from diptych.evaluate.tasks.readers.webdataset import WebDatasetReader

TABLE = Path(__file__).with_name("tasks.toml")

# A list of class names is ours, spelled differently here and there, if we know this share of its names.
KNOWN_NAMES = 0.9
USE_ANOTHER = "use a split with published labels"

# Fields of a pair: the class's first name; the numbers of all its classes; those that could not be told.
LABEL, LABELS, IGNORED = "label", "labels", "ignored"

Kind = Literal["classification", "multilabel", "retrieval", "caption_choice"]
MetricName = Literal[
    "accuracy", "mean_per_class", "mean_top1_top5", "map_11pt", "roc_auc", "macro_f1", "worst_group_accuracy",
    "worst_group_top5", "recall", "mean_per_group", "group_score",
]  # fmt: skip
Layout = ListingReader | WebDatasetReader | ArrayReader | CaptionReader | OriginalReader


@dataclass(frozen=True, slots=True)
class MtebTask:
    """A zero-shot task of MTEB's: its name, the images of its test split, and what it calls that split."""

    name: str
    items: int
    split: str = "test"


@dataclass(frozen=True, slots=True)
class TaskRow:
    """What is known about a data set; `tasks.toml` says what each entry means."""

    title: str
    metric: MetricName
    splits: Mapping[str, str]
    items: Mapping[str, int]
    license: str
    url: str
    kind: Kind = "classification"
    prompts: str = "photo"
    layouts: tuple[Layout, ...] = ()
    column: str = ""
    mirror: str = ""
    zero_shot: tuple[float, ...] = ()
    probe: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    expected_text: Mapping[str, float] = field(default_factory=dict)
    mteb: MtebTask | None = None
    only_present: bool = False
    note: str = ""

    def published(self, model: str) -> float | None:
        """Return the paper's zero-shot result of a model in per cent, or None."""
        known = dict(zip(registry().models, self.zero_shot, strict=False)) | dict(self.expected)
        return known.get(model)


@dataclass(frozen=True, slots=True)
class Registry:
    """What `tasks.toml` holds: the models of the paper's table, the published suites, a row a task."""

    models: tuple[str, ...]  # in the order of `TaskRow.zero_shot`
    suites: Mapping[str, tuple[str, ...]]
    tasks: Mapping[str, TaskRow]


@cache
def registry() -> Registry:
    """Read `tasks.toml`, once.

    >>> registry().tasks["voc2007"].metric, len(registry().suites["paper27"])
    ('map_11pt', 27)
    """
    return from_mapping(Registry, load_toml(TABLE), where=TABLE.name)


def task_rows() -> Mapping[str, TaskRow]:
    """Return every row by its name."""
    return registry().tasks


@dataclass(frozen=True, slots=True)
class Task:
    """A data set on disk: a source of pairs, with its classes."""

    name: str
    row: TaskRow
    root: Path
    split: str
    reader: Reader  # of the form in which it is on disk
    stored_split: str  # the split's name in that form
    prompts: PromptSet  # templates, and the name of each class number; no classes in retrieval sets

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the first name of each of the C classes."""
        return self.prompts.keys

    @property
    def templates(self) -> Templates:
        """Return the templates, with the further names of classes."""
        return self.prompts.as_templates()

    def items(self) -> Iterator[Example]:
        """Yield the images in a fixed order, with class numbers as labels; none is left out."""
        numbers = _numbers(self.prompts)
        for example in self.reader.examples(self.root, self.stored_split):
            labels, ignored = (
                tuple(self._number(label, numbers, example.key) for label in of_example)
                for of_example in (example.labels, example.ignored)
            )
            self._check(labels, example.captions, example.key)
            yield replace(example, labels=labels, ignored=ignored)

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the images as pairs with the fields `label`, `labels` and `ignored`; see Source.

        An image that cannot be read comes without bytes, and with the reason as its fault: it keeps its row.
        """
        del counts  # nothing is dropped here
        for item in self.items():
            fields = dict(item.fields)
            if item.labels:
                fields[LABELS] = ",".join(map(str, item.labels))
                fields[IGNORED] = ",".join(map(str, item.ignored))
            if self.row.kind == "classification":
                fields[LABEL] = self.class_names[int(item.labels[0])]
            path = str(item.image) if isinstance(item.image, Path) else ""
            row = Row(item.key, (item.key,), _image(item), item.captions, fields, path)
            yield row.pair(item.key, Need.NOTHING)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest every image with its labels and captions; see Source."""
        digest, size = hashlib.sha256(), 0
        for item in self.items():
            image = _image(item)
            image = b"" if isinstance(image, BadSampleError) else image
            size += len(image)
            facts = repr((item.key, item.labels, item.ignored, item.captions))
            digest.update(hashlib.sha256(facts.encode("utf-8", "backslashreplace")).digest())
            digest.update(hashlib.sha256(image).digest())
        return (FileEntry(f"{self.name} ({self.split})", size, digest.hexdigest()),)

    def _check(self, labels: Sequence[int], captions: Sequence[str], key: str) -> None:
        expected, fits = {
            "retrieval": ("captions", bool(captions)),
            "caption_choice": ("a right caption and wrong ones", len(captions) > 1),
            "classification": ("one class", len(labels) == 1),
            "multilabel": ("", True),
        }[self.row.kind]
        if not fits:
            what, where = "an image of an evaluation set has no answer", f"{self.root}: {key}"
            found = f"{len(labels)} classes, {len(captions)} captions"
            raise DataError(what, where=where, found=found, expected=expected, fix=USE_ANOTHER)

    def _number(self, label: Label, numbers: Mapping[str, int], key: str) -> int:
        """Turn what the files say into a class number."""
        where, count = f"{self.root}: {key}", len(self.prompts.class_names)
        if isinstance(label, str):
            number = numbers.get(folded(label))
            if number is not None:
                return number
            if not label.isdecimal():
                raise unknown_name("class", label, self.prompts.labels, where=where)
            label = int(label)
        if not 0 <= label < count:
            what, expected = "a class number is out of range", f"0 to {count - 1}"
            raise DataError(what, where=where, found=label, expected=expected, fix=USE_ANOTHER)
        return label


def open_task(
    name: str,
    root: str | Path,
    *,
    split: str = "test",
    row: TaskRow | None = None,
    prompts: PromptSet | None = None,
) -> Task | None:
    """Open a data set as a task, in the first form that is there.

    Args:
        name: a row's name, or any name if `row` is given.
        root: the data set's folder.
        split: `test` is what the paper scores; the row lists the others.
        row: a row of the caller's own.
        prompts: templates and classes instead of the row's.

    Returns:
        The task, or None if the folder does not hold the data set.
    """
    if row is None:
        if name not in task_rows():
            raise unknown_name("task", name, task_rows())
        row = task_rows()[name]
    if split not in row.splits:
        raise unknown_name("split", split, row.splits, where=name)
    root, given = Path(root), prompts
    form = _form(row, root, split)
    if form is None:
        return None
    reader, stored = form
    prompts = prompts or prompt_set(row.prompts)
    if row.kind in ("retrieval", "caption_choice"):
        return Task(name, row, root, split, reader, stored, replace(prompts, class_names=(), labels=()))
    if row.only_present:
        present = {label for example in reader.examples(root, stored) for label in example.labels}
        if present <= set(prompts.labels):
            prompts = prompts.only([label for label in prompts.labels if label in present])
    agreed = _agree(prompts, reader.class_names(root, stored), root)
    theirs = not set(agreed.labels) <= set(prompts.labels)
    if theirs and given is None and isinstance(reader, WebDatasetReader):
        agreed = replace(agreed, templates=reader.templates(root) or agreed.templates)
    return Task(name, row, root, split, reader, stored, agreed)


def _form(row: TaskRow, root: Path, split: str) -> tuple[Reader, str] | None:
    """Return the first form in which the data set is there, and the split's name in it.

    The forms are its authors', WebDataset and Parquet.
    """
    own, kinds = row.splits[split], {layout.kind for layout in row.layouts}
    copies = ("validation", "valid") if own == "val" else ()  # what copies of a set call this split
    others = (reader for reader in (WebDatasetReader(), ParquetReader()) if reader.kind not in kinds)
    for reader in (*row.layouts, *others) if root.is_dir() else ():
        names = (own, split, *copies) if reader.kind in ("webdataset", "parquet") else (own,)
        stored = next((name for name in dict.fromkeys(names) if reader.present(root, name)), None)
        if stored is not None:
            return reader, stored
    return None


def _numbers(prompts: PromptSet) -> dict[str, int]:
    """Return the class number of every spelling that belongs to one class only."""
    numbers: dict[str, int] = {}
    shared: set[str] = set()
    for number, (names, label) in enumerate(zip(prompts.class_names, prompts.labels, strict=True)):
        for text in {folded(text) for text in (label, *names)}:
            if numbers.setdefault(text, number) != number:
                shared.add(text)
    labels = {folded(label): number for number, label in enumerate(prompts.labels)}
    return {text: number for text, number in numbers.items() if text not in shared} | labels


def _agree(prompts: PromptSet, stated: Sequence[str], root: Path) -> PromptSet:
    """Put the classes of the prompts into the order that the files state, which is followed exactly.

    A name that we do not know (or that the files state twice) takes the number that is left if nearly all
    others are known. If the classes are not ours, those of the files under the names they have there.
    """
    if not stated:
        if not prompts.class_names:
            what, fix = "nobody says what the classes are called", "give prompts with class names"
            expected = "classnames.txt, names in the schema of Parquet, or prompts with class names"
            raise DataError(what, where=root, expected=expected, fix=fix)
        return prompts
    known, names = _numbers(prompts), [folded(name) for name in stated]
    order = [known.get(name, -1) if names.count(name) == 1 else -1 for name in names]
    unknown = order.count(-1)
    if len(stated) == len(prompts.labels) and unknown <= (1 - KNOWN_NAMES) * len(stated):
        order = [number if known_number < 0 else known_number for number, known_number in enumerate(order)]
    if -1 not in order and len(set(order)) == len(order):
        return prompts.only([prompts.labels[number] for number in order])
    own = tuple((name,) for name in stated)
    source = f"{prompts.source}; class names of the data"
    return replace(prompts, class_names=own, labels=tuple(stated), source=source)


def _image(item: Example) -> bytes | BadSampleError:
    return attempt(lambda: image_bytes(item.image))
