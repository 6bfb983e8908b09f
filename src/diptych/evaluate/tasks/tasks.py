"""Evaluation sets: one row each, opened in whatever form they lie on disk.

A task is a source of pairs like any other, with its classes and templates beside it. An image that is
missing or damaged stays in it, without bytes: whoever scores it counts it as wrong.

Reads: a data set in one of its authors' forms, as WebDataset or as Parquet.
Source: Radford et al. 2021, appendix A and tables 9 to 11.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diptych.core.errors import BadSampleError, DataError, UsageError, unknown_name
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Field, Need, Pair
from diptych.data.captions import attempt
from diptych.data.sources.rows import build_pair
from diptych.evaluate.prompts.sets import PromptSet, folded, prompt_set
from diptych.evaluate.prompts.templates import Templates
from diptych.evaluate.tasks.readers.examples import Label, Reader
from diptych.evaluate.tasks.readers.images import picture_bytes
from diptych.evaluate.tasks.readers.tables_parquet import ParquetReader
from diptych.evaluate.tasks.readers.webdataset import WebDatasetReader
from diptych.evaluate.tasks.registry import MetricName, TaskRow, task_rows

KNOWN_NAMES = 0.9
"""A list of class names is ours, spelled differently here and there, when we know this share of its names."""

LABEL, LABELS, IGNORED = "label", "labels", "ignored"
"""Fields of a pair: the class's first name; the numbers of all its classes; those that could not be told."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a task with its class numbers; see Example for the rest."""

    key: str
    image: bytes | Path
    labels: tuple[int, ...]
    ignored: tuple[int, ...] = ()
    captions: tuple[str, ...] = ()
    fields: Mapping[str, Field] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A data set that lies open: a source of pairs, with its classes.

    Attributes:
        name: the row's name.
        row: what is known about the data set.
        root: its folder.
        split: our name of the split.
        reader: the form in which it was found.
        stored_split: the split's name in that form.
        prompts: templates and classes, class c of every item being `prompts.class_names[c]`; no classes in
            retrieval sets.
    """

    name: str
    row: TaskRow
    root: Path
    split: str
    reader: Reader
    stored_split: str
    prompts: PromptSet

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the first name of each of the C classes."""
        return self.prompts.keys

    @property
    def templates(self) -> Templates:
        """Return the templates, with the further names of classes."""
        return self.prompts.as_templates()

    @property
    def metric(self) -> MetricName:
        """Return the name of the paper's metric."""
        return self.row.metric

    def items(self) -> Iterator[Item]:
        """Yield the images in a fixed order; none is left out.

        Raises:
            DataError: an image's class is not among the classes, or it has not exactly one (one or more
                captions in retrieval sets).
            IntegrityError: a file of the data set is damaged.
        """
        numbers = _numbers(self.prompts)
        for example in self.reader.examples(self.root, self.stored_split):
            labels = tuple(self._number(label, numbers, example.key) for label in example.labels)
            ignored = tuple(self._number(label, numbers, example.key) for label in example.ignored)
            self._check(labels, example.captions, example.key)
            yield Item(example.key, example.image, labels, ignored, example.captions, example.fields)

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        """Yield the pictures as pairs with the fields `label`, `labels` and `ignored`; see Source.

        An image that cannot be read comes without bytes, and with the reason as its fault: it keeps its row.
        """
        del counts  # nothing is dropped here
        for item in self.items():
            fields = dict(item.fields)
            if item.labels:
                fields[LABELS] = ",".join(map(str, item.labels))
                fields[IGNORED] = ",".join(map(str, item.ignored))
            if self.row.kind == "classification":
                fields[LABEL] = self.class_names[item.labels[0]]
            path = str(item.image) if isinstance(item.image, Path) else ""
            yield build_pair(Need.NOTHING, item.key, _image(item), item.captions, fields, path)

    def inputs(self) -> tuple[FileEntry, ...]:
        """Digest every image with its labels and captions; see Source."""
        digest, size = hashlib.sha256(), 0
        for item in self.items():
            image = _image(item)
            image = b"" if isinstance(image, BadSampleError) else image
            size += len(image)
            told = repr((item.key, item.labels, item.ignored, item.captions)).encode(
                "utf-8", "backslashreplace"
            )
            digest.update(hashlib.sha256(told).digest() + hashlib.sha256(image).digest())
        return (FileEntry(f"{self.name} ({self.split})", size, digest.hexdigest()),)

    def _check(self, labels: Sequence[int], captions: Sequence[str], key: str) -> None:
        if self.row.kind == "retrieval":
            fits, expected = bool(captions), "captions"
        elif self.row.kind == "caption_choice":
            fits, expected = len(captions) > 1, "a right caption and wrong ones"
        else:
            fits, expected = self.row.kind == "multilabel" or len(labels) == 1, "one class"
        if not fits:
            raise DataError(
                "a picture of an evaluation set has no answer",
                where=f"{self.root}: {key}",
                found=f"{len(labels)} classes, {len(captions)} captions",
                expected=expected,
                fix="use a split with published labels",
            )

    def _number(self, label: Label, numbers: Mapping[str, int], key: str) -> int:
        """Turn what the files say into a class number."""
        if isinstance(label, str):
            found = numbers.get(folded(label))
            if found is not None:
                return found
            if not label.isdecimal():
                raise unknown_name("class", label, self.prompts.labels, where=f"{self.root}: {key}")
            label = int(label)
        count = len(self.prompts.class_names)
        if not 0 <= label < count:
            raise DataError(
                "a class number is out of range",
                where=f"{self.root}: {key}",
                found=label,
                expected=f"0 to {count - 1}",
                fix="use a split with published labels",
            )
        return label


