"""A corpus gives every text once, however it is packed and cut."""

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.curate.miniatures import FOOTER, HEADER, page, write_dump

from diptych.core.errors import DataError, DiptychError, UsageError
from diptych.curate.queries import corpus
from diptych.curate.queries.corpus import corpus_partitions, texts_of_part

ARTICLES = {
    f"Animal {number}": f'animal {number} is {"very " * (number % 7)}small & "quick".' for number in range(23)
}
PROSE = list(ARTICLES.values())
DUMP = HEADER + page("A", "b") + FOOTER
WORDS = gzip.compress(" ".join(f"word {n * n}" for n in range(9999)).encode())


def texts(path: Path, bytes_per_partition: int = 1 << 62, column: str = "text") -> list[str]:
    parts = corpus_partitions([str(path)], bytes_per_partition)
    return [
        text for part in parts for batch in texts_of_part(part, column=column) for text in batch.to_pylist()
    ]


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz", "a.xml.bz2", "a.xml-p1p23.bz2"])
def test_a_dump_gives_its_articles_alone_wherever_it_is_cut(tmp_path: Path, name: str) -> None:
    path = write_dump(tmp_path / name, ARTICLES)
    size = path.stat().st_size
    for bytes_per_partition in (*range(size // 300, 60, 5), 97, 500, 501, size - 1, size, size + 1):
        assert texts(path, bytes_per_partition) == PROSE, bytes_per_partition
    assert (len(corpus_partitions([str(path)], size // 10)) >= 10) == (path.suffix != ".gz")


def test_streams_may_end_in_the_middle_of_a_page(tmp_path: Path) -> None:
    """As the files of parallel bzip2 programs do, which cut every 900 kB."""
    whole = (HEADER + "".join(page(title, text) for title, text in ARTICLES.items()) + FOOTER).encode()
    for size in (301, 7):
        path = tmp_path / f"{size}.xml.bz2"
        path.write_bytes(b"".join(bz2.compress(whole[at : at + size]) for at in range(0, len(whole), size)))
        for parts in (50, 7):
            assert texts(path, path.stat().st_size // parts) == PROSE


def test_what_is_read_at_once_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, text = write_dump(tmp_path / "a.xml.bz2", ARTICLES), tmp_path / "a.txt"
    text.write_text("\n".join(PROSE))
    for size in (1, 7, 100):
        monkeypatch.setattr(corpus, "BLOCK_BYTES", size)
        monkeypatch.setattr(corpus, "BATCH_BYTES", size)
        assert texts(path, 700) == texts(text, 700) == PROSE


def test_lines_of_plain_text_are_texts_wherever_the_file_is_cut(tmp_path: Path) -> None:
    lines = ["one", "", "two words", "drei Wörter hier", "x" * 50, "", "end"]
    for text in ("\n".join(lines), "\n".join(lines) + "\n"):
        (tmp_path / "a.txt").write_text(text)
        for bytes_per_partition in range(1, len(text) + 5):
            assert texts(tmp_path / "a.txt", bytes_per_partition) == lines
        (tmp_path / "a.txt.gz").write_bytes(
            gzip.compress(text[:9].encode()) + gzip.compress(text[9:].encode())
        )
        (tmp_path / "a.bz2").write_bytes(bz2.compress(text[:9].encode()) + bz2.compress(text[9:].encode()))
        with pa.CompressedOutputStream(str(tmp_path / "a.txt.zst"), "zstd") as file:
            file.write(text.encode())
        assert texts(tmp_path / "a.txt.gz", 20) == texts(tmp_path / "a.bz2", 20) == lines
        assert texts(tmp_path / "a.txt.zst", 20) == lines


def test_bytes_that_are_no_text_and_endless_lines_are_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9 au lait\nb")
    assert texts(path) == ["caf\ufffd au lait", "b"]
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 8)
    monkeypatch.setattr(corpus, "MAX_LINE_BYTES", 20)
    path.write_text("word " * 20)
    assert " ".join(texts(path)).split() == ["word"] * 20
    assert max(map(len, texts(path))) <= 30


def test_tables_give_a_column_by_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"caption": PROSE, "n": range(len(PROSE))}), path, row_group_size=5)
    assert texts(path) == texts(path, path.stat().st_size // 4) == PROSE
    assert len(corpus_partitions([str(path)], 1)) == 5
    pq.write_table(pa.table({"a": PROSE, "b": PROSE}), path)
    with pytest.raises(UsageError, match="a, b"):
        texts(path)
    assert texts(path, column="b") == PROSE


def flipped(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes(byte ^ 255 for byte in data[half : half + 9]) + data[half + 9 :]


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("none.txt", None, UsageError, "does not exist"),
        ("empty.txt", b"", DataError, "empty"),
        ("old.xml", DUMP.replace("<ns>0</ns>", "").encode(), UsageError, "namespace"),
        ("wide.xml", DUMP.encode("utf-16"), UsageError, "UTF-16"),
        ("wide.txt", "two words\n".encode("utf-16"), UsageError, "UTF-16"),
        ("unmarked.txt", "two words\n".encode("utf-16-le"), UsageError, "NUL"),
        ("wide.txt.gz", gzip.compress("two words\n".encode("utf-16"), mtime=0), UsageError, "UTF-16"),
        ("feed.xml.gz", gzip.compress(b"<feed><doc>A</doc></feed>", mtime=0), UsageError, "MediaWiki"),
        ("tag.xml", DUMP.replace("</text>", "</txt>").encode(), DataError, "no XML"),
        ("entity.xml", DUMP.replace(">b<", ">&lol;<").encode(), DataError, "no XML"),
        ("flipped.xml.bz2", flipped(bz2.compress(DUMP.encode())), DataError, r"flipped\.xml\.bz2"),
        ("flipped.txt.gz", flipped(WORDS), DataError, "cannot be read"),
        ("half.txt.gz", WORDS[: len(WORDS) // 2], DataError, "cannot be read"),
        ("half.parquet", b"PAR1 and no more", DataError, "cannot be read"),
    ],
)
def test_what_gives_no_text_is_refused(
    tmp_path: Path, name: str, data: bytes | None, error: type[DiptychError], message: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message):
        texts(tmp_path / name)


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz", "a.xml.bz2"])
def test_a_dump_that_is_cut_off_is_told(tmp_path: Path, name: str) -> None:
    path = write_dump(tmp_path / name, ARTICLES)
    whole = path.read_bytes()
    for size in (len(whole) - 20, len(whole) // 2, len(whole) // 3):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut off|cannot be read"):
            texts(path)


def test_pages_of_any_spelling_are_read_but_none_that_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.xml"
    path.write_text(DUMP.replace("<ns>0</ns>", "<ns> 0 </ns>"))
    assert texts(path) == ["b"]
    path.write_text(HEADER + page("A", "b" * 5_000) + FOOTER)
    monkeypatch.setattr(corpus, "MAX_PAGE_BYTES", 1_000)
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 500)
    with pytest.raises(DataError, match="too large"):
        texts(path)
