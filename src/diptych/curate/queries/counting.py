"""How often words, and pairs of words beside each other, stand in texts: exact, in bounded memory.

A part of the corpus is counted with Arrow's hash tables. When these are as large as allowed, they are written
as a run, a table sorted by word. At the end all runs are merged and equal words added up; what is below a
minimum count can only be dropped there. The result does not depend on the parts, the runs or the workers.

A word is a run of letters, marks and digits, as `words.normalized_column` gives it, of at most 255 bytes; a
pair is two words of one text with nothing but separators between them. Pairs sort as the tuples of their
words do, since a space sorts below all that a word is made of.

Source: Knuth, "The Art of Computer Programming", 5.4 (external sorting) and 5.4.1 (multiway merging).
"""

import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diptych.core.checks import Ints
from diptych.core.errors import IntegrityError, SettingsError
from diptych.core.files.durable import writing
from diptych.curate.words import normalized_column, text_array

# Of runs and merged tables: a word, or two with a space between them, in the order of their bytes.
COUNTS = pa.schema([pa.field("word", pa.large_string(), nullable=False), pa.field("count", pa.int64())])
WORDS_NAME, PAIRS_NAME = "-words-", "-pairs-"  # in the names of runs; a number follows
MIN_MEMORY_BYTES = 1 << 18
MAX_WORD_BYTES = 255
SPILL_SHARE = 6  # the tables' share of the memory: a pair, 16 bytes here, is some 80 when sorted and written
PIECE_SHARE = 16  # of texts that are counted at once: as numbers they are several times as long
ROW_BYTES = 16  # a pair is a key and a count; a word is as much besides its letters
MERGE_ROWS = 1 << 22  # of pairs that are kept before equal ones are added up: 64 MB
MOST_RUNS = 256  # open at once: systems allow 1,024 files or fewer
BYTES_PER_ROW = 200  # of a row that is merged: in the batch, in what is added up, and while it is sorted
LEAST_ROWS, MOST_ROWS = 1_000, 500_000  # in a batch of one run
PIECE_ROWS = 1 << 19  # in a table that is handed on

Write = Callable[[str, pa.Table], None]


@dataclass(frozen=True, slots=True)
class CountingSettings:
    """How to count.

    Attributes:
        memory_bytes: for the tables of one worker, their sorting included.
        bytes_per_partition: of corpus files, on disk, that are counted in one piece.
        pairs: count pairs too.
    """

    memory_bytes: int = 1 << 30
    bytes_per_partition: int = 256 << 20
    pairs: bool = True

    def __post_init__(self) -> None:
        """Raise SettingsError for too little memory, and for parts of nothing."""
        if self.memory_bytes < MIN_MEMORY_BYTES:
            what, expected = "there is too little memory to count in", f"at least {MIN_MEMORY_BYTES:,}"
            raise SettingsError(what, where="queries.counting", found=self.memory_bytes, expected=expected)
        if self.bytes_per_partition < 1:
            what, found = "a corpus cannot be cut", f"{self.bytes_per_partition} bytes per partition"
            raise SettingsError(what, where="queries.counting", found=found, expected="some")


def count_part(texts: Iterable[pa.Array], write: Write, settings: CountingSettings) -> int:
    """Count the words and the pairs of a part of the corpus; return how many texts there were.

    `write` gets the name and the rows of every run: "-words-0000", "-pairs-0000", "-words-0001", …
    """
    count, runs, tables = 0, 0, _Tables()
    for batch in texts:
        count += len(batch)
        for piece in _pieces(*normalized_column(batch), settings.memory_bytes // PIECE_SHARE):
            tables.add(piece, pairs=settings.pairs)
            if tables.nbytes > settings.memory_bytes // SPILL_SHARE:
                tables.write_run(write, runs)
                tables, runs = _Tables(), runs + 1
    if len(tables.words):
        tables.write_run(write, runs)
    return count


def _pieces(data: NDArray[np.uint8], offsets: Ints, size: int) -> Iterator[pa.LargeStringArray]:
    """Yield texts in groups of about `size` bytes."""
    texts = text_array(data, offsets)
    groups = (offsets[1:] - offsets[0]) // size
    starts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(texts)]
    return (texts.slice(start, end - start) for start, end in pairwise(starts) if end > start)


