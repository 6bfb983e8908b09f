"""Counting is exact whatever the memory, the parts or the order in which runs come."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.core.errors import IntegrityError, UsageError
from diptych.curate.queries import counting
from diptych.curate.queries.counting import COUNTS, CountingSettings, count_part, merge_counts, write_counts

LETTERS = "abcdefgh éßд日"


def texts(number: int, *, seed: int = 0) -> list[str]:
    """Return texts of many rare and some frequent words, some of more than eight bytes."""
    rng = random.Random(seed)
    words = [
        "".join(rng.choices(LETTERS.replace(" ", ""), k=rng.choice((1, 3, 6, 9, 14)))) for _ in range(3_000)
    ]
    return [
        " ".join(rng.choices(words, k=rng.randrange(12))).title() + rng.choice((".", "", ", !"))
        for _ in range(number)
    ]


def brute_force(lines: list[str]) -> tuple[Counter[str], Counter[str]]:
    words: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for line in lines:
        found = line.casefold().replace(".", " ").replace(",", " ").replace("!", " ").split()
        words.update(found)
        pairs.update(f"{one} {other}" for one, other in pairwise(found))
    return words, pairs


def counted_into(
    folder: Path, lines: list[str], batch: int, settings: CountingSettings, name: str = ""
) -> int:
    def write(run: str, table: pa.Table) -> None:
        assert table["word"].to_pylist() == sorted(table["word"].to_pylist(), key=str.encode)
        pq.write_table(table, folder / f"{name}{run}.parquet")

    batches = [pa.array(lines[first : first + batch]) for first in range(0, len(lines), batch)]
    return count_part(batches, write, settings)


def merged(folder: Path, kind: str, **options: int) -> dict[str, int]:
    table = pa.concat_tables(
        [COUNTS.empty_table(), *merge_counts(sorted(folder.glob(f"*-{kind}-*")), **options, scratch=folder)]
    )
    words = table["word"].to_pylist()
    assert words == sorted(set(words), key=str.encode)
    return dict(zip(words, table["count"].to_pylist(), strict=True))


@pytest.mark.parametrize("memory_bytes", [1 << 18, 1 << 20, 1 << 28])
def test_counts_are_those_of_brute_force_whatever_the_memory(tmp_path: Path, memory_bytes: int) -> None:
    lines = texts(4_000)
    words, pairs = brute_force(lines)
    counted = counted_into(tmp_path, lines, 700, CountingSettings(memory_bytes=memory_bytes))
    assert merged(tmp_path, "words", memory_bytes=1 << 20) == words
    assert merged(tmp_path, "pairs", memory_bytes=1 << 20) == pairs
    assert counted == 4_000
    assert (len(list(tmp_path.glob("*-words-*"))) > 1) == (memory_bytes < 1 << 28)


def test_rare_words_are_dropped_only_when_all_is_added_up(tmp_path: Path) -> None:
    settings = CountingSettings()
    counted_into(tmp_path, ["a rare dog", "a dog"], 1, settings, "1")
    counted_into(tmp_path, ["a rare cat"], 1, settings, "2")
    assert merged(tmp_path, "words", min_count=2) == {"a": 3, "dog": 2, "rare": 2}
    assert merged(tmp_path, "pairs", min_count=2) == {"a rare": 2}


def test_parts_and_their_order_do_not_matter(tmp_path: Path) -> None:
    lines, tables = texts(1_500), []
    for parts in (1, 7):
        folder = tmp_path / str(parts)
        folder.mkdir()
        for part in reversed(range(parts)):
            counted_into(folder, lines[part::parts], 100, CountingSettings(memory_bytes=1 << 18), f"{part}")
        out = folder / "all.parquet"
        write_counts(out, merge_counts(sorted(folder.glob("*-pairs-*")), min_count=2))
        tables.append(out.read_bytes())
    assert tables[0] == tables[1]


def test_more_runs_than_may_be_open_are_merged_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = texts(2_000)
    counted_into(tmp_path, lines, 500, CountingSettings(memory_bytes=1 << 18))
    monkeypatch.setattr(counting, "MOST_RUNS", 3)
    monkeypatch.setattr(counting, "PIECE_ROWS", 100)
    assert len(list(tmp_path.glob("*-pairs-*"))) > 3
    assert merged(tmp_path, "words") == brute_force(lines)[0]
    sizes = [table.num_rows for table in merge_counts(sorted(tmp_path.glob("*-pairs-*")), scratch=tmp_path)]
    assert set(sizes[:-1]) == {100} and 0 < sizes[-1] <= 100
    assert not list(tmp_path.glob("diptych-merge-*"))


def test_words_may_be_counted_without_pairs(tmp_path: Path) -> None:
    assert counted_into(tmp_path, ["a b a", "b"], 2, CountingSettings(pairs=False)) == 2
    assert merged(tmp_path, "words") == {"a": 2, "b": 2}
    assert not list(tmp_path.glob("*-pairs-*"))


def test_runs_of_letters_too_long_for_a_word_separate_words(tmp_path: Path) -> None:
    counted_into(tmp_path, [f"a {'x' * 256} b {'x' * 255}"], 1, CountingSettings())
    assert merged(tmp_path, "words") == {"a": 1, "b": 1, "x" * 255: 1}
    assert merged(tmp_path, "pairs") == {"b " + "x" * 255: 1}


def test_texts_without_words_make_no_runs(tmp_path: Path) -> None:
    assert counted_into(tmp_path, [], 1, CountingSettings()) == 0
    assert counted_into(tmp_path, ["", "…", ""], 2, CountingSettings()) == 3
    assert not list(tmp_path.iterdir())
    assert merged(tmp_path, "words") == {}


def test_too_little_memory_and_damaged_runs_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too little memory"):
        count_part([], lambda *_: None, CountingSettings(memory_bytes=1_000))
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    with pytest.raises(IntegrityError, match=r"damaged\.parquet"):
        list(merge_counts([damaged]))
