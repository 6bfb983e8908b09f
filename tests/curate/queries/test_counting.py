"""Counting is exact whatever the memory, the parts or the order in which runs come."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.core.errors import IntegrityError, SettingsError
from diptych.curate.queries import counting
from diptych.curate.queries.counting import COUNTS, CountingSettings, count_part, merge_counts

LETTERS = "abcdefghéßд日"


def texts(number: int) -> list[str]:
    """Return texts of many rare and some frequent words, some of more than eight bytes."""
    rng = random.Random(0)
    words = ["".join(rng.choices(LETTERS, k=rng.choice((1, 3, 6, 9, 14)))) for _ in range(3_000)]
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


def count(
    folder: Path,
    lines: list[str],
    batch: int = 100,
    part: str = "",
    memory: int = 1 << 28,
    pairs: bool = True,
) -> int:
    def write(run: str, table: pa.Table) -> None:
        assert table["word"].to_pylist() == sorted(table["word"].to_pylist(), key=str.encode)
        pq.write_table(table, folder / f"{part}{run}.parquet")

    batches = [pa.array(lines[first : first + batch]) for first in range(0, len(lines), batch)]
    return count_part(batches, write, CountingSettings(memory_bytes=memory, pairs=pairs))


def merged(folder: Path, kind: str, min_count: int = 1) -> dict[str, int]:
    runs = sorted(folder.glob(f"*-{kind}-*"))
    tables = merge_counts(runs, min_count=min_count, memory_bytes=1 << 20, scratch=folder)
    table = pa.concat_tables([COUNTS.empty_table(), *tables])
    words = table["word"].to_pylist()
    assert words == sorted(set(words), key=str.encode)
    return dict(zip(words, table["count"].to_pylist(), strict=True))


@pytest.mark.parametrize(("memory", "parts"), [(1 << 18, 1), (1 << 20, 1), (1 << 28, 1), (1 << 18, 7)])
def test_counts_are_those_of_brute_force_whatever_the_memory_and_the_parts(
    tmp_path: Path, memory: int, parts: int
) -> None:
    lines = texts(4_000)
    counted = [count(tmp_path, lines[part::parts], 700, str(part), memory) for part in reversed(range(parts))]
    assert (merged(tmp_path, "words"), merged(tmp_path, "pairs")) == brute_force(lines)
    assert sum(counted) == 4_000
    assert (len(list(tmp_path.glob("*-words-*"))) > parts) == (memory < 1 << 28)


def test_more_runs_than_may_be_open_are_merged_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = texts(2_000)
    count(tmp_path, lines, 500, memory=1 << 18)
    monkeypatch.setattr(counting, "MOST_RUNS", 3)
    monkeypatch.setattr(counting, "PIECE_ROWS", 100)
    runs = sorted(tmp_path.glob("*-pairs-*"))
    assert len(runs) > 3
    assert merged(tmp_path, "words") == brute_force(lines)[0]
    assert len(list(merge_counts(runs, memory_bytes=1 << 20, scratch=tmp_path))) > 3
    assert not list(tmp_path.glob("diptych-merge-*"))


def test_rare_words_are_dropped_only_when_all_is_added_up(tmp_path: Path) -> None:
    assert count(tmp_path, ["a rare dog", "a dog"], 1, "1") + count(tmp_path, ["a rare cat"], 1, "2") == 3
    assert merged(tmp_path, "words", min_count=2) == {"a": 3, "dog": 2, "rare": 2}
    assert merged(tmp_path, "pairs", min_count=2) == {"a rare": 2}


@pytest.mark.parametrize(
    ("lines", "pairs", "counts"),
    [
        (["a b a", "b"], False, ({"a": 2, "b": 2}, {})),
        # Too long for a word, it still separates two.
        ([f"a {'x' * 256} b {'x' * 255}"], True, ({"a": 1, "b": 1, "x" * 255: 1}, {"b " + "x" * 255: 1})),
        ([], True, ({}, {})),
        (["", "…", ""], True, ({}, {})),
    ],
)
def test_what_is_no_word_and_what_is_not_asked_for_is_not_counted(
    tmp_path: Path, lines: list[str], pairs: bool, counts: tuple[dict[str, int], dict[str, int]]
) -> None:
    assert count(tmp_path, lines, 2, pairs=pairs) == len(lines)
    assert (merged(tmp_path, "words"), merged(tmp_path, "pairs")) == counts
    assert bool(list(tmp_path.glob("*-words-*"))) == bool(counts[0])
    assert bool(list(tmp_path.glob("*-pairs-*"))) == bool(counts[1])


def test_too_little_memory_parts_of_nothing_and_damaged_runs_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="too little memory"):
        CountingSettings(memory_bytes=1_000)
    with pytest.raises(SettingsError, match="0 bytes"):
        CountingSettings(bytes_per_partition=0)
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(IntegrityError, match=r"damaged\.parquet"):
        list(merge_counts([tmp_path / "damaged.parquet"]))
