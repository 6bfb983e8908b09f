"""What commands read: the words that several take, as tyro wants them described, and lists in one word."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from diptych.core.errors import UsageError
from diptych.core.files.reading import read_text

if TYPE_CHECKING:
    from diptych.data.sources.open import Columns
    from diptych.models.model import Model

MODEL_HELP = "a checkpoint's or run's folder, another library's files, a hub id or a public short name."
COLUMNS_HELP = "names of the table's columns, for example image=photo,caption=title."
ModelName = Annotated[Positional[str], arg(metavar="MODEL", help=MODEL_HELP)]
SourceName = Annotated[Positional[str], arg(metavar="SOURCE")]
OutFolder = Annotated[Positional[Path], arg(metavar="OUT")]
ColumnNames = Annotated[str, arg(help=COLUMNS_HELP)]
JsonFile = Annotated[str, arg(help="where the results go: a file, or - for stdout.")]
Assignments = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="K=V")]

MAX_BAD_FRACTION = 0.1  # share of a source's samples that may be bad, where no other is given


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How image files are read.

    Attributes:
        orientation: upright: as a viewer shows them, turned as their EXIF data say; stored: as open_clip
            reads them, which published scores are of. By default as the model's files say, else upright.
        scaled_jpeg: decode large JPEG files at half of their size or less: sooner, but no longer exact.
    """

    orientation: Literal["upright", "stored"] | None = None
    scaled_jpeg: bool = False

    def load(self, model: str) -> "Model":
        """Load a model that reads images like this."""
        from diptych.models.load import load

        return load(model).reading(self.orientation, scaled_jpeg=self.scaled_jpeg or None)

    def as_words(self) -> str:
        """Return the options as they are typed."""
        words = "" if self.orientation is None else f" --orientation {self.orientation}"
        return words + " --scaled-jpeg" * self.scaled_jpeg


@dataclass(frozen=True, slots=True)
class ReadOptions(ImageOptions):
    """How a source is read."""

    columns: ColumnNames = ""


def parse_columns(text: str) -> "Columns":
    """Read `image=photo,caption=title`.

    >>> parse_columns("caption=title").caption
    'title'
    """
    from diptych.core.settings import from_mapping
    from diptych.data.sources.open import Columns

    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for name, sign, value in pairs:
        if not (name.strip() and sign and value.strip()):
            what, wanted = "columns are given as name=column", "for example image=photo,caption=title"
            raise UsageError(what, where="--columns", found=text, expected=wanted)
    return from_mapping(Columns, {name.strip(): value.strip() for name, _, value in pairs}, where="--columns")


def parse_names(values: Sequence[str], *, where: str) -> list[str]:
    """Read class names: a text with commas, the path of a file with one a line, or several names as they are.

    Raises:
        UsageError: fewer than two names, or a file that is not UTF-8.

    >>> parse_names(["a cat, a dog"], where="--labels"), parse_names(["cat, asleep", "dog"], where="--labels")
    (['a cat', 'a dog'], ['cat, asleep', 'dog'])
    """
    listed = list(values)
    if len(listed) == 1:
        path = Path(listed[0])
        try:
            is_file = os.path.isfile(path)  # noqa: PTH113 — Path.is_file raises for a text of 300 letters
            listed = read_text(path).splitlines() if is_file else listed[0].split(",")
        except UnicodeDecodeError as error:
            raise UsageError("names are not text", where=path, found=error.reason, expected="UTF-8") from None
    names = [name.strip() for name in listed if name.strip()]
    if len(names) < 2:
        actual = ", ".join(names) or "no name"
        wanted = 'at least two, such as "a cat,a dog", or a file with one name a line'
        raise UsageError("there is nothing to choose between", where=where, found=actual, expected=wanted)
    return names
