"""Rules that drop candidates, each counted under its own reason; a rule whose column is null keeps the row.

The paper filtered nothing but by its queries, so by default only what no one would call a caption goes.
Source: Changpinyo et al. 2021 (Conceptual 12M), section 2 (lengths, aspect, boilerplate); Schuhmann et al.
2022 (LAION-5B), section 3.2 (scores).
"""

import importlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ahocorasick_rs import AhoCorasick
from numpy.typing import NDArray

from diptych.core.checks import Bools, Doubles, Ints
from diptych.core.errors import Reason, SettingsError, UsageError
from diptych.core.files.reading import read_text
from diptych.core.records import Counts
from diptych.curate.kernels import row_hashes
from diptych.curate.words import normalized, normalized_column, text_array, text_buffers

Hashes = NDArray[np.uint64]
Rule = Callable[[pa.Table], Bools]

_SEED = np.uint64(0)
_HASHES = pa.schema({"caption": pa.uint64(), "host": pa.uint64()})
_HOST = r"^[A-Za-z]+://(?:[^/?#@]*@)?(?P<host>[^/?#:]+)"


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What a pair has to be; 0 or empty turns a rule off.

    Attributes:
        min_characters, max_characters, min_words, max_words: of a caption; words by white space.
        max_repeats: hosts that may use the same caption; more, and it says nothing about any image.
        language_by: "module:function" that takes captions (pa.Array) and returns their codes, such as
            "diptych.curate.candidates.language:guessed".
        blocked_words, blocked_hosts_file: files with one word or phrase, or one host, a line.
        blocked_hosts: hosts, with all below them, of images and pages.
        min_side: pixels of an image's shorter side; max_aspect: longer side over shorter side.
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
        """Raise SettingsError if one of `language_by` and `languages` is missing."""
        if bool(self.language_by) != bool(self.languages):
            found = f"language_by {self.language_by!r}, languages {self.languages!r}"
            fix = "e.g. language_by='diptych.curate.candidates.language:guessed', languages=['en']"
            raise SettingsError("a rule about languages needs both settings", found=found, fix=fix)


def filter_table(
    table: pa.Table, settings: FilterSettings, *, repeated: Hashes | None = None
) -> tuple[pa.BooleanArray, Counts]:
    """Return (N,) which rows to keep, and the counts; a row goes for the first reason that holds.

    Args:
        table: with `caption`; `key`, `url`, `page`, `fields`, `width`, `height` and `score` where known.
        settings: the rules.
        repeated: what `repeated_captions` returned; needed if `max_repeats` is set.

    Raises:
        UsageError: a list or the function for languages cannot be used.
    """
    assert repeated is not None or not settings.max_repeats, "max_repeats needs repeated_captions"
    counts, kept = Counts(), np.ones(len(table), np.bool_)
    keys = table["key"] if "key" in table.column_names else pa.array(range(len(table)))
    for is_on, reason, rule in _rules(settings, repeated):
        if is_on:
            broken = kept & rule(table)
            for row in np.flatnonzero(broken).tolist():
                counts.drop(reason, str(keys[row].as_py()))
            kept &= ~broken
    counts.keep(int(kept.sum()))
    return pa.array(kept), counts


def _rules(one: FilterSettings, repeated: Hashes | None) -> list[tuple[object, Reason, Rule]]:
    """Return (whether it is on, reason, which rows break it) of each rule, cheap ones first."""
    phrases = read_list(one.blocked_words) if one.blocked_words else ()
    hosts = (*one.blocked_hosts, *(read_list(one.blocked_hosts_file) if one.blocked_hosts_file else ()))
    short, long, hashes = Reason.CAPTION_TOO_SHORT, Reason.CAPTION_TOO_LONG, cast(Hashes, repeated)
    return [
        (one.min_characters > 0, short, lambda table: _characters(table) < one.min_characters),
        (one.max_characters > 0, long, lambda table: _characters(table) > one.max_characters),
        (one.min_words > 0, short, lambda table: _word_counts(table) < one.min_words),
        (one.max_words > 0, long, lambda table: _word_counts(table) > one.max_words),
        (one.boilerplate, Reason.BOILERPLATE, is_boilerplate),
        (one.max_repeats > 0, Reason.BOILERPLATE, lambda table: np.isin(_caption_hashes(table), hashes)),
        (hosts, Reason.BLOCKED_HOST, lambda table: has_host(table, hosts)),
        (phrases, Reason.BLOCKED_TEXT, lambda table: holds_phrase(table, phrases)),
        (one.language_by, Reason.WRONG_LANGUAGE, lambda table: _is_foreign(table, one)),
        (one.min_side > 0, Reason.IMAGE_TOO_SMALL, lambda table: _sides(table).min(axis=0) < one.min_side),
        (one.max_aspect > 0, Reason.ASPECT_RATIO, lambda table: _aspects(table) > one.max_aspect),
        (one.min_score > 0, Reason.LOW_SCORE, lambda table: _numbers(table, "score") < one.min_score),
    ]


def _characters(table: pa.Table) -> Ints:
    return np.asarray(pc.utf8_length(table["caption"]).to_numpy(), np.int64)


def _word_counts(table: pa.Table) -> Ints:
    return np.asarray(pc.count_substring_regex(table["caption"], r"\S+").to_numpy(), np.int64)


