"""How often words, and pairs of words beside each other, stand in texts: exact, in bounded memory.

A part of the corpus is counted with Arrow's hash tables. When these are as large as allowed, they are written
as a run, a table sorted by word, and counting goes on with empty ones. At the end all runs are merged
(`merging`) and equal words added up; what is below a minimum count can only be dropped there, because no run
knows what the others hold. The result does not depend on the parts, the runs or the workers.

A word is a run of letters, marks and digits, as `words.normalized_column` gives it, of at most 255 bytes; a
pair is two words of one text with nothing but separators between them. Pairs sort as the tuples of their
words do, since a space sorts below all that a word is made of.

Reads: texts. Writes: runs and merged tables, through the caller.
Source: Knuth, "The Art of Computer Programming", 5.4 (external sorting).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.core.errors import UsageError
from diptych.curate.words import normalized_column, text_array

COUNTS = pa.schema([pa.field("word", pa.large_string(), nullable=False), pa.field("count", pa.int64())])
"""Of runs and merged tables: a word, or two with a space between them, in the order of their bytes."""
WORDS_NAME, PAIRS_NAME = "-words-", "-pairs-"
"""In the names of runs; a number follows."""
MIN_MEMORY_BYTES = 1 << 18
MAX_WORD_BYTES = 255
SPILL_SHARE = 6
"""The tables take a sixth of the memory: a pair, 16 bytes here, is some 80 when it is sorted and written."""
PIECE_SHARE = 16
"""Texts that are counted at once take a sixteenth: as numbers they are several times as long."""
ROW_BYTES = 16
"""A pair is a key and a count; a word is as much besides its letters."""
MERGE_ROWS = 1 << 22
"""Rows of pairs that are kept before equal ones are added up: 64 MB."""

Write = Callable[[str, pa.Table], None]


@dataclass(frozen=True, slots=True)
class CountingSettings:
    """How to count.

    Attributes:
        memory_bytes: for the tables of one worker, their sorting included. Beside it a worker holds a batch
            of texts (about 4 MB, three times over) and the program.
        bytes_per_partition: of corpus files, on disk, that are counted in one piece.
        pairs: count pairs too.
    """

    memory_bytes: int = 1 << 30
    bytes_per_partition: int = 256 << 20
    pairs: bool = True


@dataclass(slots=True)
class Counted:
    """What was counted: texts, words, pairs (with repetitions), bytes of text, and runs written."""

    texts: int = 0
    words: int = 0
    pairs: int = 0
    text_bytes: int = 0
    runs: int = 0


def count_part(texts: Iterable[pa.Array], write: Write, settings: CountingSettings) -> Counted:
    """Count the words and the pairs of a part of the corpus.

    Args:
        texts: batches of strings.
        write: called with the name and the rows of every run: "-words-0000", "-pairs-0000", "-words-0001", …
        settings: how.

    Raises:
        UsageError: the memory is too small for anything.
    """
    if settings.memory_bytes < MIN_MEMORY_BYTES:
        raise UsageError(
            "there is too little memory to count in",
            where="memory_bytes",
            found=f"{settings.memory_bytes:,}",
            expected=f"at least {MIN_MEMORY_BYTES:,}",
        )
    counted, tables = Counted(), _Tables()

    def spill() -> None:
        for name, table in tables.sorted(pairs=settings.pairs):
            write(f"{name}{counted.runs:04d}", table)
        counted.runs += 1

    for batch in texts:
        counted.texts += len(batch)
        counted.text_bytes += int(pc.sum(pc.binary_length(batch)).as_py() or 0)
        for piece in _pieces(*normalized_column(batch), settings.memory_bytes // PIECE_SHARE):
            words, pairs = tables.add(piece, pairs=settings.pairs)
            counted.words += words
            counted.pairs += pairs
            if tables.nbytes > settings.memory_bytes // SPILL_SHARE:
                spill()
                tables = _Tables()
    if len(tables.words):
        spill()
    return counted


def _pieces(data: NDArray[np.uint8], offsets: NDArray[np.int64], size: int) -> Iterator[pa.LargeStringArray]:
    """Yield texts in groups of about `size` bytes."""
    texts = text_array(data, offsets)
    groups = (offsets[1:] - offsets[0]) // size
    starts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(texts)]
    return (texts.slice(start, end - start) for start, end in pairwise(starts) if end > start)


@dataclass(slots=True)
class _Tables:
    """Distinct words with their counts; pairs as `first word's row << 32 | second word's row`."""

    words: pa.LargeStringArray = field(default_factory=lambda: pa.array([], pa.large_string()))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    pairs: list[pa.Table] = field(default_factory=list)

    @property
    def pair_rows(self) -> int:
        return sum(table.num_rows for table in self.pairs)

    @property
    def nbytes(self) -> int:
        return int(self.words.nbytes + ROW_BYTES * (len(self.words) + self.pair_rows))

    def add(self, texts: pa.LargeStringArray, *, pairs: bool) -> tuple[int, int]:
        """Count texts; return how many words and pairs they hold."""
        lists = pc.split_pattern(texts, " ")
        encoded = lists.flatten().dictionary_encode()
        length = pc.binary_length(encoded.dictionary).to_numpy()
        is_word = (length > 0) & (length <= MAX_WORD_BYTES)
        known = pc.index_in(encoded.dictionary, self.words)
        new = is_word & known.is_null().to_numpy(zero_copy_only=False)
        rows = known.fill_null(0).to_numpy().astype(np.int64)
        rows[new] = len(self.words) + np.arange(new.sum())
        self.words = pa.concat_arrays([self.words, encoded.dictionary.filter(pa.array(new))])
        codes = encoded.indices.to_numpy()
        self.counts = np.concatenate([self.counts, np.zeros(int(new.sum()), np.int64)])
        self.counts[rows[is_word]] += np.bincount(codes, minlength=len(length))[is_word]
        kept = is_word[codes]
        beside = kept[:-1] & kept[1:]
        beside[lists.offsets.to_numpy()[1:-1] - lists.offsets[0].as_py() - 1] = False  # over a text's end
        keys = (rows[codes[:-1]] << 32 | rows[codes[1:]])[beside]
        if pairs:
            found = pc.value_counts(pa.array(keys))
            self.pairs.append(pa.table([found.field(0), found.field(1)], names=["key", "count"]))
            if self.pair_rows > max(MERGE_ROWS, 2 * len(self.pairs[0])):
                self.pairs = [_summed(self.pairs)]
        return int(kept.sum()), len(keys) if pairs else 0

    def sorted(self, *, pairs: bool) -> Iterator[tuple[str, pa.Table]]:
        """Yield the words and the pairs in the order of their bytes."""
        order = pc.sort_indices(self.words)
        words = self.words.take(order)
        yield WORDS_NAME, pa.table([words, self.counts[order.to_numpy()]], schema=COUNTS)
        if not (pairs and self.pair_rows):
            return
        ranks = np.empty(len(words), np.int64)
        ranks[order.to_numpy()] = np.arange(len(words))
        table = _summed(self.pairs)
        keys = table["key"].to_numpy()
        keys = ranks[keys >> 32] << 32 | ranks[keys & 0xFFFFFFFF]
        order = np.argsort(keys)
        keys = keys[order]
        firsts, seconds = (words.take(pa.array(half)) for half in (keys >> 32, keys & 0xFFFFFFFF))
        joined = pc.binary_join_element_wise(firsts, seconds, pa.scalar(" ", pa.large_string()))
        yield PAIRS_NAME, pa.table([joined, table["count"].to_numpy()[order]], schema=COUNTS)


def _summed(tables: list[pa.Table]) -> pa.Table:
    """Add up the counts of equal keys."""
    groups = pa.concat_tables(tables).group_by("key", use_threads=False)
    return groups.aggregate([("count", "sum")]).rename_columns(["key", "count"])