@dataclass(slots=True)
class _Tables:
    """Distinct words with their counts; pairs as `first word's row << 32 | second word's row`."""

    words: pa.LargeStringArray = field(default_factory=lambda: pa.array([], pa.large_string()))
    counts: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    pairs: list[pa.Table] = field(default_factory=list)

    @property
    def pair_rows(self) -> int:
        return sum(table.num_rows for table in self.pairs)

    @property
    def nbytes(self) -> int:
        return int(self.words.nbytes + ROW_BYTES * (len(self.words) + self.pair_rows))

    def add(self, texts: pa.LargeStringArray, *, pairs: bool) -> None:
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
        if not pairs:
            return
        kept = is_word[codes]
        beside = kept[:-1] & kept[1:]
        beside[lists.offsets.to_numpy()[1:-1] - lists.offsets[0].as_py() - 1] = False  # over a text's end
        keys = pc.value_counts(pa.array((rows[codes[:-1]] << 32 | rows[codes[1:]])[beside]))
        self.pairs.append(pa.table([keys.field(0), keys.field(1)], names=["key", "count"]))
        if self.pair_rows > max(MERGE_ROWS, 2 * len(self.pairs[0])):
            self.pairs = [_summed(pa.concat_tables(self.pairs))]

    def write_run(self, write: Write, number: int) -> None:
        """Write the words and the pairs in the order of their bytes."""
        order = pc.sort_indices(self.words)
        words = self.words.take(order)
        counts = self.counts[order.to_numpy()]
        write(f"{WORDS_NAME}{number:04d}", pa.table([words, counts], schema=COUNTS))
        if not self.pair_rows:
            return
        ranks = np.empty(len(words), np.int64)
        ranks[order.to_numpy()] = np.arange(len(words))
        table = _summed(pa.concat_tables(self.pairs))
        keys = table["key"].to_numpy()
        keys = ranks[keys >> 32] << 32 | ranks[keys & 0xFFFFFFFF]
        order = np.argsort(keys)
        keys = keys[order]
        firsts, seconds = (words.take(pa.array(half)) for half in (keys >> 32, keys & 0xFFFFFFFF))
        joined = pc.binary_join_element_wise(firsts, seconds, pa.scalar(" ", pa.large_string()))
        counts = table["count"].to_numpy()[order]
        write(f"{PAIRS_NAME}{number:04d}", pa.table([joined, counts], schema=COUNTS))


def _summed(table: pa.Table) -> pa.Table:
    """Add up the counts of equal keys, or words."""
    groups = table.group_by(table.column_names[0], use_threads=False)
    return groups.aggregate([("count", "sum")]).rename_columns(table.column_names)


def merge_counts(
    runs: Sequence[Path], *, min_count: int = 1, memory_bytes: int = 1 << 30, scratch: Path | None = None
) -> Iterator[pa.Table]:
    """Yield tables of `COUNTS` of 524,288 rows and more (the last: fewer), sorted by the bytes of the words.

    Args:
        runs: Parquet files with the columns of `COUNTS`, each sorted by word, no word twice.
        min_count: rarer words are left out.
        memory_bytes: about what is held at once.
        scratch: folder for in-between runs where there are more than 256; the system's if None.

    Raises:
        IntegrityError: a run cannot be read.
    """
    if len(runs) <= MOST_RUNS:
        yield from _merged(runs, memory_bytes, min_count)
        return
    with tempfile.TemporaryDirectory(dir=scratch, prefix="diptych-merge-") as folder:
        fewer = []
        for number, first in enumerate(range(0, len(runs), MOST_RUNS)):
            fewer.append(Path(folder) / f"{number:05d}.parquet")
            write_counts(fewer[-1], _merged(runs[first : first + MOST_RUNS], memory_bytes, 1))
        yield from merge_counts(fewer, min_count=min_count, memory_bytes=memory_bytes, scratch=scratch)


def write_counts(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of counts one behind the other; sorted words are stored by what is new in them."""
    encoding = {"word": "DELTA_BYTE_ARRAY", "count": "PLAIN"}
    options = {"compression": "zstd", "use_dictionary": False, "column_encoding": encoding}
    with writing(path) as file, pq.ParquetWriter(file, COUNTS, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=PIECE_ROWS)


def _batches(path: Path, rows: int) -> Iterator[pa.Table]:
    try:
        # The buffer keeps a reader from loading whole row groups of many millions of words.
        with pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
            batches = file.iter_batches(batch_size=rows, columns=COUNTS.names, use_threads=False)
            yield from (pa.Table.from_batches([batch]).cast(COUNTS) for batch in batches if batch.num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        what, fix = "a run of counts cannot be read", "count again: remove the stage's folder, then --resume"
        raise IntegrityError(what, where=path, found=str(error)[:200], fix=fix) from error


def _merged(runs: Sequence[Path], memory_bytes: int, min_count: int) -> Iterator[pa.Table]:
    # Of every run a batch is held. All rows up to the smallest last word of these batches can be added up: no
    # run has any of these words still to come. Then the batches that are used up are replaced.
    rows = memory_bytes // (BYTES_PER_ROW * max(1, len(runs)))
    sources = [_batches(path, min(MOST_ROWS, max(LEAST_ROWS, rows))) for path in runs]
    open_runs = [(source, batch) for source in sources if (batch := next(source, None)) is not None]
    waiting: list[pa.Table] = []
    while open_runs:
        bound = min(_bytes(batch["word"][-1]) for _, batch in open_runs)
        ready, rest = [], []
        for source, batch in open_runs:
            cut = bisect_right(batch["word"], bound, key=_bytes)
            ready.append(batch.slice(0, cut))
            left = batch.slice(cut) if cut < batch.num_rows else next(source, None)
            if left is not None:
                rest.append((source, left))
        open_runs = rest
        summed = _summed(pa.concat_tables(ready)).cast(COUNTS)
        summed = summed.take(pc.sort_indices(summed["word"]))
        waiting.append(summed.filter(pc.greater_equal(summed["count"], min_count)))
        if sum(table.num_rows for table in waiting) >= PIECE_ROWS or not open_runs:
            yield pa.concat_tables(waiting)
            waiting = []


def _bytes(word: pa.Scalar) -> bytes:
    return str(word).encode("utf-8")