_THING = (
    "images?|photos?|pictures?|pics?|img|thumbnails?|thumb|logo|icon|avatar|banner|placeholder|screenshot"
    "|untitled|no title|spacer|blank|loading|advertisement|ad|gallery|slide|slideshow|preview|graphic"
    "|button|search|menu|close|null|undefined|none|n/?a|alt|alt text|caption|title|description|share|print"
    "|email|facebook|twitter|pinterest|instagram"
)
_KIND = "stock|main|product|featured|cover|default|profile|blog|post|article|header|hero|user|site|company"
# As RE2 reads it, on captions in lower case.
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


def is_boilerplate(table: pa.Table) -> Bools:
    """Tell which captions say nothing about an image: file names, directions, addresses, no letters at all.

    >>> is_boilerplate(pa.table({"caption": ["IMG_0012.JPG", "Image 3", "a red car", "12 / 30"]})).tolist()
    [True, True, False, True]
    """
    plain = pc.utf8_trim_whitespace(pc.utf8_lower(table["caption"]))
    return _bools(pc.match_substring_regex(plain, BOILERPLATE))


def caption_hosts(table: pa.Table) -> pa.Table:
    """Return which hosts use which caption, as distinct hashes; rows without an address share a host."""
    hosts = row_hashes(*text_buffers(_hosts(table, "url")), _SEED)
    return pa.table({"caption": _caption_hashes(table), "host": hosts}).group_by(_HASHES.names).aggregate([])


def repeated_captions(tables: Iterable[pa.Table], *, max_repeats: int) -> Hashes:
    """Return the (R,) hashes of captions that more hosts use than may, ascending, for `filter_table`.

    `tables` are those of `caption_hosts`, which have to fit into memory together, 16 bytes a row.
    """
    whole = pa.concat_tables([_HASHES.empty_table(), *tables])
    users = whole.group_by("caption").aggregate([("host", "count_distinct")])
    return np.sort(users.filter(pc.greater(users["host_count_distinct"], max_repeats))["caption"].to_numpy())


def _caption_hashes(table: pa.Table) -> Hashes:
    return cast(Hashes, row_hashes(*normalized_column(table["caption"]), _SEED))


def _hosts(table: pa.Table, column: str) -> pa.ChunkedArray:
    """Return the hosts of a column of addresses, in lower case; null where there is none."""
    if column not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), pa.string())])
    return pc.utf8_lower(pc.struct_field(pc.extract_regex(table[column].cast(pa.string()), _HOST), "host"))


def has_host(table: pa.Table, blocked: Iterable[str]) -> Bools:
    """Tell which rows have their image or page on a blocked host or below one.

    >>> table = pa.table({"url": ["https://i.bad.example/x", "https://notbad.example/x"]})
    >>> has_host(table, ["bad.example"]).tolist()
    [True, False]
    """

    def is_blocked(host: str) -> bool:
        labels = host.strip(".").split(".")
        return any(".".join(labels[start:]) in names for start in range(len(labels)))

    names = {name.lower().strip(".") for name in blocked}
    rows = np.zeros(len(table), np.bool_)
    for column in ("url", "page"):
        hosts = _hosts(table, column)
        inside = filter(is_blocked, hosts.unique().drop_null().to_pylist())
        rows |= _bools(pc.is_in(hosts, pa.array(inside, pa.string())))
    return rows


def holds_phrase(table: pa.Table, phrases: Iterable[str]) -> Bools:
    """Tell which captions hold one of some words or phrases, as whole words in whatever case.

    >>> holds_phrase(pa.table({"caption": ["A Hot-Dog!", "hotdog", "dog, hot"]}), ["hot dog"]).tolist()
    [True, False, False]
    """
    matcher = AhoCorasick([f" {phrase} " for phrase in filter(None, map(normalized, phrases))])
    captions = text_array(*normalized_column(table["caption"])).to_pylist()
    return np.array([bool(matcher.find_matches_as_indexes(f" {caption} ")) for caption in captions], np.bool_)


def _is_foreign(table: pa.Table, settings: FilterSettings) -> Bools:
    module, _, name = settings.language_by.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        what = "the function for languages cannot be found"
        raise SettingsError(what, found=str(error), expected="module:function") from error
    codes, where = function(table["caption"].combine_chunks()), settings.language_by
    if len(codes) != len(table):
        what, found = "the function for languages answers in another form", f"{len(codes)} codes"
        raise SettingsError(what, where=where, found=found, expected=len(table))
    return ~np.isin(np.asarray(codes, object), settings.languages)


def _numbers(table: pa.Table, name: str) -> Doubles:
    """Return a column of numbers, or what the rows' fields hold under its name; NaN where it is unknown."""
    if name in table.column_names:
        return np.asarray(pc.fill_null(pc.cast(table[name], pa.float64()), np.nan).to_numpy(), np.float64)
    values = np.full(len(table), np.nan)
    if "fields" in table.column_names:
        for row, fields in enumerate(table["fields"].to_pylist()):
            value = json.loads(fields).get(name) if fields and f'"{name}"' in fields else None
            values[row] = value if isinstance(value, int | float) else np.nan
    return values


def _sides(table: pa.Table) -> Doubles:
    return np.stack([_numbers(table, "width"), _numbers(table, "height")])


def _aspects(table: pa.Table) -> Doubles:
    sides = _sides(table)
    return np.asarray(sides.max(axis=0) / np.maximum(sides.min(axis=0), 1e-9))


def read_list(path: str) -> tuple[str, ...]:
    """Read a list with one entry a line; empty lines and those that begin with # are comments."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        what = "a list cannot be read"
        raise UsageError(what, where=path, found=str(error), expected="UTF-8 text") from error
    return tuple(line for line in lines if line and not line.startswith("#"))


def _bools(column: Any) -> Bools:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), np.bool_)
