"""Items of an index: what is known about each row, in one SQLite file per segment.

The file is made in memory and written whole; afterwards it is only read. Columns of the source have `f:` in
front of their names, so that none can hide one of ours. Names, captions and text columns are in a full-text
table.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from diptych.core.errors import EnvironmentFault, UsageError
from diptych.core.records import Field
from diptych.data.captions import is_unicode, plain

FACTS = ("digest", "caption", "bytes", "width", "height", "format", "taken", "year", "camera", "latitude",
         "longitude", "seconds")  # fmt: skip
INDEXED = (
    "digest",
    "bytes",
    "width",
    "height",
    "taken",
    "year",
    "camera",
    "latitude",
    "longitude",
    "seconds",
)
MAX_COLUMNS = 500  # of a source
WORDS = 1 << 16  # characters of an item's texts that are looked through
BATCH = 500  # names in one query: SQLite allows 999 and more
SCHEMA = """
CREATE TABLE items (row INTEGER PRIMARY KEY, digest TEXT, caption TEXT, bytes INTEGER, width INTEGER,
  height INTEGER, format TEXT, taken TEXT, year INTEGER, camera TEXT, latitude REAL, longitude REAL,
  seconds REAL, fields TEXT{columns});
CREATE TABLE places (row INTEGER, source TEXT, key TEXT, path TEXT, bytes INTEGER, modified INTEGER);
CREATE VIRTUAL TABLE texts USING fts5(words, content='', tokenize="unicode61 remove_diacritics 2");
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image stands.

    Attributes:
        source: the folder or file that was indexed.
        key: the sample's key in it, of a folder the path below it.
        path: the file that holds the image; empty where none does.
        bytes: size of the file.
        modified: its modification time in nanoseconds; 0 where rows are compared by their digest alone.
    """

    source: str
    key: str
    path: str = ""
    bytes: int = 0
    modified: int = 0

    @property
    def id(self) -> tuple[str, str]:
        """What tells one place from all others."""
        return self.source, self.key


@dataclass(frozen=True, slots=True)
class Item:
    """What is known about one image, or about one moment of a video.

    Attributes:
        digest: SHA-256 of the image's bytes; equal ones are one item with several places.
        places: where it stands, one or more.
        taken: local date and time as "2024-05-31T18:04:00"; empty if the file does not say.
        seconds: from a video's start; None for an image.
        fields: the source's other columns.
    """

    digest: str
    places: tuple[Place, ...]
    caption: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    format: str = ""
    taken: str = ""
    camera: str = ""
    latitude: float | None = None
    longitude: float | None = None
    seconds: float | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)

    @property
    def year(self) -> int | None:
        """The year it was taken in."""
        return int(self.taken[:4]) if self.taken else None

    @property
    def words(self) -> str:
        """All text of the item: names of files, captions and text columns."""
        names = " ".join(" ".join(PurePath(place.path or place.key).parts[-3:]) for place in self.places)
        columns = (
            value for value in self.fields.values() if isinstance(value, str) and value != self.caption
        )
        return plain(re.sub(r"[_\-.]+", " ", f"{names} {self.caption} {' '.join(columns)}"))[:WORDS]


def write_items(items: Sequence[Item]) -> bytes:
    """Return the bytes of the SQLite file of N items, row n for items[n]."""
    names = list(dict.fromkeys(name for item in items for name in item.fields))
    if len(names) > MAX_COLUMNS:
        what, fix = "the source has too many columns", "leave some out"
        raise UsageError(what, found=len(names), expected=f"{MAX_COLUMNS} at most", fix=fix)
    columns = [*FACTS, "fields", *(f"f:{name}" for name in names)]
    extra = "".join(f", {quoted(f'f:{name}')} NUMERIC" for name in names)
    with closing(sqlite3.connect(":memory:")) as file:
        file.executescript(SCHEMA.format(columns=extra))
        marks = ", ".join("?" * (len(columns) + 1))
        file.executemany(
            f"INSERT INTO items (row, {', '.join(map(quoted, columns))}) VALUES ({marks})",
            (
                (
                    row,
                    *(getattr(item, name) for name in FACTS),
                    json.dumps(dict(item.fields), ensure_ascii=False),
                    *(item.fields.get(name) for name in names),
                )
                for row, item in enumerate(items)
            ),
        )
        file.executemany(
            "INSERT INTO places VALUES (?, ?, ?, ?, ?, ?)",
            (
                (row, *map(_stored, asdict(place).values()))
                for row, item in enumerate(items)
                for place in item.places
            ),
        )
        words = ((row, item.words) for row, item in enumerate(items))
        file.executemany("INSERT INTO texts (rowid, words) VALUES (?, ?)", words)
        for name in (*INDEXED, *(f"f:{name}" for name in names)):
            file.execute(f"CREATE INDEX {quoted(f'by {name}')} ON items ({quoted(name)})")
        file.executescript(
            "CREATE INDEX by_place ON places (key, source); CREATE INDEX by_row ON places (row);"
            "CREATE INDEX by_path ON places (path);"
        )
        file.commit()
        return file.serialize()


def _stored(value: Any) -> Any:
    """Return a text that SQLite takes, also of a file's name that is not UTF-8; `_place` undoes it."""
    return (
        value if not isinstance(value, str) or is_unicode(value) else value.encode("utf-8", "surrogatepass")
    )


