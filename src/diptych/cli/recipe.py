"""Recipes: a training run as data, from raw pairs to the report.

Reads: a TOML file (`recipes/*.toml`, or the packaged `demo`). Paths in it are relative to the file; paths
given with `--set` are relative to the current folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from diptych.core.errors import SettingsError
from diptych.core.settings import from_mapping, load_toml, override
from diptych.data.images.transforms import CLIP_MEAN, CLIP_STD, Orientation
from diptych.data.sources.rows import anchored


@dataclass(frozen=True, slots=True)
class DataPart:
    """Where the pairs come from; see `diptych.data.sources.open`. `image` and `caption` are columns."""

    source: str
    image: str = "image"
    caption: str = "caption"
    workers: int = 2
    max_bad_fraction: float = 0.1


@dataclass(frozen=True, slots=True)
class TokenizerPart:
    """A vocabulary trained on the captions (`size`), or one from a file."""

    file: str = ""
    size: int = 8192
    context_length: int = 77


@dataclass(frozen=True, slots=True)
class ModelPart:
    """The architecture: a row of `diptych.models.towers.presets`."""

    preset: str


@dataclass(frozen=True, slots=True)
class PreprocessPart:
    """How images become pixels; the size is the tower's. See `data/images/transforms`."""

    resize: Literal["shortest", "squash"] = "shortest"
    train_resize: int | None = None
    train_pad: int = 0
    horizontal_flip: bool = False
    orientation: Orientation = "upright"
    scaled_jpeg: bool = False
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


@dataclass(frozen=True, slots=True)
class LoaderPart:
    """How batches are made. See `diptych.data.loader.LoaderSettings`."""

    workers: int = 1
    word_dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskPart:
    """One evaluation task."""

    name: str
    source: str
    task: Literal["zeroshot", "retrieval"]
    labels: str = ""
    templates: str = ""

    def __post_init__(self) -> None:
        if self.task == "zeroshot" and not self.labels:
            raise SettingsError(
                "a zero-shot task needs the column of its labels",
                where=f"evaluate: {self.name}",
                fix='labels = "COLUMN" in a recipe, --labels COLUMN in a command',
            )


@dataclass(frozen=True, slots=True)
class ReportPart:
    """What the report says and looks for."""

    title: str = ""
    summary: str = ""
    queries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """Recipe of a run: data, vocabulary, model, training, evaluation, report."""

    data: DataPart
    model: ModelPart
    train: dict[str, Any]
    tokenizer: TokenizerPart = field(default_factory=TokenizerPart)
    preprocess: PreprocessPart = field(default_factory=PreprocessPart)
    loader: LoaderPart = field(default_factory=LoaderPart)
    evaluate: tuple[TaskPart, ...] = ()
    report: ReportPart = field(default_factory=ReportPart)


R = TypeVar("R", bound=Recipe)


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `a.b=1` assignments."""
    return load_recipe_as(Recipe, path, assignments)


def load_recipe_as(kind: type[R], path: Path, assignments: Sequence[str] = ()) -> R:
    """Read a recipe that may have further tables; see `load_recipe`."""
    mapping = _anchored(load_toml(path), path.parent)
    return from_mapping(kind, override(mapping, assignments), where=path)


def _anchored(mapping: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the paths of a recipe relative to its own folder."""
    from diptych.evaluate.prompts.sets import anchored_templates

    def anchor(table: Any, name: str) -> None:
        if isinstance(table, dict) and isinstance(table.get(name), str):
            place = anchored_templates if name == "templates" else anchored
            table[name] = place(table[name], folder)

    anchor(mapping.get("data"), "source")
    anchor(mapping.get("tokenizer"), "file")
    tasks = mapping.get("evaluate", [])
    for task in tasks if isinstance(tasks, list) else []:
        anchor(task, "source")
        anchor(task, "templates")
    return mapping
