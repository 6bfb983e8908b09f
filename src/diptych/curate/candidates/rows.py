"""One candidate as plain values, and tables of them that fit into memory.

Reads and writes: nothing.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import NamedTuple

import pyarrow as pa

from diptych.core.errors import Reason
from diptych.core.records import Counts, Field
from diptych.curate.columns import CANDIDATES

MAX_TABLE_BYTES = 2**28
"""Of images in one table: 256 MiB; a column of bytes may hold no more than 2 GiB."""
KEY_BYTES = 16
"""Of a key that is a hash: that two of 12 billion pairs meet by chance has a probability of 2e-19."""


class Candidate(NamedTuple):
    """A row of `columns.CANDIDATES`."""

    key: str
    url: str | None
    image: bytes | None
    caption: str
    page: str | None = None
    license: str | None = None
    fields: str | None = None


def pair_key(image: str | bytes, caption: str) -> str:
    """Name a pair after what it is: the same pair has the same name on whatever page and machine it is found.

    Args:
        image: its address, or the encoded file.
        caption: its text.

    >>> pair_key("https://example.org/a.jpg", "a dog")
    '16bc316ace41e702d10ac4d6102d81ec'
    """
    raw = image.encode() if isinstance(image, str) else image
    # The length says where the image ends: joined by a separator, two different pairs can make one text.
    digest = blake2b(b"%d " % len(raw), digest_size=KEY_BYTES)
    digest.update(raw)
    digest.update(caption.encode())
    return digest.hexdigest()


def fields_json(fields: Mapping[str, Field]) -> str | None:
    """Write further columns as one JSON object in a fixed order; None if there are none.

    >>> fields_json({"b": 1, "a": "é"}), fields_json({})
    ('{"a":"é","b":1}', None)
    """
    if not fields:
        return None
    return json.dumps(dict(sorted(fields.items())), ensure_ascii=False, separators=(",", ":"))


def candidate_tables(
    rows: Iterable[Candidate], counts: Counts, *, most_rows: int, most_bytes: int = MAX_TABLE_BYTES
) -> Iterator[pa.Table]:
    """Gather candidates into tables; of those that share a key the first is kept.

    Args:
        rows: in order.
        counts: rows that are handed out are kept, the others are dropped as DUPLICATE_KEY.
        most_rows: rows of a table.
        most_bytes: bytes of images after which a table is closed.
    """
    seen: set[str] = set()
    held: list[Candidate] = []
    size = 0
    for row in rows:
        if row.key in seen:
            counts.drop(Reason.DUPLICATE_KEY, row.key)
            continue
        seen.add(row.key)
        counts.keep()
        held.append(row)
        size += len(row.image or b"")
        if len(held) >= most_rows or size >= most_bytes:
            yield _table(held)
            held, size = [], 0
    if held:
        yield _table(held)


def _table(rows: list[Candidate]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, CANDIDATES, strict=True)]
    return pa.Table.from_arrays(arrays, schema=CANDIDATES)
