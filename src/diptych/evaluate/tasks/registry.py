"""What is known about evaluation sets, as rows of data.

Reads: `tasks.toml` beside this file, which says what each entry means.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from diptych.core.errors import unknown_name
from diptych.core.settings import from_mapping, load_toml
from diptych.evaluate.tasks.readers.arrays import CifarReader, Hdf5Reader, IdxReader, StlReader
from diptych.evaluate.tasks.readers.caption_files import CocoReader, KarpathyReader, Xm3600Reader
from diptych.evaluate.tasks.readers.choices import AroReader, SugarCrepeReader, WinogroundReader
from diptych.evaluate.tasks.readers.folders import FolderReader
from diptych.evaluate.tasks.readers.originals import (
    CarsReader,
    ClevrReader,
    FlowersReader,
    KittiReader,
    ObjectNetReader,
    VocReader,
)
from diptych.evaluate.tasks.readers.tables import ListReader, TableReader
from diptych.evaluate.tasks.readers.tables_parquet import ParquetReader
from diptych.evaluate.tasks.readers.webdataset import WebDatasetReader

TABLE = Path(__file__).with_name("tasks.toml")

Kind = Literal["classification", "multilabel", "retrieval", "caption_choice"]
MetricName = Literal[
    "accuracy", "mean_per_class", "mean_top1_top5", "map_11pt", "roc_auc", "macro_f1", "worst_group_accuracy",
    "worst_group_top5", "recall", "mean_per_group", "group_score",
]  # fmt: skip
Layout = (
    FolderReader | ListReader | TableReader | WebDatasetReader | ParquetReader | IdxReader | StlReader
    | CifarReader | Hdf5Reader | CarsReader | FlowersReader | VocReader | KittiReader | ClevrReader
    | ObjectNetReader | KarpathyReader | CocoReader | Xm3600Reader | SugarCrepeReader
    | WinogroundReader | AroReader
)  # fmt: skip


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
        known = dict(zip(task_models(), self.zero_shot, strict=False)) | dict(self.expected)
        return known.get(model)


@dataclass(frozen=True, slots=True)
class _Table:
    models: tuple[str, ...]
    suites: Mapping[str, tuple[str, ...]]
    tasks: Mapping[str, TaskRow]


@cache
def _table() -> _Table:
    return from_mapping(_Table, load_toml(TABLE), where=TABLE.name)


def task_rows() -> Mapping[str, TaskRow]:
    """Return every row by its name.

    >>> task_rows()["voc2007"].metric
    'map_11pt'
    """
    return _table().tasks


def task_models() -> tuple[str, ...]:
    """Return the models of the paper's table, in the order of `TaskRow.zero_shot`."""
    return _table().models


def suite_tasks(name: str) -> tuple[str, ...]:
    """Return the names of the tasks of a suite.

    Raises:
        UnknownNameError: no such suite.

    >>> len(suite_tasks("paper27"))
    27
    """
    suites = _table().suites
    if name not in suites:
        raise unknown_name("suite", name, suites)
    return suites[name]


def suite_names() -> tuple[str, ...]:
    """Return the names of the published suites.

    >>> suite_names()
    ('paper27', 'datacomp38', 'imagenet_shift', 'retrieval', 'compositional')
    """
    return tuple(_table().suites)
