"""Which queries does a caption contain? All of them, exactly, for 500,000 queries at once.

- "words": the query's words (`words.normalized`) stand next to each other: "(Dog)," contains "dog", "hotdog"
  does not. Writing without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar) is parted from any
  other by a space: "新款iPhone手机" contains "iphone". A query that holds such writing matches as a run of
  characters whose end, where it is of other writing, ends a word: "t恤" is in "黑色T恤衫", not in "best恤".
- "anywhere": the normalized query is a run of characters of the normalized caption: "cat", "concatenate".
- "metaclip": the published rule, to compare with: `" " + query + " "` is part of the caption once spaces were
  put at its ends and around each of , . ; : ? ! and the backtick, and tab, line feed and carriage return made
  spaces. One difference: an empty query, which theirs finds wherever two spaces meet, never matches.

A query without words never matches; of queries with the same words, all do. Runs of words are walked through
a tree (`tree`), with which the stage is 2.9 to 3.5 times as fast as with ahocorasick_rs alone (1,000,000
captions from Parquet to Parquet, 500,000 queries, one core; LOG.md, 2026-11-29).

Source: Radford et al. 2021, section 2.2; Xu et al. 2023, "Demystifying CLIP data", algorithm 1.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from diptych.core.errors import IntegrityError
from diptych.core.files.durable import make_folder, save_array, write_json
from diptych.curate.kernels import SPACE
from diptych.curate.match.tree import NONE, inserted, matched
from diptych.curate.words import Bytes, Offsets, normalized, normalized_column, text_buffers

Rule = Literal["words", "anywhere", "metaclip"]
Ids = NDArray[np.int32]

INDEX_FILE = "index.json"
ARRAYS = ("word_slots", "words", "gram_slots", "duplicates", "runs", "run_data", "run_offsets")

_UNSPACED = "".join(
    rf"\p{{scx={script}}}" for script in ("Han", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr")
)
_UNSPACED_RUN = regex.compile(rf"((?:[{_UNSPACED}]\p{{M}}*)+)")
_STARTS_UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_ENDS_UNSPACED = regex.compile(rf"[{_UNSPACED}]\p{{M}}*$")
# Every character of these scripts takes three or four bytes of UTF-8; Latin, Greek, Cyrillic take fewer.
_FIRST_UNSPACED_BYTE = 0xE0


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """The rule by which queries are found in captions, as above."""

    rule: Rule = "words"


@dataclass(frozen=True, slots=True)
class Matches:
    """The queries of N captions: (M,) ids, ascending and unique within a caption, and (N + 1,) offsets."""

    offsets: Offsets
    ids: Ids

    def to_arrow(self) -> pa.LargeListArray:
        """Return a column: (N,) lists of int32."""
        return pa.LargeListArray.from_arrays(pa.array(self.offsets), pa.array(self.ids))

    @classmethod
    def from_arrow(cls, column: pa.Array | pa.ChunkedArray) -> Self:
        """Read what `to_arrow` made, also from a slice of it.

        >>> column = Matches(np.array([0, 2, 2, 3]), np.array([4, 7, 5], np.int32)).to_arrow()
        >>> Matches.from_arrow(column.slice(1))
        Matches(offsets=array([0, 0, 1]), ids=array([5], dtype=int32))
        """
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        lists = whole.cast(pa.large_list(pa.int32()))
        return cls(_starts(lists.value_lengths().fill_null(0).to_numpy()), lists.flatten().to_numpy())


@dataclass(frozen=True)
class QueryIndex:
    """Queries, ready to be found: the tables of `tree`, and (R,) ids, bytes and (R + 1,) offsets of the runs
    of characters, in the form of the rule.
    """

    settings: MatchSettings
    word_slots: NDArray[np.uint64]
    words: NDArray[np.int32]
    gram_slots: NDArray[np.int64]
    duplicates: NDArray[np.int32]
    runs: Ids
    run_data: Bytes
    run_offsets: Offsets

    @classmethod
    def build(cls, queries: pa.Array | pa.ChunkedArray | Sequence[str], settings: MatchSettings) -> Self:
        """Build the index of (Q,) texts; the id of a query is its position.

        >>> index = QueryIndex.build(["dog", "hot dog", "T-shirt"], MatchSettings())
        >>> index.match(pa.array(["A (Dog), hot dog!", None, "t shirts"])).to_arrow().to_pylist()
        [[0, 1], [], []]
        """
        if not isinstance(queries, pa.Array | pa.ChunkedArray):
            queries = pa.array(queries, pa.string())
        data, offsets = _in_form(queries, settings.rule, is_query=True)
        lengths = np.diff(offsets)
        as_runs = (lengths > 0) & _are_runs(data, offsets, settings.rule)
        tree = _tree(data, offsets, (lengths > 0) & ~as_runs)
        run_data = data[np.repeat(as_runs, lengths)]
        runs = np.flatnonzero(as_runs).astype(np.int32)
        return cls(settings, *_read_only(*tree, runs, run_data, _starts(lengths[runs])))

    def match(self, captions: pa.Array | pa.ChunkedArray) -> Matches:
        """Find all queries in all (N,) captions; a null contains nothing."""
        data, offsets = _read_only(*_in_form(captions, self.settings.rule))
        keys = matched(data, offsets, (self.word_slots, self.words), self.gram_slots, self.duplicates)
        if len(self.runs):
            keys = np.concatenate([keys, self._match_runs(data, offsets)])
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) > 0]
        ends = np.searchsorted(keys, np.arange(len(offsets)) << 32)
        return Matches(ends, (keys & 0xFFFFFFFF).astype(np.int32))

    def save(self, folder: str | Path) -> None:
        """Write the index as `.npy` files; the same queries make the same bytes."""
        path = make_folder(folder)
        for name in ARRAYS:
            save_array(path / f"{name}.npy", getattr(self, name))
        write_json(path / INDEX_FILE, asdict(self.settings))

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Map an index that `save` wrote: all processes of a machine share its pages.

        Raises:
            IntegrityError: a file is missing or damaged.
        """
        path = Path(folder)
        try:
            settings = MatchSettings(**json.loads((path / INDEX_FILE).read_text(encoding="utf-8")))
            arrays = [np.asarray(open_memmap(path / f"{name}.npy", mode="r")) for name in ARRAYS]
        except (OSError, ValueError, TypeError) as error:
            what, fix = "an index of queries cannot be read", "remove the folder and build the index again"
            expected = f"{INDEX_FILE} and {', '.join(f'{name}.npy' for name in ARRAYS)}"
            raise IntegrityError(
                what, where=path, found=str(error)[:200], expected=expected, fix=fix
            ) from error
        return cls(settings, *arrays)

    @cached_property
    def _automaton(self) -> Any:
        """Return the automaton of the runs: made when first needed, for it cannot be saved."""
        from ahocorasick_rs import BytesAhoCorasick, Implementation

        raw, padded = self.run_data.tobytes(), self.settings.rule == "words"
        texts = (raw[start:end] for start, end in pairwise(self.run_offsets.tolist()))
        # The default implementation was 20 times slower with 500,000 patterns.
        return BytesAhoCorasick(
            [_needle(text.decode("utf-8")).encode("utf-8") if padded else text for text in texts],
            implementation=Implementation.ContiguousNFA,
        )

    def _match_runs(self, data: Bytes, offsets: Offsets) -> Offsets:
        """Return `caption << 32 | query` for the queries that are runs of characters."""
        rows = np.arange(len(offsets) - 1)
        if self.settings.rule == "words":
            rows = rows[_has_unspaced_bytes(data, offsets)]
        raw, keys = data.tobytes(), list[NDArray[np.int64]]()
        for row in rows.tolist():
            padded = b" %b " % raw[offsets[row] : offsets[row + 1]]
            hits = self._automaton.find_matches_as_indexes(padded, overlapping=True)
            keys.append(self.runs[[pattern for pattern, _, _ in hits]] | np.int64(row << 32))
        return np.concatenate(keys or [np.zeros(0, np.int64)])


