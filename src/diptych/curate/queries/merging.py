"""Many sorted tables of counts as one: k ways at once, a piece at a time.

Of every run a batch is held. All rows up to the smallest last word of these batches can be added up, because
no run has any of these words still to come; then the batches that are used up are replaced. Runs that are
more than may be open at once are merged in groups first.

Reads: runs (`counting.count_part`). Writes: in-between runs, in a scratch folder.
Source: Knuth, "The Art of Computer Programming", 5.4.1 (multiway merging).
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.core.errors import IntegrityError
from diptych.core.files.durable import remove, writing
from diptych.curate.queries.counting import COUNTS

MOST_RUNS = 256
"""Open at once: systems allow 1,024 files or fewer."""
BYTES_PER_ROW = 200
"""Of memory for a row that is being merged: its word in the batch, in what is added up, and while it is
sorted."""
LEAST_ROWS, MOST_ROWS = 1_000, 500_000
"""In a batch of one run."""
PIECE_ROWS = 1 << 19
"""In a table that is handed on."""


def merge_counts(
    runs: Sequence[Path], *, min_count: int = 1, memory_bytes: int = 1 << 30, scratch: Path | None = None
) -> Iterator[pa.Table]:
    """Add up the counts of equal words in sorted runs.

    Args:
        runs: Parquet files with the columns of `COUNTS`, each sorted by word, no word twice.
        min_count: rarer words are left out; their counts are known only here.
        memory_bytes: about what is held at once.
        scratch: folder for in-between runs where there are more than 256; the system's if None.

    Yields:
        Tables of `COUNTS` of 524,288 rows (the last one: fewer), sorted by the bytes of the words.

    Raises:
        IntegrityError: a run cannot be read.
    """
    if len(runs) <= MOST_RUNS:
        yield from _in_pieces(_merged(runs, memory_bytes, min_count))
        return
    with tempfile.TemporaryDirectory(dir=scratch, prefix="diptych-merge-") as folder:
        fewer = []
        for number, first in enumerate(range(0, len(runs), MOST_RUNS)):
            fewer.append(Path(folder) / f"{number:05d}.parquet")
            write_counts(fewer[-1], _merged(runs[first : first + MOST_RUNS], memory_bytes, 1))
        yield from merge_counts(fewer, min_count=min_count, memory_bytes=memory_bytes, scratch=scratch)
        for path in fewer:
            remove(path)


def write_counts(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of counts one behind the other; sorted words are stored by what is new in them."""
    with (
        writing(path) as file,
        pq.ParquetWriter(
            file,
            COUNTS,
            compression="zstd",
            use_dictionary=False,
            column_encoding={"word": "DELTA_BYTE_ARRAY", "count": "PLAIN"},
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=PIECE_ROWS)


def _batches(path: Path, rows: int) -> Iterator[pa.Table]:
    try:
        # The buffer keeps a reader from loading whole row groups of many millions of words.
        with pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
            batches = file.iter_batches(batch_size=rows, columns=COUNTS.names, use_threads=False)
            yield from (pa.Table.from_batches([batch]).cast(COUNTS) for batch in batches if batch.num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IntegrityError(
            "a run of counts cannot be read",
            where=path,
            found=str(error)[:200],
            fix="count again: remove the folders of this stage and run the curation with --resume",
        ) from error


def _merged(runs: Sequence[Path], memory_bytes: int, min_count: int) -> Iterator[pa.Table]:
    rows = memory_bytes // (BYTES_PER_ROW * max(1, len(runs)))
    sources = [_batches(path, min(MOST_ROWS, max(LEAST_ROWS, rows))) for path in runs]
    held = [(source, batch) for source in sources if (batch := next(source, None)) is not None]
    while held:
        bound = min(_word(batch, batch.num_rows - 1) for _, batch in held)
        ready, rest = [], []
        for source, batch in held:
            cut = _rows_up_to(batch, bound)
            ready.append(batch.slice(0, cut))
            left: pa.Table | None = batch.slice(cut)
            if cut == batch.num_rows:
                left = next(source, None)
            if left is not None:
                rest.append((source, left))
        held = rest
        summed = _summed(pa.concat_tables(ready))
        yield summed.filter(pc.greater_equal(summed["count"], min_count)) if min_count > 1 else summed


def _word(batch: pa.Table, row: int) -> bytes:
    word: bytes = batch["word"][row].as_py().encode("utf-8")
    return word


def _rows_up_to(batch: pa.Table, bound: bytes) -> int:
    """Return how many rows of a sorted batch are not above a word."""
    low, high = 0, batch.num_rows
    while low < high:
        middle = (low + high) // 2
        if _word(batch, middle) <= bound:
            low = middle + 1
        else:
            high = middle
    return low


def _summed(table: pa.Table) -> pa.Table:
    grouped = table.group_by("word", use_threads=False).aggregate([("count", "sum")])
    summed = grouped.rename_columns({"count_sum": "count"}).select(COUNTS.names).cast(COUNTS)
    return summed.take(pc.sort_indices(summed["word"]))


def _in_pieces(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cut the same rows into tables of the same sizes, however they come."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        while rows >= PIECE_ROWS:
            whole = pa.concat_tables(held)
            yield whole.slice(0, PIECE_ROWS).combine_chunks()
            held, rows = [whole.slice(PIECE_ROWS)], rows - PIECE_ROWS
    if rows:
        yield pa.concat_tables(held).combine_chunks()