def open_task(
    name: str,
    root: str | Path,
    *,
    split: str = "test",
    row: TaskRow | None = None,
    prompts: PromptSet | None = None,
    form: str = "",
) -> Task:
    """Open a data set as a task.

    Args:
        name: a row's name, or any name where `row` is given.
        root: the data set's folder.
        split: `test` is what the paper scores; what else there is says the row.
        row: a row of the caller's own.
        prompts: templates and classes instead of the row's.
        form: the kind of reader to use, such as `webdataset`; empty takes the first form that is there.

    Returns:
        The task; its images are not looked at yet.

    Raises:
        UnknownNameError: no such row, split or form.
        UsageError: the folder does not hold the data set.
        DataError: nobody says what the classes are called.
    """
    row = row or _row(name)
    if split not in row.splits:
        raise unknown_name("split", split, row.splits, where=name)
    root = Path(root)
    reader, stored = _find(name, row, root, split, form)
    given, prompts = prompts, prompts or prompt_set(row.prompts)
    if row.kind in ("retrieval", "caption_choice"):
        return Task(name, row, root, split, reader, stored, replace(prompts, class_names=(), labels=()))
    if row.only_present:
        present = {label for e in reader.examples(root, stored) for label in e.labels}
        if present <= set(prompts.labels):
            prompts = prompts.only([label for label in prompts.labels if label in present])
    agreed = _agree(prompts, reader.class_names(root, stored), root)
    theirs = not set(agreed.labels) <= set(prompts.labels)
    if theirs and given is None and isinstance(reader, WebDatasetReader):
        agreed = replace(agreed, templates=reader.templates(root) or agreed.templates)
    return Task(name, row, root, split, reader, stored, agreed)


def _row(name: str) -> TaskRow:
    if name not in task_rows():
        raise unknown_name("task", name, task_rows())
    return task_rows()[name]


def _find(name: str, row: TaskRow, root: Path, split: str, form: str) -> tuple[Reader, str]:
    """Return the first form in which the data set is there, and the split's name in it."""
    general = (WebDatasetReader(), ParquetReader())
    known = [*row.layouts, *(r for r in general if all(r.kind != layout.kind for layout in row.layouts))]
    if form and form not in {reader.kind for reader in known}:
        raise unknown_name("form", form, {reader.kind for reader in known}, where=name)
    others = ("validation", "valid")  # what copies of a set call its split val
    names = dict.fromkeys((row.splits[split], split, *(others if row.splits[split] == "val" else ())))
    for reader in known if root.is_dir() else ():
        candidates = names if reader.kind in ("webdataset", "parquet") else (row.splits[split],)
        stored = next((stored for stored in candidates if reader.present(root, stored)), None)
        if stored is not None and form in ("", reader.kind):
            return reader, stored
    held = ", ".join(sorted(path.name for path in root.iterdir())[:5]) if root.is_dir() else "no such folder"
    raise UsageError(
        f"this folder does not hold {row.title}",
        where=root,
        found=held or "nothing",
        expected=f"split {split!r} as {', '.join(dict.fromkeys(reader.kind for reader in known))}",
        fix=f"get it from {row.url}" + (f", or as WebDataset from {row.mirror}" if row.mirror else ""),
    )


def _numbers(prompts: PromptSet) -> dict[str, int]:
    """Return the class number of every way of writing a class that belongs to one class only."""
    numbers: dict[str, int] = {}
    shared: set[str] = set()
    for number, (names, label) in enumerate(zip(prompts.class_names, prompts.labels, strict=True)):
        for text in {folded(text) for text in (label, *names)}:
            if numbers.setdefault(text, number) != number:
                shared.add(text)
    labels = {folded(label): number for number, label in enumerate(prompts.labels)}
    return {text: number for text, number in numbers.items() if text not in shared} | labels


def _agree(prompts: PromptSet, stated: Sequence[str], root: Path) -> PromptSet:
    """Put the classes of the prompts into the order of the class numbers in the files.

    Args:
        prompts: the set with our class names.
        stated: what the files call class 0, 1, …; nothing where they do not say.
        root: named in errors.

    Returns:
        Our names in the order that the files state, which is followed exactly; a name that we do not know (or
        that the files state twice) takes the place that is left where nearly all others are known. Where the
        classes are not ours, those of the files under the names they have there.
    """
    if not stated:
        if not prompts.class_names:
            raise DataError(
                "nobody says what the classes are called",
                where=root,
                expected="classnames.txt, names in the schema of Parquet, or prompts with class names",
                fix="give prompts with class names",
            )
        return prompts
    numbers, names = _numbers(prompts), [folded(name) for name in stated]
    places = [numbers.get(name, -1) if names.count(name) == 1 else -1 for name in names]
    unknown = places.count(-1)
    if len(stated) == len(prompts.labels) and unknown <= (1 - KNOWN_NAMES) * len(stated):
        places = [number if place < 0 else place for number, place in enumerate(places)]
    if -1 not in places and len(set(places)) == len(places):
        return prompts.only([prompts.labels[place] for place in places])
    own = tuple((name,) for name in stated)
    source = f"{prompts.source}; class names of the data"
    return replace(prompts, class_names=own, labels=tuple(stated), source=source)


def _image(item: Item) -> bytes | BadSampleError:
    return attempt(lambda: picture_bytes(item.image))