def _in_form(
    column: pa.Array | pa.ChunkedArray, rule: Rule, *, is_query: bool = False
) -> tuple[Bytes, Offsets]:
    """Return texts in the form in which a rule compares them."""
    if rule == "words":
        return normalized_column(column, by=_parted)
    if rule == "anywhere":
        return normalized_column(column)
    if not is_query:
        spaced = pc.replace_substring_regex(column.cast(pa.large_string()), "([,.;:?!`])", r" \1 ")
        column = pc.replace_substring_regex(spaced, "[\t\n\r]", " ")
    data, offsets = text_buffers(column)
    return data[offsets[0] : offsets[-1]].copy(), offsets - offsets[0]


def _tree(data: Bytes, offsets: Offsets, inside: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
    """Return the tables of the tree; they are made once with room to spare, and again with what that took."""
    data, offsets = _read_only(data, offsets)
    used = int((data == SPACE).sum())
    known = used + len(inside)
    for _ in range(2):
        word_slots, gram_slots = np.zeros(_room(known), np.uint64), np.zeros(2 * _room(used), np.int64)
        duplicates = np.full(len(inside), NONE, np.int32)
        words, known, used = inserted(data, offsets, inside, word_slots, gram_slots, duplicates)
    return word_slots, words, gram_slots, duplicates


def _room(entries: int) -> int:
    """Return a power of two of which the entries fill less than two thirds."""
    return 1 << (int(entries) * 3 // 2 + 1).bit_length()


def _parted(text: str) -> str:
    """Normalize a text, with a space wherever writing without spaces meets any other."""
    return " ".join(_UNSPACED_RUN.sub(r" \1 ", normalized(text)).split())


def _needle(query: str) -> str:
    """Return what a caption with a space at both ends contains if it contains the query as a run."""
    before = "" if _STARTS_UNSPACED.match(query) else " "
    return f"{before}{query}{'' if _ENDS_UNSPACED.search(query) else ' '}"


def _are_runs(data: Bytes, offsets: Offsets, rule: Rule) -> NDArray[np.bool_]:
    """Tell which queries are found as runs of characters and not of words: (Q,)."""
    if rule != "words":
        return np.full(len(offsets) - 1, rule == "anywhere")
    are_runs = _has_unspaced_bytes(data, offsets)
    for row in np.flatnonzero(are_runs).tolist():
        text = data[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8")
        are_runs[row] = _UNSPACED_RUN.search(text) is not None
    return are_runs


def _has_unspaced_bytes(data: Bytes, offsets: Offsets) -> NDArray[np.bool_]:
    """Tell which texts may hold writing without spaces: (N,)."""
    before = _starts(data >= _FIRST_UNSPACED_BYTE)
    return before[offsets[1:]] > before[offsets[:-1]]


def _starts(counts: NDArray[Any]) -> Offsets:
    """Return where each of several lists begins when they lie behind each other: (N + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _read_only(*arrays: NDArray[Any]) -> Iterator[Any]:
    """Yield read-only views: mapped arrays are so too, and one kind of array means compiling once."""
    for array in arrays:
        view = array.view()
        view.flags.writeable = False
        yield view
