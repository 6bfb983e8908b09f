"""Captions and fields that lie beside an image: one rule for folders and for tars.

Reads: the bytes of ``NAME.txt`` and ``NAME.json`` in memory.
"""

import json
from collections.abc import Mapping
from functools import partial

from diptych.core.errors import BadSampleError, Reason
from diptych.core.files.text import decode_text
from diptych.core.records import Field
from diptych.data.sources.rows import Columns, attempt, captions_of, fields_of

MAX_BYTES_BESIDE = 2**20  # a hundred times the longest honest caption file
_LIST, _ONE = "captions", "caption"


def texts_beside(
    text: bytes | None, record: bytes | None, columns: Columns
) -> tuple[tuple[str, ...] | BadSampleError, dict[str, Field]]:
    """Return the captions, or why there are none, and the fields.

    The captions are the first of these that can be used: the record's value under the name that `columns`
    gives, its list `captions`, the lines of the text, and its `caption`.

    Args:
        text: of ``NAME.txt``, one caption a line; None if there is none.
        record: of ``NAME.json``, one object; its other scalar values are the fields.
        columns: names the captions if they are not called `caption`.

    >>> texts_beside(b"a dog\\nan old dog\\n", b'{"width": 3}', Columns())
    (('a dog', 'an old dog'), {'width': 3})
    """
    body = {} if record is None else attempt(lambda: _json_object(record))
    if isinstance(body, BadSampleError):
        return body, {}
    names = (_LIST,) if columns.caption == _ONE else (columns.caption, _LIST)
    fields = fields_of({name: value for name, value in body.items() if name not in (*names, _ONE)})
    values = [body.get(name) for name in names]
    values += [attempt(lambda: _lines(text)) if text is not None else None, body.get(_ONE)]
    fault = BadSampleError(Reason.MISSING_CAPTION, found="no text beside the image")
    for value in values:
        found = value if isinstance(value, BadSampleError) else attempt(partial(captions_of, value))
        if isinstance(found, tuple):
            return found, fields
        fault = found if fault.reason == Reason.MISSING_CAPTION else fault
    return fault, fields


def _lines(data: bytes) -> list[str] | str:
    if len(data) > MAX_BYTES_BESIDE:
        raise BadSampleError(Reason.CAPTION_TOO_LONG, found=f"{len(data)} bytes")
    try:
        text = decode_text(data)
    except UnicodeDecodeError as error:
        raise BadSampleError(Reason.CAPTION_NOT_TEXT, found=error.reason, expected="UTF-8") from None
    return [line for line in text.splitlines() if line.strip()] or ""


def _json_object(data: bytes) -> Mapping[str, object]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(Reason.BAD_ROW, found=f"no JSON: {type(error).__name__}") from None
    if not isinstance(body, dict):
        raise BadSampleError(Reason.BAD_ROW, found="JSON without an object")
    nested = body.pop("fields", None)  # where our own shards keep them
    return {**body, **nested} if isinstance(nested, dict) else body
