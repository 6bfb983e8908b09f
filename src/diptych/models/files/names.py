"""The public short names: one table that says where weights are, and what their files must say.

Reads: `public_names.toml` beside this file.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from diptych.core.errors import unknown_name
from diptych.core.settings import from_mapping, load_toml
from diptych.data.images.transforms import Preprocess
from diptych.models.towers.config import Activation

TABLE = Path(__file__).with_name("names.toml")


@dataclass(frozen=True, slots=True)
class PublicName:
    """One row.

    Attributes:
        repository: on the Hugging Face hub.
        preprocess: name of a transform in the same table.
        activation: of both towers; None where only the files tell.
        imagenet: published zero-shot top-1 in per cent; None where none is known.
        alias: its name in OpenAI's own package; "" for all other weights.
        openai: SHA-256 of the file that OpenAI published; "" for all other weights.
    """

    repository: str
    preprocess: str
    activation: Activation | None = None
    imagenet: float | None = None
    alias: str = ""
    openai: str = ""


@dataclass(frozen=True, slots=True)
class Transform:
    """A preprocessing without its size."""

    resize: Literal["shortest", "squash"]
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Table:
    preprocess: Mapping[str, Transform]
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

    Raises:
        UnknownNameError: no transform has the name; the message holds the nearest one.

    >>> named_preprocess("siglip", (224, 224)).resize
    'squash'
    """
    transforms = _table().preprocess
    if name not in transforms:
        raise unknown_name("preprocessing", name, transforms)
    found = transforms[name]
    return Preprocess(size, found.resize, found.interpolation, found.mean, found.std)


def published_as(digests: Collection[str]) -> str | None:
    """Return the short name of OpenAI's file with one of these SHA-256, or None."""
    return next((name for name, row in public_names().items() if row.openai and row.openai in digests), None)
