"""What a suite scores: the tasks of a published one, or those of a file of the user's own.

Reads: `tasks.toml`, or a file like

    name = "products"
    [[task]]
    name = "kind"                       # what results and reports call it
    source = "products.csv"             # a source of your own …
    labels = "kind"                     # … and its column of true names
    templates = "prompts.txt"
    metric = "mean_per_class"
    protocols = ["zeroshot", "probe", "few_shot", "retrieval"]
    train = "more.csv"                  # what probes learn from
    slices = ["shop"]                   # columns to split the score by
    [[task]]
    name = "cifar10"
    task = "cifar10"                    # or a data set that diptych knows, in DATA/cifar10

Paths in it are relative to the file. Writes: nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from diptych.core.errors import DataError, SettingsError, UsageError, unknown_name
from diptych.core.records import Need
from diptych.core.settings import from_mapping, load_toml, to_mapping
from diptych.data.sources.open import Columns, open_source
from diptych.data.sources.rows import anchored
from diptych.evaluate.prompts.sets import PromptSet, anchored_templates, open_templates
from diptych.evaluate.prompts.templates import PHOTO, Templates
from diptych.evaluate.tasks.registry import Kind, MetricName, TaskRow, suite_names, suite_tasks, task_rows
from diptych.evaluate.tasks.tasks import Task, open_task

if TYPE_CHECKING:
    from diptych.data.sources.open import Source

Protocol = Literal["zeroshot", "probe", "few_shot", "retrieval", "caption_choice"]
WITHOUT_CLASSES: Mapping[Kind, Protocol] = {"retrieval": "retrieval", "caption_choice": "caption_choice"}
"""Kinds of data sets that have captions instead, and the one way to ask about each."""
RESERVED = frozenset({"suite", "comparison", "robustness", "overlap"})
"""Names of other JSON files in the folder of a run."""
MAX_NAME_BYTES = 150  # a file's name has 255, and protocol and ending follow
SHOTS = (1, 2, 4, 8, 16)
"""Images per class in the paper's figure 6."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One `[[task]]` of a file; the module says what each entry means.

    Raises:
        SettingsError: entries are missing, or do not fit each other.
    """

    name: str
    source: str = ""
    task: str = ""
    split: str = "test"
    labels: str = ""
    image: str = "image"
    caption: str = "caption"
    templates: str = ""
    metric: MetricName | Literal[""] = ""
    protocols: tuple[Protocol, ...] = ()
    train: str = ""
    slices: tuple[str, ...] = ()
    shots: tuple[int, ...] = SHOTS

    def __post_init__(self) -> None:
        wrong = self._wrong()
        if wrong:
            raise SettingsError(
                "a task of a suite does not say what to score", where=f"task {self.name!r}", found=wrong
            )

    def _wrong(self) -> str:
        own, asked = bool(self.source), set(self.protocols)
        faults = (
            (
                not self.name or set(self.name) & set('/\\:*?"<>|') or self.name.startswith("."),
                "a name that cannot name a file",
            ),
            (
                not self.name.isprintable() or len(self.name.encode()) > MAX_NAME_BYTES,
                f"a name with other than printable characters, or longer than {MAX_NAME_BYTES} bytes",
            ),
            (
                self.name.casefold() in RESERVED,
                f"a name that another file of the run has ({', '.join(sorted(RESERVED))})",
            ),
            (
                "few_shot" in asked and min(self.shots, default=0) < 1,
                "few_shot needs shots of 1 image or more",
            ),
            (own == bool(self.task), "it needs either a source or a task"),
            (
                own and "caption_choice" in asked,
                "a choice of captions needs one of the known data sets",
            ),
            (
                own and not self.labels and asked - {"retrieval"},
                "classification needs the column of its labels",
            ),
            (
                own and not self.train and asked & {"probe", "few_shot"},
                "probe and few_shot need a source to learn from: train",
            ),
            (
                own and self.metric.startswith("worst_group") and not self.slices,
                "the worst of groups needs slices",
            ),
            (
                own and self.metric == "map_11pt",
                "the metric map_11pt needs one of the known data sets",
            ),
        )
        return next((fault for wrong, fault in faults if wrong), "")

    @property
    def digest(self) -> str:
        """Return a digest of all that the task asks for, but not of where its files lie."""
        told = to_mapping(replace(self, source=Path(self.source).name, train=Path(self.train).name))
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """A suite: its name and its tasks, in order."""

    name: str
    specs: tuple[TaskSpec, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A task that lies open.

    Attributes:
        spec: what was asked for.
        title: of the data set.
        source: the images that are scored.
        kind: classification, multilabel, retrieval or caption_choice.
        metric: the main one.
        protocols: what is run, zero-shot, retrieval or caption_choice first.
        templates: of the classes.
        class_names: of classes 0, 1, …; empty where the labels of the source say them.
        choices: what decides about the pairs of `source` beside its files.
        row: what is known about the data set; None of the user's own.
        train: what probes learn from.
        val: what they are chosen on; None takes a part of `train`.
        missing: protocols that cannot be run, and why.
    """

    spec: TaskSpec
    title: str
    source: "Source"
    kind: Kind
    metric: MetricName
    protocols: tuple[Protocol, ...]
    templates: Templates
    class_names: tuple[str, ...]
    choices: tuple[str, ...] = ()
    row: TaskRow | None = None
    train: "Source | None" = None
    val: "Source | None" = None
    missing: tuple[tuple[Protocol, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """A data set that is not there.

    Attributes:
        name: of the task.
        title: of the data set.
        looked_in: the folder.
        get_from: where to get it.
    """

    name: str
    title: str
    looked_in: str
    get_from: str


@dataclass(frozen=True, slots=True)
class _File:
    task: tuple[TaskSpec, ...]
    name: str = ""


def load_plan(suite: str, *, protocols: tuple[Protocol, ...] = ()) -> Plan:
    """Find a suite.

    Args:
        suite: a published suite, a known data set, or the path of a TOML file.
        protocols: what to run on known data sets; zero-shot classification, or retrieval, if empty.

    Raises:
        UnknownNameError: no such suite or data set, and no such file.
        SettingsError: the file is wrong.
    """
    if suite.endswith(".toml"):
        return _from_file(Path(suite))
    if suite in task_rows():
        names: tuple[str, ...] = (suite,)
    elif suite in suite_names():
        names = suite_tasks(suite)
    else:
        raise unknown_name("suite", suite, [*suite_names(), *task_rows()], where="--suite")
    return Plan(suite, tuple(TaskSpec(name, task=name, protocols=protocols) for name in names))


def _from_file(path: Path) -> Plan:
    file = from_mapping(_File, load_toml(path), where=path)
    names = [spec.name.casefold() for spec in file.task]  # some disks do not tell cases apart
    if not names or len(set(names)) < len(names):
        found = "no [[task]]" if not names else f"a name twice: {max(names, key=names.count)!r}"
        raise SettingsError("a suite cannot be read", where=path, found=found, expected="tasks with names")

    specs = (
        replace(
            spec,
            source=anchored(spec.source, path.parent),
            train=anchored(spec.train, path.parent),
            templates=anchored_templates(spec.templates, path.parent),
        )
        for spec in file.task
    )
    return Plan(file.name or path.stem, tuple(specs))


def open_plan(plan: Plan, data: Path) -> tuple[tuple[Opened, ...], tuple[Missing, ...]]:
    """Find the data of every task.

    Raises:
        UsageError: there is none at all.
    """
    found = [open_spec(spec, data) for spec in plan.specs]
    opened = tuple(task for task in found if isinstance(task, Opened))
    missing = tuple(task for task in found if isinstance(task, Missing))
    if not opened:
        raise UsageError(
            "no data set of the suite was found",
            where=data,
            found=f"none of {', '.join(task.name for task in missing[:5])}",
            expected="a folder for each, named after the task",
            fix=f"get the first one from {missing[0].get_from}" if missing else "",
        )
    return opened, missing


def open_spec(spec: TaskSpec, data: Path) -> Opened | Missing:
    """Open a task, or say where to get its data set.

    Args:
        spec: the task.
        data: the folder that holds a folder for each known data set, named after its row.

    Raises:
        UnknownNameError: no such row or split.
        UsageError: a source of the user's own cannot be opened.
    """
    return _known(spec, data) if spec.task else _own(spec)


def _known(spec: TaskSpec, data: Path) -> Opened | Missing:
    rows = task_rows()
    if spec.task not in rows:
        raise unknown_name("task", spec.task, rows, where=f"task {spec.name!r}")
    row = rows[spec.task]
    if spec.split not in row.splits:
        raise unknown_name("split", spec.split, row.splits, where=f"task {spec.name!r}")
    root = data / spec.task
    task = _if_there(spec.task, root, spec.split)
    if task is None:
        mirror = f", or as WebDataset https://huggingface.co/datasets/{row.mirror}" if row.mirror else ""
        return Missing(spec.name, row.title, str(root), row.url + mirror)
    templates = open_templates(spec.templates) if spec.templates else task.templates
    protocols = spec.protocols or (WITHOUT_CLASSES.get(row.kind, "zeroshot"),)
    train = val = None
    if {"probe", "few_shot"} & set(protocols):
        train, val = (
            _other_split(task, split) if split in row.splits else None for split in ("train", "val")
        )
    missing = tuple(
        (protocol, reason)
        for protocol in protocols
        if (reason := _why_not(protocol, row.kind, has_train=train is not None))
    )
    return Opened(
        spec, row.title, task, row.kind, spec.metric or row.metric, protocols, templates, task.class_names,
        row=row, train=train, val=val, missing=missing,
    )  # fmt: skip


def _other_split(task: Task, split: str) -> Task | None:
    """Open what probes learn from, with the class numbers of the test images.

    Raises:
        DataError: it has other classes; it may lie there in another form.
    """
    found = _if_there(task.name, task.root, split, task.prompts)
    if found is not None and found.prompts.labels != task.prompts.labels:
        raise DataError(
            "two splits of a data set have different classes",
            where=task.root,
            found=f"{len(found.prompts.labels)} in {split} ({found.reader.kind})",
            expected=f"the {len(task.prompts.labels)} of {task.split} ({task.reader.kind}), in that order",
            fix="keep both splits in one form",
        )
    return found


def _if_there(name: str, root: Path, split: str, prompts: PromptSet | None = None) -> Task | None:
    try:
        return open_task(name, root, split=split, prompts=prompts)
    except UsageError as error:
        if error.what.startswith("this folder does not hold"):
            return None
        raise


def _why_not(protocol: Protocol, kind: Kind, *, has_train: bool) -> str:
    if protocol == "retrieval":
        return "" if kind == "retrieval" else "the data set has no captions to search"
    if protocol == "caption_choice":
        return "" if kind == "caption_choice" else "the data set has no wrong captions"
    if kind in WITHOUT_CLASSES:
        return "the data set has no classes"
    if protocol == "zeroshot":
        return ""
    if kind == "multilabel":
        return "several classes a picture"
    return "" if has_train else "no training pictures were found"


def _own(spec: TaskSpec) -> Opened:
    columns = Columns(spec.image, spec.caption, one_value=tuple(filter(None, (spec.labels, *spec.slices))))
    protocols = spec.protocols or (("zeroshot",) if spec.labels else ("retrieval",))
    kind: Kind = "classification" if spec.labels else "retrieval"
    templates = open_templates(spec.templates) if spec.templates else PHOTO
    need = Need.NOTHING if spec.labels else Need.CAPTION
    return Opened(
        spec, spec.name, open_source(spec.source, columns=columns, need=need), kind,
        spec.metric or ("accuracy" if spec.labels else "recall"),
        protocols, templates, (), choices=(spec.image, spec.caption, str(need)),
        train=open_source(spec.train, columns=columns, need=Need.NOTHING) if spec.train else None,
    )  # fmt: skip


def parse_protocols(text: str) -> tuple[Protocol, ...]:
    """Read protocols separated by commas.

    Raises:
        UnknownNameError: there is no such protocol.

    >>> parse_protocols("zeroshot, probe")
    ('zeroshot', 'probe')
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known: dict[str, Protocol] = {name: name for name in get_args(Protocol)}
    for name in names:
        if name not in known:
            raise unknown_name("protocol", name, known, where="--protocols")
    return tuple(known[name] for name in names)
