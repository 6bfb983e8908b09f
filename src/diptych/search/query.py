"""Queries: a text, an image, "like this one", or a sum of them; exact, also under a filter.

    beach                          a text
    photo.jpg                      an image file
    like:holiday/1.jpg             an image of the index, by its key or path
    beach + 0.5: photo.jpg - crowd a sum; a term may have a weight, quotes keep ` + ` and ` - ` in a text

Names, captions and text columns are searched too: images whose words hold all words of the query are fused
with the nearest ones by their ranks. Source: Cormack et al. 2009 (reciprocal rank fusion, 60 as there).
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from diptych.core import checks
from diptych.core.checks import Floats, Ints
from diptych.core.errors import BadSampleError, DiptychError, UsageError, unknown_name
from diptych.core.records import Counts, Need
from diptych.data.images.formats import READ_FORMATS
from diptych.data.sources.open import open_source
from diptych.models.encode import encode_images, encode_texts
from diptych.search.add import SUFFIXES
from diptych.search.filters import parse_filter
from diptych.search.items import Item
from diptych.search.photos import has_own_decoder, preview
from diptych.search.scan import top_k

if TYPE_CHECKING:
    from PIL.Image import Image

    from diptych.models.model import Model
    from diptych.search.index import Index

By = Literal["both", "images", "words"]
LIKE = "like:"
FUSION = 60  # ranks are fused as 1 / (60 + rank)
FUSED = 200  # nearest images that take part in a fusion, at least
_JOIN = re.compile(r'\s([+-])\s(?=(?:[^"]*"[^"]*")*[^"]*$)')
_WEIGHT = re.compile(r"(\d*\.?\d+)\s*:\s*(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a query: a text, an image, or an image of the index by its key or path."""

    weight: float
    text: str = ""
    image: "Path | bytes | Image | None" = None
    like: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """One image of an index that a query found: its cosine in [-1, 1], and what is known about it."""

    score: float
    item: Item

    @property
    def key(self) -> str:
        """The key of its first place."""
        return self.item.places[0].key

    @property
    def path(self) -> str:
        """The file of its first place; empty where no file holds it alone."""
        return self.item.places[0].path

    @property
    def caption(self) -> str:
        """Its first caption."""
        return self.item.caption


def parse_query(text: str) -> tuple[Term, ...]:
    """Read a query; see the module.

    >>> [(term.weight, term.text) for term in parse_query("beach + 0.5: sunset - crowd")]
    [(1.0, 'beach'), (0.5, 'sunset'), (-1.0, 'crowd')]
    """
    parts = _JOIN.split(text)
    signs = ["+", *parts[1::2]]
    terms = []
    for sign, part in zip(signs, parts[::2], strict=True):
        match = _WEIGHT.fullmatch(part.strip())
        body = (match[2] if match else part).strip()
        body = body[1:-1] if len(body) > 1 and body[0] == body[-1] == '"' else body
        if not body.strip():
            raise UsageError("a query has an empty term", where="QUERY", found=repr(text), expected="a text")
        weight = float(match[1] if match else 1) * (-1 if sign == "-" else 1)
        terms.append(_term(weight, body))
    return tuple(terms)


def _term(weight: float, body: str) -> Term:
    if body.startswith(LIKE):
        return Term(weight, like=body.removeprefix(LIKE).strip())
    if Path(body).suffix.lower() in SUFFIXES and "\n" not in body:
        if not Path(body).is_file():
            what, fix = (
                "there is no such image",
                "check the path; a text that ends like a file stands in quotes",
            )
            raise UsageError(what, where="QUERY", found=body, fix=fix)
        return Term(weight, image=Path(body))
    return Term(weight, text=body)


