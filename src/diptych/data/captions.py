"""Captions and fields of a sample: one rule for tables, folders and tars."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from diptych.core.errors import BadSampleError, Reason
from diptych.core.files.reading import decode_text
from diptych.core.records import Field, Need

MAX_BYTES_BESIDE = 2**20  # a hundred times the longest honest caption file
MAX_CAPTION_CHARACTERS = 16_384  # 77 tokens are kept; a longer "caption" is a page of text or an attack
_LIST, _ONE = "captions", "caption"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table, or names in its JSON, hold what.

    Attributes:
        image: path of the image file, or in Parquet its bytes.
        caption: the text; a list of texts where the format has lists.
        key: the name of a pair; without it the image's file name is used, or the row's number.
        one_value: columns that may say one thing only of an image, also where several rows share it.
    """

    image: str = "image"
    caption: str = "caption"
    key: str = "id"
    one_value: tuple[str, ...] = ()

    def needed(self, need: Need) -> tuple[str, ...]:
        """Return the columns that a table must have: those that are needed, and those that were named."""
        image = need != Need.CAPTION or self.image != DEFAULT_COLUMNS.image
        caption = Need.CAPTION in need or self.caption != DEFAULT_COLUMNS.caption
        return (self.image,) * image + (self.caption,) * caption


DEFAULT_COLUMNS = Columns()


def attempt(read: Callable[[], T]) -> T | BadSampleError:
    """Return what `read` returns, or why it cannot."""
    try:
        return read()
    except BadSampleError as error:
        return error


def captions_of(value: object) -> tuple[str, ...]:
    """Return the usable captions of one text or a list of texts, stripped.

    One good caption of several is enough; if none is good, the first one's fault is raised.

    >>> captions_of([" a dog ", "", 7])
    ('a dog',)
    """
    texts = value if isinstance(value, list | tuple) else [value]
    read = [attempt(partial(caption_of, text)) for text in texts or [None]]
    good = tuple(caption for caption in read if isinstance(caption, str))
    if not good and isinstance(read[0], BadSampleError):
        raise read[0]
    return good


def caption_of(text: object) -> str:
    """Return one caption, stripped, or raise BadSampleError."""
    if text is None:
        raise BadSampleError(Reason.MISSING_CAPTION)
    if not isinstance(text, str):
        raise BadSampleError(Reason.CAPTION_NOT_TEXT, found=type(text).__name__)
    if len(text) > MAX_CAPTION_CHARACTERS:
        raise BadSampleError(Reason.CAPTION_TOO_LONG, found=f"{len(text)} characters")
    stripped = text.removeprefix("\ufeff").strip()
    if not stripped:
        raise BadSampleError(Reason.EMPTY_CAPTION)
    if "\0" in stripped or not is_unicode(stripped):
        raise BadSampleError(Reason.CAPTION_NOT_TEXT, found="NUL or broken UTF-8")
    return stripped


def is_unicode(text: str) -> bool:
    """Tell whether a text has no lone surrogates, which is how Python keeps bytes that are not UTF-8."""
    return text == plain(text)


def fields_of(values: Mapping[str, object]) -> dict[str, Field]:
    """Keep the scalar columns; dates and the like become text, lists and bytes are left out.

    What JSON cannot say is made fit for it: NaN becomes None, half a character its escape.

    >>> fields_of({"a": 1, "b": [2], "c": None})
    {'a': 1, 'c': None}
    """
    fields: dict[str, Field] = {}
    for name, value in values.items():
        if value is None or isinstance(value, int | float):
            fields[plain(name)] = None if isinstance(value, float) and not math.isfinite(value) else value
        elif isinstance(value, str):
            fields[plain(name)] = plain(value)
        elif hasattr(value, "isoformat"):
            fields[plain(name)] = str(value.isoformat())
    return fields


def plain(text: str) -> str:
    """Make a text fit for UTF-8: file names and broken tables may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def texts_beside(
    text: bytes | None, record: bytes | None, columns: Columns
) -> tuple[tuple[str, ...] | BadSampleError, dict[str, Field]]:
    """Return the captions, or why there are none, and the fields of an image by what lies beside it.

    The captions are the first of these that can be used: the record's value under the name that `columns`
    gives, its list `captions`, the lines of the text (of ``NAME.txt``), and its `caption`. The fields are
    the other scalar values of the record (of ``NAME.json``, one object).

    >>> texts_beside(b"a dog\\nan old dog\\n", b'{"width": 3}', Columns())
    (('a dog', 'an old dog'), {'width': 3})
    """
    body = {} if record is None else attempt(partial(json_object, record))
    if isinstance(body, BadSampleError):
        return body, {}
    nested = body.pop("fields", None)  # where our own shards keep them
    body |= nested if isinstance(nested, dict) else {}
    names = (_LIST,) if columns.caption == _ONE else (columns.caption, _LIST)
    fields = fields_of({name: value for name, value in body.items() if name not in (*names, _ONE)})
    lines = partial(_lines, text) if text is not None else partial(body.get, "")
    fault = BadSampleError(Reason.MISSING_CAPTION, found="no text beside the image")
    for read in (*(partial(body.get, name) for name in names), lines, partial(body.get, _ONE)):
        try:
            return captions_of(read()), fields
        except BadSampleError as error:
            fault = error if fault.reason == Reason.MISSING_CAPTION else fault
    return fault, fields


def _lines(data: bytes) -> list[str] | str:
    if len(data) > MAX_BYTES_BESIDE:
        raise BadSampleError(Reason.CAPTION_TOO_LONG, found=f"{len(data)} bytes")
    try:
        text = decode_text(data)
    except UnicodeDecodeError as error:
        raise BadSampleError(Reason.CAPTION_NOT_TEXT, found=error.reason, expected="UTF-8") from None
    return [line for line in text.splitlines() if line.strip()] or ""


def json_object(text: str | bytes) -> dict[str, object]:
    """Return a JSON object, or raise BadSampleError."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(Reason.BAD_ROW, found=f"no JSON: {type(error).__name__}") from None
    if not isinstance(body, dict):
        raise BadSampleError(Reason.BAD_ROW, found="JSON without an object")
    return body
