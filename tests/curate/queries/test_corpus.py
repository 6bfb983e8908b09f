"""A corpus gives every text once, however it is packed and cut."""

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.curate.miniatures import FOOTER, HEADER, page, write_dump

from diptych.core.errors import DataError, UsageError
from diptych.curate.queries import corpus as dump
from diptych.curate.queries.corpus import CorpusPart, corpus_partitions, texts_of_part

ARTICLES = {
    f"Animal {number}": f'animal {number} is {"very " * (number % 7)}small & "quick".' for number in range(23)
}
PROSE = list(ARTICLES.values())


def all_texts(path: Path) -> list[str]:
    return texts_by_part(path, 1 << 62)


def texts_by_part(path: Path, bytes_per_partition: int) -> list[str]:
    parts = corpus_partitions([str(path)], bytes_per_partition)
    return [text for part in parts for batch in texts_of_part(part) for text in batch.to_pylist()]


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz", "a.xml.bz2", "a.xml-p1p23.bz2"])
def test_a_dump_gives_its_articles_and_no_other_pages(tmp_path: Path, name: str) -> None:
    assert all_texts(write_dump(tmp_path / name, ARTICLES)) == PROSE


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2"])
def test_every_article_is_in_one_part_wherever_the_file_is_cut(tmp_path: Path, name: str) -> None:
    path = write_dump(tmp_path / name, ARTICLES)
    size = path.stat().st_size
    for bytes_per_partition in (*range(1, 40), 97, 500, 501, size - 1, size, size + 1):
        if size // bytes_per_partition < 600:
            assert texts_by_part(path, bytes_per_partition) == PROSE, bytes_per_partition
    assert len(corpus_partitions([str(path)], size // 10)) >= 10


def test_streams_may_end_in_the_middle_of_a_page(tmp_path: Path) -> None:
    """As the files of parallel bzip2 programs do, which cut every 900 kB."""
    whole = (HEADER + "".join(page(title, text) for title, text in ARTICLES.items()) + FOOTER).encode()
    for size in (301, 7):
        path = tmp_path / f"{size}.xml.bz2"
        path.write_bytes(b"".join(bz2.compress(whole[at : at + size]) for at in range(0, len(whole), size)))
        for bytes_per_partition in (path.stat().st_size // 50, path.stat().st_size // 7):
            assert texts_by_part(path, bytes_per_partition) == PROSE


def test_what_is_read_at_once_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, text = write_dump(tmp_path / "a.xml.bz2", ARTICLES), tmp_path / "a.txt"
    text.write_text("\n".join(PROSE))
    for size in (1, 7, 100):
        monkeypatch.setattr(dump, "BLOCK_BYTES", size)
        monkeypatch.setattr(dump, "BATCH_BYTES", size)
        assert texts_by_part(path, 700) == PROSE
        assert texts_by_part(text, 700) == PROSE


def test_lines_of_plain_text_are_texts_wherever_the_file_is_cut(tmp_path: Path) -> None:
    lines = ["one", "", "two words", "drei Wörter hier", "x" * 50, "", "end"]
    for text in ("\n".join(lines), "\n".join(lines) + "\n"):
        (tmp_path / "a.txt").write_text(text)
        for bytes_per_partition in range(1, len(text) + 5):
            assert texts_by_part(tmp_path / "a.txt", bytes_per_partition) == lines
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
        (tmp_path / "a.bz2").write_bytes(bz2.compress(text[:9].encode()) + bz2.compress(text[9:].encode()))
        with pa.CompressedOutputStream(str(tmp_path / "a.txt.zst"), "zstd") as file:
            file.write(text.encode())
        for name in ("a.txt.gz", "a.bz2", "a.txt.zst"):
            assert texts_by_part(tmp_path / name, 20) == lines


def test_bytes_that_are_no_text_and_endless_lines_are_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9 au lait\nb")
    assert all_texts(path) == ["caf\ufffd au lait", "b"]
    monkeypatch.setattr(dump, "BLOCK_BYTES", 8)
    monkeypatch.setattr(dump, "MAX_LINE_BYTES", 20)
    path.write_text("word " * 20)
    assert " ".join(all_texts(path)).split() == ["word"] * 20
    assert max(map(len, all_texts(path))) <= 30


def test_tables_give_a_column_by_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"caption": PROSE, "n": range(len(PROSE))}), path, row_group_size=5)
    assert all_texts(path) == texts_by_part(path, path.stat().st_size // 4) == PROSE
    assert len(corpus_partitions([str(path)], 1)) == 5
    pq.write_table(pa.table({"a": PROSE, "b": PROSE}), path)
    with pytest.raises(UsageError, match="a, b"):
        all_texts(path)
    (part,) = corpus_partitions([str(path)], 1 << 62)
    assert next(texts_of_part(part, column="b")).to_pylist() == PROSE


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz", "a.xml.bz2"])
def test_a_dump_that_is_cut_off_is_told(tmp_path: Path, name: str) -> None:
    path = write_dump(tmp_path / name, ARTICLES)
    whole = path.read_bytes()
    for size in (len(whole) - 20, len(whole) // 2, len(whole) // 3):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut off|cannot be read"):
            all_texts(path)


def test_damage_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dump(tmp_path / "a.xml.bz2", ARTICLES)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.xml\.bz2"):
        all_texts(path)
    whole = bytearray(gzip.compress(" ".join(f"word {n * n}" for n in range(9999)).encode()))
    whole[len(whole) // 2 :: 50] = b"\xff" * len(whole[len(whole) // 2 :: 50])
    (tmp_path / "a.txt.gz").write_bytes(whole)
    with pytest.raises(DataError, match="cannot be read"):
        all_texts(tmp_path / "a.txt.gz")
    plain = tmp_path / "b.xml"
    plain.write_text(HEADER + page("A", "b").replace("</text>", "</txt>") + FOOTER)
    with pytest.raises(DataError, match="no XML"):
        all_texts(plain)
    plain.write_text(HEADER + page("A", "&lol;").replace("&amp;lol;", "&lol;") + FOOTER)
    with pytest.raises(DataError, match="no XML"):
        all_texts(plain)
    plain.write_text(HEADER + page("A", "b" * 5_000) + FOOTER)
    monkeypatch.setattr(dump, "MAX_PAGE_BYTES", 1_000)
    monkeypatch.setattr(dump, "BLOCK_BYTES", 500)
    with pytest.raises(DataError, match="too large"):
        all_texts(plain)


def test_files_that_cannot_be_cut_are_one_part(tmp_path: Path) -> None:
    path = write_dump(tmp_path / "a.xml.gz", ARTICLES)
    assert corpus_partitions([str(path)], 10) == (CorpusPart(str(path), 0, path.stat().st_size),)
    with pytest.raises(UsageError, match="does not exist"):
        corpus_partitions([str(tmp_path / "none.txt")], 10)
    with pytest.raises(UsageError, match="0 bytes"):
        corpus_partitions([str(path)], 0)


def test_a_corpus_of_no_kind_that_is_read_is_refused(tmp_path: Path) -> None:
    """Each of these gave no text and no error."""
    dumped = HEADER + page("A", "b") + FOOTER
    cases = {
        "old.xml": (dumped.replace("<ns>0</ns>", "").encode(), "namespace"),
        "wide.xml": (dumped.encode("utf-16"), "UTF-16"),
        "wide.txt": ("two words\n".encode("utf-16"), "UTF-16"),
        "unmarked.txt": ("two words\n".encode("utf-16-le"), "NUL"),
        "wide.txt.gz": (gzip.compress("two words\n".encode("utf-16")), "UTF-16"),
        "feed.xml.gz": (gzip.compress(b"<feed><doc><title>A</title></doc></feed>"), "MediaWiki"),
    }
    for name, (data, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=said):
            all_texts(tmp_path / name)
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        all_texts(tmp_path / "empty.txt")
    (tmp_path / "spaced.xml").write_text(dumped.replace("<ns>0</ns>", "<ns> 0 </ns>"))
    assert all_texts(tmp_path / "spaced.xml") == ["b"]
