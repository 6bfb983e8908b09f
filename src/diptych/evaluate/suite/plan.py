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

Paths in it are relative to the file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from diptych.core.errors import DataError, SettingsError, UsageError, unknown_name
from diptych.core.records import Need
from diptych.core.settings import from_mapping, load_toml, to_mapping
from diptych.data.sources.open import Columns, open_source
from diptych.data.sources.rows import anchored
from diptych.evaluate.prompts.sets import anchored_templates, open_templates
from diptych.evaluate.prompts.templates import PHOTO, Templates
from diptych.evaluate.tasks.registry import Kind, MetricName, Task, TaskRow, open_task, registry, task_rows

if TYPE_CHECKING:
    from diptych.data.sources.open import Source

ProtocolName = Literal["zeroshot", "probe", "few_shot", "retrieval", "caption_choice"]
# Kinds of data sets that have captions instead of classes, and the one protocol of each.
WITHOUT_CLASSES: Mapping[Kind, ProtocolName] = {"retrieval": "retrieval", "caption_choice": "caption_choice"}
RESERVED = frozenset({"suite", "comparison", "robustness", "overlap"})  # other JSON files of a run
MAX_NAME_BYTES = 150  # a file's name has 255, and protocol and ending follow


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One `[[task]]` of a file; the module says what each entry means."""

    name: str
    source: str = ""
    task: str = ""
    split: str = "test"
    labels: str = ""
    image: str = "image"
    caption: str = "caption"
    templates: str = ""
    metric: MetricName | Literal[""] = ""
    protocols: tuple[ProtocolName, ...] = ()
    train: str = ""
    slices: tuple[str, ...] = ()
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)  # images per class, as in the paper's figure 6

    def __post_init__(self) -> None:
        own, asked = bool(self.source), set(self.protocols)
        no_shots = "few_shot" in asked and min(self.shots, default=0) < 1
        classifies, learns = asked - {"retrieval"}, asked & {"probe", "few_shot"}
        no_groups = self.metric.startswith("worst_group") and not self.slices
        faults = {
            "few_shot needs shots of 1 image or more": no_shots,
            "it needs either a source or a task": own == bool(self.task),
            "a choice of captions needs one of the known data sets": own and "caption_choice" in asked,
            "classification needs the column of its labels": own and not self.labels and classifies,
            "probe and few_shot need a source to learn from: train": own and not self.train and learns,
            "the worst of groups needs slices": own and no_groups,
            "the metric map_11pt needs one of the known data sets": own and self.metric == "map_11pt",
        }
        _refuse_faults(self.name, faults)

    @property
    def digest(self) -> str:
        """Return a digest of all that the task asks for, but not of where its files are."""
        plain = to_mapping(replace(self, source=Path(self.source).name, train=Path(self.train).name))
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _refuse_faults(name: str, faults: Mapping[str, object]) -> None:
    """Raise the first fault that holds."""
    for fault, holds in faults.items():
        if holds:
            what = "a task of a suite does not say what to score"
            raise SettingsError(what, where=f"task {name!r}", found=fault)


@dataclass(frozen=True, slots=True)
class Plan:
    """A suite: its name and its tasks, in order, whose names name the files of results."""

    name: str
    specs: tuple[TaskSpec, ...]

    def __post_init__(self) -> None:
        for name in (spec.name for spec in self.specs):
            unprintable = not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES
            reserved = f"a name that another file of the run has ({', '.join(sorted(RESERVED))})"
            long = f"a name with other than printable characters, or longer than {MAX_NAME_BYTES} bytes"
            no_file = not name or set(name) & set('/\\:*?"<>|') or name.startswith(".")
            faults = {"a name that cannot name a file": no_file, long: unprintable}
            _refuse_faults(name, {**faults, reserved: name.casefold() in RESERVED})


@dataclass(frozen=True, slots=True)
class OpenedTask:
    """A task whose data are there."""

    spec: TaskSpec
    title: str
    source: "Source"
    kind: Kind
    metric: MetricName
    protocols: tuple[ProtocolName, ...]
    templates: Templates
    class_names: tuple[str, ...]  # of classes 0, 1, …; empty if the labels of the source say them
    choices: tuple[str, ...] = ()  # what decides about the pairs of `source` beside its files
    row: TaskRow | None = None  # what is known about the data set; None of the user's own
    train: "Source | None" = None  # what probes learn from
    val: "Source | None" = None  # what they are chosen on; None takes a part of `train`
    not_run: tuple[tuple[ProtocolName, str], ...] = ()  # protocols that cannot be run, and why


@dataclass(frozen=True, slots=True)
class MissingTask:
    """A data set that is not in the folder `looked_in`, and the address to get it from."""

    task: str
    title: str
    looked_in: str
    get_from: str


@dataclass(frozen=True, slots=True)
class _File:
    task: tuple[TaskSpec, ...]
    name: str = ""


def load_plan(suite: str, *, protocols: tuple[ProtocolName, ...] = ()) -> Plan:
    """Find a published suite, a known data set, or the suite of a TOML file.

    `protocols` are run on known data sets; if empty, zero-shot classification or what fits the set.
    """
    if suite.endswith(".toml"):
        return _from_file(Path(suite))
    rows, suites = task_rows(), registry().suites
    if suite not in rows and suite not in suites:
        raise unknown_name("suite", suite, [*suites, *rows], where="--suite")
    names = (suite,) if suite in rows else suites[suite]
    return Plan(suite, tuple(TaskSpec(name, task=name, protocols=protocols) for name in names))


def _from_file(path: Path) -> Plan:
    file, folder = from_mapping(_File, load_toml(path), where=path), path.parent
    names = [spec.name.casefold() for spec in file.task]  # some disks do not tell cases apart
    if not names or len(set(names)) < len(names):
        found = "no [[task]]" if not names else f"a name twice: {max(names, key=names.count)!r}"
        raise SettingsError("a suite cannot be read", where=path, found=found, expected="tasks with names")
    specs: list[TaskSpec] = []
    for spec in file.task:
        source, train = anchored(spec.source, folder), anchored(spec.train, folder)
        templates = anchored_templates(spec.templates, folder)
        specs.append(replace(spec, source=source, train=train, templates=templates))
    return Plan(file.name or path.stem, tuple(specs))


def open_plan(plan: Plan, data: Path) -> tuple[tuple[OpenedTask, ...], tuple[MissingTask, ...]]:
    """Find the data of every task; none at all is an error."""
    tasks = [open_spec(spec, data) for spec in plan.specs]
    opened = tuple(task for task in tasks if isinstance(task, OpenedTask))
    missing = tuple(task for task in tasks if isinstance(task, MissingTask))
    if not opened:
        what, expected = "no data set of the suite was found", "a folder for each, named after the task"
        found = f"none of {', '.join(task.task for task in missing[:5])}"
        fix = f"get the first one from {missing[0].get_from}" if missing else ""
        raise UsageError(what, where=data, found=found, expected=expected, fix=fix)
    return opened, missing


def open_spec(spec: TaskSpec, data: Path) -> OpenedTask | MissingTask:
    """Open a task, or say where to get its data set.

    The folder `data` holds a folder for each known data set, named after its row.
    """
    if not spec.task:
        return open_own(spec, *own_source(spec.source, [spec]))
    rows, where = task_rows(), f"task {spec.name!r}"
    if spec.task not in rows:
        raise unknown_name("task", spec.task, rows, where=where)
    row = rows[spec.task]
    if spec.split not in row.splits:
        raise unknown_name("split", spec.split, row.splits, where=where)
    root = data / spec.task
    task = open_task(spec.task, root, split=spec.split)
    if task is None:
        mirror = f", or as WebDataset https://huggingface.co/datasets/{row.mirror}" if row.mirror else ""
        return MissingTask(spec.name, row.title, str(root), row.url + mirror)
    protocols = spec.protocols or (WITHOUT_CLASSES.get(row.kind, "zeroshot"),)
    train = val = None
    if {"probe", "few_shot"} & set(protocols):
        train, val = (_other_split(task, split) for split in ("train", "val"))
    reasons = [(name, _why_not(name, row.kind, has_train=train is not None)) for name in protocols]
    return OpenedTask(
        spec, row.title, task, row.kind, spec.metric or row.metric, protocols,
        open_templates(spec.templates) if spec.templates else task.templates, task.class_names,
        row=row, train=train, val=val, not_run=tuple((name, why) for name, why in reasons if why),
    )  # fmt: skip


def _other_split(task: Task, split: str) -> Task | None:
    """Open what probes learn from, with the class numbers of the test images."""
    if split not in task.row.splits:
        return None
    other = open_task(task.name, task.root, split=split, prompts=task.prompts)
    if other is not None and other.prompts.labels != task.prompts.labels:
        what, fix = "two splits of a data set have different classes", "keep both splits in one form"
        found = f"{len(other.prompts.labels)} in {split} ({other.reader.kind})"
        expected = f"the {len(task.prompts.labels)} of {task.split} ({task.reader.kind}), in that order"
        raise DataError(what, where=task.root, found=found, expected=expected, fix=fix)
    return other


def _why_not(protocol: ProtocolName, kind: Kind, *, has_train: bool) -> str:
    lacking = {"retrieval": "captions to search", "caption_choice": "wrong captions"}
    if protocol in lacking:
        return "" if protocol == kind else f"the data set has no {lacking[protocol]}"
    if kind in WITHOUT_CLASSES:
        return "the data set has no classes"
    if protocol == "zeroshot":
        return ""
    if kind == "multilabel":
        return "several classes an image"
    return "" if has_train else "no training images were found"


def own_source(ref: str, specs: Sequence[TaskSpec], columns: Columns | None = None) -> "tuple[Source, Need]":
    """Open a source of the user's own for the tasks on it, and return it with what it needs of a pair."""
    columns = columns or Columns(specs[0].image, specs[0].caption)
    single = tuple(name for spec in specs for name in (spec.labels, *spec.slices) if name)
    need = Need.NOTHING if any(spec.labels for spec in specs) else Need.CAPTION
    return open_source(ref, columns=replace(columns, one_value=single), need=need), need


def open_own(spec: TaskSpec, source: "Source", need: Need) -> OpenedTask:
    """Open a task on a source of the user's own."""
    return OpenedTask(
        spec, spec.name, source, "classification" if spec.labels else "retrieval",
        spec.metric or ("accuracy" if spec.labels else "recall"),
        spec.protocols or (("zeroshot",) if spec.labels else ("retrieval",)),
        open_templates(spec.templates) if spec.templates else PHOTO, (),
        choices=(spec.image, spec.caption, str(need)),
        train=own_source(spec.train, [spec])[0] if spec.train else None,
    )  # fmt: skip


def parse_protocols(text: str) -> tuple[ProtocolName, ...]:
    """Read protocols separated by commas.

    >>> parse_protocols("zeroshot, probe")
    ('zeroshot', 'probe')
    """
    known: dict[str, ProtocolName] = {name: name for name in get_args(ProtocolName)}
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise unknown_name("protocol", name, known, where="--protocols")
    return tuple(known[name] for name in names)