class Searcher:
    """An index and the model that made it."""

    def __init__(self, model: "Model", index: "Index") -> None:
        self.model, self.index = index.read_alike(model), index

    def search(
        self,
        query: "str | Image | bytes | Path | Sequence[Term]",
        k: int = 10,
        *,
        where: str = "",
        by: By = "both",
    ) -> list[Hit]:
        """Find the k images nearest to a query, best first; equal ones in the order of the index.

        Args:
            query: a text as in `parse_query`, an image, or terms.
            k: how many.
            where: a filter, see `filters`.
            by: whether the words of a query that is one text are looked up in names, captions and columns
                too ("both"), alone ("words"), or not at all ("images").

        Raises:
            UsageError: the query or the filter cannot be read.
        """
        checks.whole(k, "k")
        if by not in ("both", "images", "words"):
            raise unknown_name("way to search", by, ("both", "images", "words"))
        terms = self._terms(query)
        chosen = self.chosen(where)
        text = terms[0].text if len(terms) == 1 and terms[0].weight > 0 else ""
        words = self._by_words(text, chosen) if text and by != "images" else []
        if by == "words":
            nearest = self._scored(words[:k], self.vector(terms))
            return self._hits([(number, row, score) for number, row, score in nearest])
        vector = self.vector(terms)
        (nearest,) = self.nearest(vector[None], max(k, FUSED) if words else k, chosen)
        if words:
            nearest = self._fused(nearest, self._scored(words[: max(k, FUSED)], vector))
        return self._hits(nearest[:k])

    def chosen(self, where: str) -> "list[Ints | None]":
        """Return, for each segment, the ascending rows that a filter leaves; None: all."""
        if not where.strip():
            return [segment.live() for segment in self.index.segments]
        condition = parse_filter(where, self.index.columns())
        rows: list[Ints | None] = []
        for segment in self.index.segments:
            of_segment = condition(segment.items.columns)
            selected = np.array(segment.items.select(of_segment.sql, of_segment.values), np.int64)
            rows.append(selected[segment.is_live()[selected]])
        return rows

    def vector(self, terms: Sequence[Term]) -> Floats:
        """Return the query (E,) of unit length: the weighted sum of its terms' embeddings."""
        total = np.zeros(self.index.entry.width, np.float64)
        for term in terms:
            total += term.weight * self._embed(term).astype(np.float64)
        length = float(np.linalg.norm(total))
        if not length > 1e-6:
            raise UsageError("the terms of the query cancel out", where="QUERY", expected="terms that differ")
        return (total / length).astype(np.float32)

    def nearest(
        self, vectors: Floats, k: int, chosen: "list[Ints | None]"
    ) -> list[list[tuple[int, int, float]]]:
        """Return segment, row and score of the k best of `chosen`, best first, for each vector (Q, E)."""
        best: list[list[tuple[int, int, float]]] = [[] for _ in vectors]
        for number, (segment, rows) in enumerate(zip(self.index.segments, chosen, strict=True)):
            for query, (positions, scores) in enumerate(top_k(segment.coded, segment.read, vectors, k, rows)):
                best[query] += zip(repeat(number), positions.tolist(), scores.tolist())
        return [sorted(hits, key=lambda hit: (-hit[2], hit[0], hit[1]))[:k] for hits in best]

    def _terms(self, query: "str | Image | bytes | Path | Sequence[Term]") -> Sequence[Term]:
        if isinstance(query, str):
            if not query.strip():
                raise UsageError("the query is empty", where="QUERY", found=repr(query), expected="a text")
            return parse_query(query)
        if isinstance(query, tuple | list):
            return query
        return (Term(1.0, image=query),)  # type: ignore[arg-type]

    def _embed(self, term: Term) -> Floats:
        if term.text:
            of_text: Floats = encode_texts(self.model, [term.text])[0]
            return of_text
        if term.like:
            return self._row_of(term.like)
        image = term.image
        if isinstance(image, Path) and has_own_decoder(image):
            image, _ = preview(image.read_bytes(), image)
        counts = Counts()
        row: Floats = encode_images(self.model, [image or b""], counts=counts)[0]
        if counts.dropped:
            reasons, expected = ", ".join(map(str, counts.dropped)), f"one of {', '.join(READ_FORMATS)}"
            what, fix = "the query image cannot be read", "open and save it with an image editor"
            raise UsageError(what, found=reasons, expected=expected, fix=fix)
        return row

    def _row_of(self, name: str) -> Floats:
        path = str(Path(name).absolute())
        for segment in self.index.segments:
            alive = segment.is_live()
            for row in segment.items.rows_named(name, path):
                if alive[row]:
                    vector: Floats = segment.read(np.array([row]))[0]
                    return vector
        what, expected = "the index has no image of this name", "the key or the path of one of its images"
        raise UsageError(what, where=self.index.folder, found=name, expected=expected)

    def _by_words(self, text: str, chosen: "list[Ints | None]") -> list[tuple[int, int]]:
        """Return segment and row of what holds all words of a text, best first."""
        matches = []
        for number, (segment, rows) in enumerate(zip(self.index.segments, chosen, strict=True)):
            allowed = None if rows is None else set(rows.tolist())
            for row, rank in segment.items.matches(text):
                if allowed is None or row in allowed:
                    matches.append((rank, number, row))
        return [(number, row) for _, number, row in sorted(matches)]

    def _scored(self, rows: Sequence[tuple[int, int]], vector: Floats) -> list[tuple[int, int, float]]:
        wide = vector.astype(np.float64)
        return [
            (number, row, float((self.index.segments[number].read(np.array([row]))[0] * wide).sum()))
            for number, row in rows
        ]

    def _fused(
        self, nearest: Sequence[tuple[int, int, float]], named: Sequence[tuple[int, int, float]]
    ) -> list[tuple[int, int, float]]:
        """Merge two lists by the sums of 1 / (60 + rank)."""
        worth: dict[tuple[int, int], float] = {}
        scores: dict[tuple[int, int], float] = {}
        for ranked in (nearest, named):
            for rank, (number, row, score) in enumerate(ranked, start=1):
                worth[number, row] = worth.get((number, row), 0.0) + 1 / (FUSION + rank)
                scores[number, row] = score
        order = sorted(worth, key=lambda row: (-worth[row], -scores[row], row))
        return [(*row, scores[row]) for row in order]

    def _hits(self, rows: Sequence[tuple[int, int, float]]) -> list[Hit]:
        return [Hit(score, next(self.index.segments[number].items.get([row]))) for number, row, score in rows]


def read_images(items: Sequence[Item]) -> Iterator[tuple[int, bytes]]:
    """Yield the encoded images of items with their positions, read where they stand, files first.

    Images of HEIC and RAW files are JPEG copies. A table or shard is read through once, up to the last of its
    images. What is no longer there is left out.
    """
    wanted: dict[str, dict[str, int]] = {}
    for number, item in enumerate(items):
        place = item.places[0]
        if Path(place.path).suffix.lower() not in SUFFIXES:
            wanted.setdefault(place.source, {})[place.key] = number
            continue
        with suppress(BadSampleError, OSError):
            yield number, _file_bytes(Path(place.path))
    for source, keys in wanted.items():
        with suppress(DiptychError):
            pairs = open_source(source, need=Need.IMAGE).pairs(Counts())
            for pair in islice((pair for pair in pairs if pair.key in keys), len(keys)):
                yield keys[pair.key], pair.image


def _file_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if not has_own_decoder(path):
        return data
    image, _ = preview(data, path)
    if isinstance(image, bytes):
        return image
    copy = io.BytesIO()
    image.convert("RGB").save(copy, "JPEG", quality=90)
    return copy.getvalue()
