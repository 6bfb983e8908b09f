"""Which candidates are worth looking at: pure rules over a table, each counted under its own reason.

What is not known is not held against a pair: a rule about sizes or scores looks only at rows that have them.
The paper filtered nothing but by its queries, so by default only what no one would call a caption goes.

Reads: a table of candidates, lists of words and hosts. Writes: nothing.
Source: Changpinyo et al. 2021 (Conceptual 12M), section 2, for lengths, aspect and boilerplate; Schuhmann et
al. 2022 (LAION-5B), section 3.2, for scores. Which rules are on is for the user to say.
"""

import importlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.errors import Reason, SettingsError, UsageError
from diptych.core.files.text import read_text
from diptych.core.records import Counts
from diptych.curate.candidates.filter_kernels import text_hashes
from diptych.curate.words import normalized, normalized_column, text_buffers

Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

_MERGED_ROWS = 2**20


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What a pair has to be; 0 or empty turns a rule off.

    Attributes:
        min_characters: of a caption.
        max_characters: of a caption.
        min_words: of a caption, by white space.
        max_words: of a caption.
        boilerplate: drop file names, "click to enlarge" and the like.
        max_repeats: hosts that may use the same caption; more, and it says nothing about any image.
        language_by: "module:function" that takes captions (pa.Array) and returns their codes, such as
            "diptych.curate.candidates.language:guessed".
        languages: codes to keep.
        blocked_words: file with one word or phrase a line.
        blocked_hosts: hosts, with all below them, of images and pages.
        blocked_hosts_file: file with one host a line.
        min_side: pixels of an image's shorter side.
        max_aspect: longer side over shorter side.
        min_score: cosine of image and caption, by whatever model gave the scores.
    """

    min_characters: int = 3
    max_characters: int = 1000
    min_words: int = 0
    max_words: int = 0
    boilerplate: bool = True
    max_repeats: int = 0
    language_by: str = ""
    languages: tuple[str, ...] = ()
    blocked_words: str = ""
    blocked_hosts: tuple[str, ...] = ()
    blocked_hosts_file: str = ""
    min_side: int = 0
    max_aspect: float = 0.0
    min_score: float = 0.0

    def __post_init__(self) -> None:
        """Refuse half a rule about languages.

        Raises:
            SettingsError: one of `language_by` and `languages` is missing.
        """
        if bool(self.language_by) != bool(self.languages):
            raise SettingsError(
                "a rule about languages needs both settings",
                found=f"language_by {self.language_by!r}, languages {self.languages!r}",
                fix="e.g. language_by='diptych.curate.candidates.language:guessed', languages=['en']",
            )


def filter_table(
    table: pa.Table, settings: FilterSettings, *, repeated: Hashes | None = None
) -> tuple[pa.BooleanArray, Counts]:
    """Judge a table of candidates, before or after their images are fetched.

    Args:
        table: with `caption`; `key`, `url`, `page`, `fields`, `width`, `height` and `score` where known.
        settings: the rules.
        repeated: what `repeated_captions` found; needed if `max_repeats` is set.

    Returns:
        (N,) which rows to keep, and how many went for which reason: the first that holds.

    Raises:
        SettingsError: the function for languages cannot be found, or answers in another form.
        UsageError: a list cannot be read.
    """
    counts, left = Counts(), np.ones(len(table), np.bool_)
    keys = table["key"] if "key" in table.column_names else pa.array(range(len(table)))
    for reason, rule in _rules(settings, repeated):
        gone = left & rule(table)
        for row in np.flatnonzero(gone).tolist():
            counts.drop(reason, str(keys[row].as_py()))
        left &= ~gone
    counts.keep(int(left.sum()))
    return pa.array(left), counts


Rule = Callable[[pa.Table], Mask]


def _rules(settings: FilterSettings, repeated: Hashes | None) -> list[tuple[Reason, Rule]]:
    """Name the rules that are on, cheap ones first; each tells which rows break it."""
    one = settings
    rules: list[tuple[bool, Reason, Rule]] = [
        (one.min_characters > 0, Reason.CAPTION_TOO_SHORT, lambda t: characters(t) < one.min_characters),
        (one.max_characters > 0, Reason.CAPTION_TOO_LONG, lambda t: characters(t) > one.max_characters),
        (one.min_words > 0, Reason.CAPTION_TOO_SHORT, lambda t: word_counts(t) < one.min_words),
        (one.max_words > 0, Reason.CAPTION_TOO_LONG, lambda t: word_counts(t) > one.max_words),
        (one.boilerplate, Reason.BOILERPLATE, is_boilerplate),
        (one.max_repeats > 0, Reason.BOILERPLATE, lambda t: _is_repeated(t, repeated)),
        (
            bool(one.blocked_hosts or one.blocked_hosts_file),
            Reason.BLOCKED_HOST,
            lambda t: _is_blocked(t, one),
        ),
        (
            bool(one.blocked_words),
            Reason.BLOCKED_TEXT,
            lambda t: holds_phrase(t, read_list(one.blocked_words)),
        ),
        (bool(one.language_by), Reason.WRONG_LANGUAGE, lambda t: _is_foreign(t, one)),
        (one.min_side > 0, Reason.IMAGE_TOO_SMALL, lambda t: _sides(t).min(axis=0) < one.min_side),
        (one.max_aspect > 0, Reason.ASPECT_RATIO, lambda t: aspects(t) > one.max_aspect),
        (one.min_score > 0, Reason.LOW_SCORE, lambda t: numbers(t, "score") < one.min_score),
    ]
    return [(reason, rule) for is_on, reason, rule in rules if is_on]


def characters(table: pa.Table) -> NDArray[np.int64]:
    """Return the length of each caption in characters."""
    return _ints(pc.utf8_length(table["caption"]))


def word_counts(table: pa.Table) -> NDArray[np.int64]:
    """Return the number of words of each caption, by white space."""
    return _ints(pc.count_substring_regex(table["caption"], r"\S+"))


_THING = (
    "images?|photos?|pictures?|pics?|img|thumbnails?|thumb|logo|icon|avatar|banner|placeholder|screenshot"
    "|untitled|no title|spacer|blank|loading|advertisement|ad|gallery|slide|slideshow|preview|graphic"
    "|button|search|menu|close|null|undefined|none|n/?a|alt|alt text|caption|title|description|share|print"
    "|email|facebook|twitter|pinterest|instagram"
)
_KIND = "stock|main|product|featured|cover|default|profile|blog|post|article|header|hero|user|site|company"
BOILERPLATE = "|".join(
    (
        r"^\S+\.(?:jpe?g|jpe|png|gif|webp|bmp|svg|tiff?|heic|avif|cr2|nef|ico)$",
        r"^(?:img|imag|dsc[nf]?|pict|pxl|dji|gopr|vid|mvi|sam|cimg|hpim|wp|p|foto)[ _-]?[0-9][0-9 _().-]*$",
        rf"^(?:(?:{_KIND}) )*(?:{_THING})(?:[ _#:.(-]*[0-9]+\)?)?(?: of [0-9]+)?[ .…!]*$",
        r"\bclick (?:here |image |photo )?(?:to|for|on) (?:an? |the )?"
        r"(?:enlarge|view|zoom|see|expand|open|large|full)",
        r"\b(?:image|photo|picture)s? may contain\b",
        r"^may be an? (?:image|photo|illustration|cartoon|graphic|close-?up)\b",
        r"\bno (?:photo |image |alt )?(?:description|text|image|photo|picture)(?: is)? "
        r"(?:available|found|provided)",
        r"\bempty alt attribute\b|\bimage (?:not |un)available\b|\bimage coming soon\b",
        r"^(?:https?://|www\.)\S+$",
        r"^[^\p{L}]*$",
    )
)
"""As RE2 reads it, on captions in lower case."""


def is_boilerplate(table: pa.Table) -> Mask:
    """Tell which captions say nothing about an image: file names, directions, addresses, no letters at all.

    >>> is_boilerplate(pa.table({"caption": ["IMG_0012.JPG", "Image 3", "a red car", "12 / 30"]})).tolist()
    [True, True, False, True]
    """
    plain = pc.utf8_trim_whitespace(pc.utf8_lower(table["caption"]))
    return _bools(pc.match_substring_regex(plain, BOILERPLATE))


def caption_hosts(table: pa.Table) -> pa.Table:
    """Note which hosts use which caption, as numbers: what `repeated_captions` counts.

    Args:
        table: candidates.

    Returns:
        `caption` and `host` uint64, sorted, no row twice. Rows without an address have one host in common.
    """
    rows = np.stack([_caption_hashes(table), text_hashes(*text_buffers(hosts(table, "url")))])
    caption, host = _distinct(rows)
    return pa.table({"caption": caption, "host": host})


def repeated_captions(read: Callable[[], Iterable[pa.Table]], *, max_repeats: int, passes: int = 1) -> Hashes:
    """Find the captions that more hosts use than may.

    Args:
        read: gives the tables of `caption_hosts`; called once for each pass.
        max_repeats: hosts that may use the same caption.
        passes: parts in which to count; each needs the memory of its share of the rows, 16 bytes each.

    Returns:
        (R,) ascending, for `filter_table`.
    """
    found = []
    for number in range(passes):
        known, pending, waiting = np.empty((2, 0), np.uint64), [], 0
        for table in read():
            rows = np.stack([table["caption"].to_numpy(), table["host"].to_numpy()])
            pending.append(rows[:, rows[0] % np.uint64(passes) == number])
            waiting += pending[-1].shape[1]
            if waiting > max(_MERGED_ROWS, known.shape[1]):  # so that each row is sorted only a few times
                known, pending, waiting = _distinct(np.concatenate([known, *pending], axis=1)), [], 0
        known = _distinct(np.concatenate([known, *pending], axis=1))
        captions, users = np.unique(known[0], return_counts=True)
        found.append(captions[users > max_repeats])
    return np.sort(np.concatenate(found))


def _distinct(rows: Hashes) -> Hashes:
    """Sort columns of two numbers and leave out those that are there already."""
    ordered = rows[:, np.lexsort((rows[1], rows[0]))]
    return ordered[:, np.append(True, (ordered[:, 1:] != ordered[:, :-1]).any(axis=0))[: rows.shape[1]]]


def _caption_hashes(table: pa.Table) -> Hashes:
    return cast(Hashes, text_hashes(*normalized_column(table["caption"])))


def _is_repeated(table: pa.Table, repeated: Hashes | None) -> Mask:
    assert repeated is not None, "max_repeats needs what repeated_captions found"
    return np.isin(_caption_hashes(table), repeated)


def hosts(table: pa.Table, column: str) -> pa.Array:
    """Return the hosts of a column of addresses, in lower case; null where there is none.

    >>> hosts(pa.table({"url": ["https://A.example:80/x", None]}), "url").to_pylist()
    ['a.example', None]
    """
    if column not in table.column_names:
        return pa.nulls(len(table), pa.string())
    whole = table[column].cast(pa.string()).combine_chunks()
    found = pc.extract_regex(whole, r"^[A-Za-z]+://(?:[^/?#@]*@)?(?P<host>[^/?#:]+)")
    return pc.utf8_lower(pc.struct_field(found, "host"))


def has_host(table: pa.Table, blocked: frozenset[str]) -> Mask:
    """Tell which rows have their image or page on a blocked host or below one.

    >>> table = pa.table({"url": ["https://i.bad.example/x", "https://notbad.example/x"]})
    >>> has_host(table, frozenset({"bad.example"})).tolist()
    [True, False]
    """
    found = np.zeros(len(table), np.bool_)
    for column in ("url", "page"):
        coded = pc.dictionary_encode(hosts(table, column))
        names = [name for name in coded.dictionary.to_pylist() if _is_below(name, blocked)]
        found |= _bools(pc.is_in(hosts(table, column), pa.array(names, pa.string())))
    return found


def _is_below(host: str, blocked: frozenset[str]) -> bool:
    labels = host.strip(".").split(".")
    return any(".".join(labels[place:]) in blocked for place in range(len(labels)))


def _is_blocked(table: pa.Table, settings: FilterSettings) -> Mask:
    listed = read_list(settings.blocked_hosts_file) if settings.blocked_hosts_file else ()
    return has_host(table, frozenset(name.lower().strip(".") for name in (*settings.blocked_hosts, *listed)))


def holds_phrase(table: pa.Table, phrases: Iterable[str]) -> Mask:
    """Tell which captions hold one of some words or phrases, as whole words in whatever case.

    >>> holds_phrase(pa.table({"caption": ["A Hot-Dog!", "hotdog", "dog, hot"]}), ["hot dog"]).tolist()
    [True, False, False]
    """
    blocked = frozenset(filter(None, map(normalized, phrases)))
    sizes = sorted({phrase.count(" ") + 1 for phrase in blocked})
    data, offsets = normalized_column(table["caption"])
    raw, ends = data.tobytes(), offsets.tolist()
    found = np.zeros(len(table), np.bool_)
    for row in range(len(table)):
        words = raw[ends[row] : ends[row + 1]].decode().split(" ")
        found[row] = any(
            " ".join(words[place : place + size]) in blocked
            for size in sizes
            for place in range(len(words) - size + 1)
        )
    return found


def _is_foreign(table: pa.Table, settings: FilterSettings) -> Mask:
    module, _, name = settings.language_by.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            "the function for languages cannot be found", found=str(error), expected="module:function"
        ) from error
    codes = function(table["caption"].combine_chunks())
    if len(codes) != len(table):
        raise SettingsError(
            "the function for languages answers in another form",
            where=settings.language_by,
            found=f"{len(codes)} codes",
            expected=f"{len(table)}",
        )
    wanted = frozenset(settings.languages)
    plain = codes.to_pylist() if isinstance(codes, pa.Array | pa.ChunkedArray) else codes
    return np.array([code not in wanted for code in plain], np.bool_)


def numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a column of numbers, or what the rows' fields say under its name; NaN where it is unknown."""
    if name in table.column_names:
        return np.asarray(pc.fill_null(pc.cast(table[name], pa.float64()), np.nan).to_numpy(), np.float64)
    values = np.full(len(table), np.nan)
    if "fields" in table.column_names:
        for row, told in enumerate(table["fields"].to_pylist()):
            value = _field(told, name)
            values[row] = value if isinstance(value, int | float) else np.nan
    return values


def _field(told: str | None, name: str) -> Any:
    return json.loads(told).get(name) if told and f'"{name}"' in told else None


def _sides(table: pa.Table) -> NDArray[np.float64]:
    return np.stack([numbers(table, "width"), numbers(table, "height")])


def aspects(table: pa.Table) -> NDArray[np.float64]:
    """Return the longer side over the shorter one; NaN where sizes are unknown."""
    sides = _sides(table)
    return np.asarray(sides.max(axis=0) / np.maximum(sides.min(axis=0), 1e-9), np.float64)


def read_list(path: str) -> tuple[str, ...]:
    """Read a list with one entry a line; empty lines and those that begin with # are comments.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "a list cannot be read", where=path, found=str(error), expected="UTF-8 text"
        ) from error
    return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def _ints(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(column.to_numpy(), np.int64)


def _bools(column: Any) -> Mask:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), np.bool_)