def _place(values: Sequence[Any]) -> Place:
    names, numbers = values[:3], values[3:]
    source, key, path = (v.decode("utf-8", "surrogatepass") if isinstance(v, bytes) else v for v in names)
    return Place(source, key, path, *numbers)


def quoted(name: str) -> str:
    """Return an SQL identifier."""
    return '"' + name.replace('"', '""').replace("\0", "") + '"'


class Items:
    """The items of one segment, read from its SQLite file, which nobody changes."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = sqlite3.connect(
                f"{path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False
            )
            names = [row[1] for row in self._file.execute("PRAGMA table_info(items)")]
        except sqlite3.Error as error:
            raise EnvironmentFault("the items of an index cannot be read", where=path, found=error) from error
        self.columns = [name[2:] for name in names if name.startswith("f:")]

    def select(self, condition: str, values: Sequence[Field]) -> list[int]:
        """Return the ascending rows that an SQL condition holds for."""
        query = f"SELECT row FROM items WHERE {condition} ORDER BY row"
        return [row for (row,) in self._file.execute(query, values)]

    def get(self, rows: Iterable[int]) -> Iterator[Item]:
        """Yield the items of rows, in the order given."""
        for row in rows:
            values = self._file.execute(
                f"SELECT {', '.join(FACTS)}, fields FROM items WHERE row = ?", (row,)
            ).fetchone()
            places = self._file.execute(
                "SELECT source, key, path, bytes, modified FROM places WHERE row = ? ORDER BY rowid", (row,)
            )
            facts = dict(zip(FACTS, values[:-1], strict=True))
            del facts["year"]
            yield Item(places=tuple(map(_place, places)), fields=json.loads(values[-1]), **facts)

    def places(self, source: str) -> Iterator[tuple[int, str, Place]]:
        """Yield every place of a source with its row and its image's digest."""
        query = (
            "SELECT row, digest, source, key, path, p.bytes, modified FROM places p JOIN items USING (row)"
        )
        for row, digest, *place in self._file.execute(f"{query} WHERE source = ?", (source,)):
            yield row, digest, _place(place)

    def rows_of(self, places: Iterable[tuple[str, str]]) -> set[int]:
        """Return the rows that stand in any of these places."""
        find = "SELECT row FROM places WHERE source = ? AND key = ?"
        return {row for place in places for (row,) in self._file.execute(find, tuple(map(_stored, place)))}

    def rows_named(self, key: str, path: str) -> list[int]:
        """Return the rows that stand under a key or in a file."""
        find = "SELECT row FROM places WHERE key = ? OR path = ? ORDER BY row"
        return [row for (row,) in self._file.execute(find, (_stored(key), _stored(path)))]

    def rows_with(self, digests: Sequence[str]) -> dict[str, int]:
        """Return digest -> row of those digests that are here."""
        rows: dict[str, int] = {}
        for start in range(0, len(digests), BATCH):
            part = digests[start : start + BATCH]
            marks = ", ".join("?" * len(part))
            rows.update(self._file.execute(f"SELECT digest, row FROM items WHERE digest IN ({marks})", part))
        return rows

    def matches(self, text: str) -> list[tuple[int, float]]:
        """Return the rows that hold all words of a text, with their BM25 scores, lower ones better."""
        words = re.findall(r"\w+", text)
        if not words:
            return []
        query = " AND ".join(f'"{word}"' for word in words)
        return self._file.execute(
            "SELECT rowid, bm25(texts) FROM texts WHERE texts MATCH ?", (query,)
        ).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
