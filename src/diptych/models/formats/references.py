"""What a reference to a model means: a path, a hub id or a public short name. Needs no torch.

What is on disk goes first. What cannot be a hub id, or looks like a mistyped path or short name, is refused
with the nearest name before the network is asked: an answer that nothing is there takes half a minute.

Reads: the names of files near the reference, and `names.toml`, the table of public names.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from diptych.core import checks
from diptych.core.errors import UsageError, nearest, unknown_name
from diptych.core.settings import from_mapping, load_toml
from diptych.data.images.transforms import Preprocess
from diptych.models.formats.hub import REPOSITORY, Hub, fetch_model
from diptych.models.towers.config import Activation

if TYPE_CHECKING:
    from diptych.models.tokenizers import AnyTokenizer

TABLE = Path(__file__).with_name("names.toml")
HUB_PREFIX = "hf-hub:"
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
ALIKE = 0.75  # similarity from which on a name is taken for a mistyped one

_AT = re.compile(r"(?P<name>[^@]+)@(?P<revision>[^@]+)")


@dataclass(frozen=True, slots=True)
class PublicName:
    """One row of `names.toml`, which says what its columns mean."""

    repository: str
    preprocess: str
    activation: Activation | None = None
    imagenet: float | None = None
    alias: str = ""
    openai: str = ""


@dataclass(frozen=True, slots=True)
class _Table:
    preprocess: Mapping[str, Mapping[str, Any]]  # settings of a `Preprocess` without its size
    models: Mapping[str, PublicName]


@cache
def _table() -> _Table:
    return from_mapping(_Table, load_toml(TABLE), where=TABLE.name)


def public_names() -> Mapping[str, PublicName]:
    """Return every row by its short name.

    >>> public_names()["ViT-B-32/openai"].activation
    'quick_gelu'
    """
    return _table().models


def named_preprocess(name: str, size: tuple[int, int]) -> Preprocess:
    """Return the transform of this name for images of a size.

    >>> named_preprocess("siglip", (224, 224)).resize
    'squash'
    """
    transforms = _table().preprocess
    if name not in transforms:
        raise unknown_name("preprocessing", name, transforms)
    return from_mapping(Preprocess, {"size": size, **transforms[name]}, where=f"{TABLE.name}: {name}")


def published_as(digests: Collection[str]) -> str | None:
    """Return the short name of OpenAI's file with one of these SHA-256, or None."""
    return next((name for name, row in public_names().items() if row.openai and row.openai in digests), None)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a reference means: a path on disk, or else a repository on the hub, and its row if it has one."""

    source: str
    path: Path | None = None
    repository: str = ""
    revision: str | None = None
    row: PublicName | None = None

    def fetch(self, hub: Hub) -> tuple[Path, dict[str, Any]]:
        """Return the path, fetched from the hub if it lies there, and its origin for the provenance."""
        if self.path is not None:
            return self.path, {"source": self.source}
        folder = fetch_model(self.repository, replace(hub, revision=self.revision or hub.revision))
        return folder, {"source": self.source, "repository": self.repository, "revision": folder.name}


def resolve(ref: str | Path) -> Reference:
    """Find what a reference means, without the network; what is or looks mistyped is a UsageError."""
    source, path = checks.path(ref, "the model"), Path(ref)
    with suppress(OSError):  # a name too long for a file is none of a file
        if path.exists():
            return Reference(source, path)
    stated, text = source.startswith(HUB_PREFIX), source.removeprefix(HUB_PREFIX)
    names: Mapping[str, PublicName] = {} if stated else _names()
    revision = None
    if text not in names and (match := _AT.fullmatch(text)):
        text, revision = match["name"], match["revision"]
        names = public_names()
    if text in names and not (stated or isinstance(ref, Path)):
        return Reference(source, None, names[text].repository, revision, names[text])
    wanted = None if stated else _mistyped(text, path)
    if isinstance(ref, Path) or wanted is not None or not REPOSITORY.fullmatch(text):
        guess = wanted or nearest(text, _names())
        expected = "a folder or file, a hub id (organization/name), or a public short name"
        fix = f"check the path, or did you mean {guess!r}?" if guess else "check the path"
        raise UsageError("there is no model by this name", where=ref, expected=expected, fix=fix)
    return Reference(source, None, text, revision)


def _names() -> dict[str, PublicName]:
    """Return the rows by short name, and OpenAI's by the names of its own package."""
    rows = public_names()
    return {row.alias: row for row in rows.values() if row.alias} | dict(rows)


def _mistyped(text: str, path: Path) -> str | None:
    """Return what was meant where a reference is hardly a hub id, or None."""
    names = _names()
    if nearest(text.partition("/")[0], {name.partition("/")[0] for name in names}, cutoff=ALIKE):
        return nearest(text, names)
    on_disk = path.suffix in WEIGHTS_SUFFIXES
    with suppress(OSError):
        if near := _nearest_path(path):
            return near
        on_disk = on_disk or (path.parent != Path() and path.parent.is_dir())
    return f"{HUB_PREFIX}{text}" if on_disk and REPOSITORY.fullmatch(text) else None


def _nearest_path(path: Path) -> str | None:
    """Return the path with each part that does not exist replaced by the most similar one beside it."""
    result = Path(path.anchor)
    for part in path.parts[len(result.parts) :]:
        near: str | None = part
        if not (result / part).exists():
            near = nearest(part, [entry.name for entry in result.iterdir()], cutoff=ALIKE)
        if near is None:
            return None
        result /= near
    return str(result)


class LoadOptions(TypedDict, total=False):
    """What files may leave unsaid, which is asked for, never guessed; and another image size.

    Attributes:
        activation: of weights that lie without a configuration.
        config: of such weights, where their shape is not that of a published model: open_clip's or
            transformers' JSON file, or its content.
        tokenizer: one, or its folder or file, where none lies beside the weights.
        preprocess: a transform, or the name of one (`clip`, `siglip`, …), where no file states it.
        image_size: (height, width) to read, or both as one number; the learned positions are stretched to it
            as in open_clip (`models.assemble`). None: the size that the model learned with.
    """

    activation: Activation | None
    config: str | Path | Mapping[str, Any] | None
    tokenizer: "AnyTokenizer | str | Path | None"
    preprocess: Preprocess | str | None
    image_size: int | tuple[int, int] | None
