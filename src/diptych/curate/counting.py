"""How often words, and pairs of words beside each other, stand in texts: exact, in bounded memory.

A part of the corpus is counted in hash tables. When these are as large as allowed, they are handed over as a
run, a table sorted by word, and counting goes on with empty ones. At the end all runs are merged (`merging`)
and equal words added up; what is below a minimum count can only be dropped there, because no run knows what
the others hold. The result does not depend on the parts, the runs or the workers.

A word is a run of letters, marks and digits, as `words.normalized_column` gives it, of at most 255 bytes; a
pair is two words of one text with nothing but separators between them. Pairs sort as the tuples of their
words do, since a space sorts below all that a word is made of.

Reads: texts. Writes: runs and merged tables, through the caller.
Source: Knuth, "The Art of Computer Programming", 5.4 (external sorting) and 6.4 (hashing).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import UsageError
from diptych.curate import counting_kernels as kernels
from diptych.curate.words import normalized_column

COUNTS = pa.schema([pa.field("word", pa.large_string(), nullable=False), pa.field("count", pa.int64())])
"""Of runs and merged tables: a word, or two with a space between them, in the order of their bytes."""
WORDS_NAME, PAIRS_NAME = "-words-", "-pairs-"
"""In the names of runs; a number follows."""
MIN_MEMORY_BYTES = 1 << 18
FIRST_ROWS = 1 << 10
POOL_BYTES_PER_ROW = 8  # two thirds of the rows are in use, and words that occur once are long
SPILL_SHARE = 3
"""The tables take a third of the memory: sorting them and writing out the words takes the rest."""

Write = Callable[[str, pa.Table], None]


@dataclass(frozen=True, slots=True)
class CountingSettings:
    """How to count.

    Attributes:
        memory_bytes: for the tables of one worker, their sorting included. Beside it a worker holds a batch
        of
            texts (about 4 MB, three times over) and the program.
        bytes_per_unit: of corpus files, on disk, that are counted in one piece.
        pairs: count pairs too.
    """

    memory_bytes: int = 1 << 30
    bytes_per_unit: int = 256 << 20
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
    counted, tables = Counted(), _Tables(settings)

    def spill() -> None:
        for name, table in tables.taken():
            write(f"{name}{counted.runs:04d}", table)
        counted.runs += 1

    for batch in texts:
        data, offsets = normalized_column(batch)
        counted.texts += len(batch)
        counted.text_bytes += int(pc.sum(pc.binary_length(batch)).as_py() or 0)
        while (full := tables.count(data, offsets)) != kernels.DONE:
            if not tables.grow(full):
                spill()
    if tables.marks[kernels.ENTRIES]:
        spill()
    counted.words, counted.pairs = int(tables.marks[kernels.WORDS]), int(tables.marks[kernels.PAIRS])
    return counted


class _Tables:
    """The hash tables of one worker: they double until they reach their bound."""

    def __init__(self, settings: CountingSettings) -> None:
        self.bound = settings.memory_bytes // SPILL_SHARE
        self.pair_rows = FIRST_ROWS if settings.pairs else 0
        self.marks = np.zeros(kernels.MARKS, np.int64)
        self.marks[[kernels.PLACE, kernels.PREVIOUS]] = -1
        self._clear()

    def _clear(self) -> None:
        self.words = np.zeros((FIRST_ROWS, 4), np.int64)
        self.pool = np.empty(FIRST_ROWS * POOL_BYTES_PER_ROW, np.uint8)
        self.pairs = np.zeros((self.pair_rows, 2), np.int64)
        self.marks[[kernels.ENTRIES, kernels.PAIR_ENTRIES, kernels.POOL]] = 0

    def count(self, data: Any, offsets: Any) -> int:
        """Count on until all is done or a table is full."""
        return int(kernels.count(data, offsets, self.words, self.pool, self.pairs, self.marks))

    def grow(self, full: int) -> bool:
        """Double what is full; False if old and new together would pass the bound."""
        held = self.words.nbytes + self.pool.nbytes + self.pairs.nbytes
        array = self.pairs if full == kernels.PAIRS_FULL else self.words
        if held + 2 * array.nbytes + (0 if array is self.pairs else 2 * self.pool.nbytes) > self.bound:
            return False
        larger = np.zeros((2 * len(array), array.shape[1]), np.int64)
        if array is self.pairs:
            kernels.refill_pairs(array, larger)
            self.pairs = larger
        else:
            kernels.refill_words(array, larger)
            self.words, self.pool = larger, np.concatenate([self.pool, np.empty_like(self.pool)])
        return True

    def taken(self) -> Iterator[tuple[str, pa.Table]]:
        """Empty the tables; yield what was in them, sorted."""
        used, pairs_used = int(self.marks[kernels.ENTRIES]), int(self.marks[kernels.PAIR_ENTRIES])
        ends, counts = kernels.numbered_words(self.words, used)
        buffers = pa.py_buffer(ends), pa.py_buffer(self.pool[: ends[-1]].copy())
        words = pa.LargeStringArray.from_buffers(used, *buffers)
        order = pc.sort_indices(words).to_numpy()
        words = words.take(pa.array(order))
        counts = counts[order]
        seen = (
            counts > 0
        )  # the last word of the run before begins a pair in this one, and is not counted twice
        ranks = np.empty(used, np.int64)
        ranks[order] = np.arange(used)
        keys, pair_counts = kernels.ranked_pairs(self.pairs, ranks, pairs_used)
        self._clear()
        yield WORDS_NAME, pa.table([words, counts], schema=COUNTS).filter(pa.array(seen))
        if pairs_used:
            order = np.argsort(keys)
            keys, pair_counts = keys[order], pair_counts[order]
            firsts, seconds = words.take(pa.array(keys >> 32)), words.take(pa.array(keys & 0xFFFFFFFF))
            del order, keys
            joined = pc.binary_join_element_wise(firsts, seconds, pa.scalar(" ", pa.large_string()))
            yield PAIRS_NAME, pa.table([joined, pair_counts], schema=COUNTS)
