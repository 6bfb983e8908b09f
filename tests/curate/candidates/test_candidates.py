"""One way in for candidates: each kind of source gives the same table, cut into partitions or whole."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.curate.crawl_files import WebPage, write_warc, write_wat
from tests.data.source_files import make_image, write_parquet, write_tar

from diptych.core.errors import IntegrityError, Reason, SettingsError, UnknownNameError, UsageError
from diptych.core.records import Counts, Pair
from diptych.curate.candidates.candidates import (
    CandidateColumns,
    CandidatesSettings,
    candidates_of,
    partitions_of,
)
from diptych.curate.columns import CANDIDATES
from diptych.data.shards.writer import write_shards
from diptych.data.synthetic.dataset import scene_pairs

URL = "https://a.example/{}.jpg"


def read(*sources: Path | str, **settings: Any) -> tuple[list[dict[str, Any]], Counts]:
    """Read all partitions of the sources one by one."""
    rows, counts, whole = [], Counts(), CandidatesSettings(tuple(map(str, sources)), **settings)
    for partition in partitions_of(whole):
        table, more = candidates_of(partition, whole)
        assert table.schema.equals(CANDIDATES)
        assert more.kept == len(table)
        rows += table.to_pylist()
        counts.merge(more)
    counts.check(1.0)
    return rows, counts


def url_file(path: Path, rows: int = 10, group: int = 3) -> Path:
    urls, captions = [URL.format(n) for n in range(rows)], [f"caption {n}" for n in range(rows)]
    columns = {"url": urls, "caption": captions, "license": ["by"] * rows, "width": list(range(rows))}
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def test_a_table_of_addresses_is_cut_between_row_groups(tmp_path: Path) -> None:
    path = url_file(tmp_path / "a.parquet")
    parts = partitions_of(CandidatesSettings((str(path),), partition_rows=6))
    assert [(partition.first, partition.last) for partition in parts] == [(0, 2), (2, 4)]
    rows, _ = read(path, partition_rows=6)
    assert rows == read(path)[0]
    assert [row["url"] for row in rows] == [URL.format(n) for n in range(10)]
    assert (rows[3]["license"], json.loads(rows[3]["fields"])) == ("by", {"width": 3})
    assert all(re.fullmatch(r"[0-9a-f]{32}", row["key"]) for row in rows)


def test_rows_that_are_no_pairs_are_counted_by_reason(tmp_path: Path) -> None:
    """1,000 bad rows among 100 good ones, each kind under its reason."""
    faults: list[tuple[Any, Any, Reason]] = [
        (URL.format(1), None, Reason.MISSING_CAPTION),
        (URL.format(1), b" \t ", Reason.EMPTY_CAPTION),
        (URL.format(1), b"a\0b", Reason.CAPTION_NOT_TEXT),
        (URL.format(1), b"x" * 2**20, Reason.CAPTION_TOO_LONG),
        (URL.format(1), b"caf\xe9", Reason.CAPTION_NOT_TEXT),
        (None, b"a dog", Reason.MISSING_IMAGE),
        ("data:image/png;base64,AA", b"a dog", Reason.BAD_ADDRESS),
        ("no address", b"a dog", Reason.BAD_ADDRESS),
        ("https://" + "x" * 5000, b"a dog", Reason.BAD_ADDRESS),
        (URL.format(0), b"good 0", Reason.DUPLICATE_KEY),
    ]
    urls = [URL.format(n) for n in range(100)] + [fault[0] for fault in faults] * 100
    captions = [b"good %d" % n for n in range(100)] + [fault[1] for fault in faults] * 100
    held = pa.array(captions, pa.binary())
    # Bytes that are not UTF-8 under the name of text, as careless writers leave them.
    text = pa.Array.from_buffers(pa.string(), len(held), held.buffers())
    path = write_parquet(tmp_path / "a.parquet", url=urls, caption=text)
    rows, counts = read(path)
    assert [row["caption"] for row in rows] == [f"good {n}" for n in range(100)]
    assert counts.dropped == Counter([reason for *_, reason in faults] * 100)
    assert (counts.seen, counts.kept) == (1100, 100)


def test_columns_have_the_names_that_the_settings_say(tmp_path: Path) -> None:
    path = tmp_path / "laion.parquet"
    write_parquet(path, URL=[URL.format(1)], TEXT=["a dog"], hash=[-7], LICENSE=["?"])
    columns = CandidateColumns(url="URL", caption="TEXT", key="hash", license="LICENSE")
    rows, _ = read(path, columns=columns)
    assert [(row["key"], row["url"], row["license"]) for row in rows] == [("-7", URL.format(1), "?")]
    with pytest.raises(UnknownNameError, match="caption"):
        read(path)


def test_images_in_parquet_have_a_row_for_each_caption(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"from a file")
    images = [{"bytes": b"inside", "path": None}, {"bytes": None, "path": "b.png"}, None,
              {"bytes": None, "path": None}]  # fmt: skip
    captions = [["one", "two"], ["three"], ["four"], ["five"]]
    path = write_parquet(tmp_path / "a.parquet", id=["x", "y", "z", "0"], image=images, caption=captions)
    rows, counts = read(path)
    assert [(row["key"], row["image"], row["caption"], row["url"]) for row in rows] == [
        ("x#0", b"inside", "one", None),
        ("x#1", b"inside", "two", None),
        ("y", b"from a file", "three", None),
    ]
    assert counts.dropped == {Reason.MISSING_IMAGE: 2}


def downloaded_rows(image: str) -> dict[str, list[Any]]:
    """Three rows as img2dataset 1.47 writes them to Parquet: an image, a failed download, a failed resize."""
    return {
        "url": [URL.format(n) for n in range(3)],
        "caption": ["a dog", "a cat", "a cow"],
        "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "failed_to_download", "failed_to_resize"],
        "error_message": [None, "HTTP Error 404: Not Found", "Image decoding error"],
        "sha256": ["0" * 64, None, None],
        image: [b"inside", None, None],
        "txt": ["a dog", None, None],
    }


@pytest.mark.parametrize("image", ["jpg", "png", "webp"])
def test_what_img2dataset_downloaded_is_not_asked_for_again(tmp_path: Path, image: str) -> None:
    path = tmp_path / "00000.parquet"
    table = pa.table(downloaded_rows(image))
    pq.write_table(table, path)
    rows, counts = read(path)
    assert [(row["image"], row["url"]) for row in rows] == [(b"inside", URL.format(0))]
    assert counts.dropped == {Reason.NOT_DOWNLOADED: 2}
    counts.check(0.0)  # no damage of the table
    # Its metadata alone are addresses: nothing says that the images were kept.
    pq.write_table(table.drop_columns([image, "txt"]), path)
    rows, counts = read(path)
    assert [(row["image"], row["url"]) for row in rows] == [(None, URL.format(n)) for n in range(3)]


def test_sources_may_name_their_pairs_alike(tmp_path: Path) -> None:
    urls = [URL.format(1), URL.format(2)]
    paths = [write_parquet(tmp_path / f"{n}.parquet", id=[1, 2], url=urls, caption=[n, n]) for n in "ab"]
    assert [row["key"] for row in read(*paths)[0]] == ["0-1", "0-2", "1-1", "1-2"]


def test_crawl_files_are_found_by_pattern_in_the_order_of_their_names(tmp_path: Path) -> None:
    page = "https://a.example/"
    for name in "ba":
        write_wat(tmp_path / f"{name}.warc.wat.gz", [WebPage(page, [(f"{name}.jpg", f"A {name}")])])
    write_warc(tmp_path / "c.warc.gz", [WebPage(page, [("c.jpg", "A c"), ("c.jpg", "A c")])])
    rows, counts = read(tmp_path / "*.wat.gz", tmp_path / "c.warc.gz")
    assert [row["caption"] for row in rows] == ["A a", "A b", "A c"]
    assert [row["page"] for row in rows] == [page] * 3
    assert counts.dropped == {Reason.DUPLICATE_KEY: 1}


def test_shards_are_cut_anywhere(tmp_path: Path) -> None:
    images, fields = (
        [pair.image for pair in scene_pairs(10, seed=1, size=16)],
        {"page": "https://a.example/", "n": 1},
    )
    pairs = [Pair(f"k{n}", images[n], (f"caption {n}", "other")[: 1 + n % 2], fields) for n in range(10)]
    write_shards(pairs, tmp_path / "s")
    whole, _ = read(tmp_path / "s")
    assert whole == read(tmp_path / "s", partition_rows=3)[0]
    assert [row["key"] for row in whole[:4]] == ["k0", "k1#0", "k1#1", "k2"]
    assert (whole[0]["page"], whole[0]["fields"]) == ("https://a.example/", '{"n":1}')
    assert whole[3]["image"] == images[2]


def test_a_folder_is_cut_with_each_bad_row_counted_once(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(b"x%d" % number)
        (tmp_path / f"{number}.txt").write_text("" if number in (0, 4, 8) else f"caption {number}")
    parts = partitions_of(CandidatesSettings((str(tmp_path),), partition_rows=2))
    assert [(partition.first, partition.last) for partition in parts] == [(0, 2), (2, 4), (4, -1)]
    rows, counts = read(tmp_path, partition_rows=2)
    whole, all_counts = read(tmp_path)
    assert (rows, counts.as_dict()) == (whole, all_counts.as_dict())
    assert counts.dropped == {Reason.EMPTY_CAPTION: 3}


@pytest.mark.filterwarnings("ignore:.*not read")
@pytest.mark.parametrize("kind", ["arrow", "tgz"])
def test_whatever_sources_open_gives_candidates(tmp_path: Path, kind: str) -> None:
    images = [make_image(0), make_image(1)]
    if kind == "arrow":
        table = pa.table({"id": ["k0", "k1"], "image": images, "title": ["c0", "c1"]})
        with (
            pa.OSFile(str(tmp_path / "0.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    else:
        members = [(f"k{n}.jpg", images[n]) for n in range(2)]
        members += [(f"k{n}.json", b'{"title": "c%d"}' % n) for n in range(2)]
        tar = write_tar(tmp_path / "0.tar", sorted(members))
        (tmp_path / "0.tgz").write_bytes(gzip.compress(tar.read_bytes()))
        tar.unlink()
    rows, counts = read(tmp_path, columns=CandidateColumns(caption="title"), partition_rows=1)
    expected = [(f"k{n}", f"c{n}", images[n]) for n in range(2)]
    assert [(row["key"], row["caption"], row["image"]) for row in rows] == expected
    assert not counts.dropped


def test_scenes_are_a_source_like_others() -> None:
    rows, _ = read("scenes:crawl?count=30&seed=1&size=16", partition_rows=20)
    keys = [row["key"].partition("#")[0] for row in rows]
    assert list(dict.fromkeys(keys)) == [f"crawl-{n:07d}" for n in range(30)]
    assert rows[0]["page"].startswith("https://site")


def test_the_real_titles_are_all_candidates(shared_data: Path) -> None:
    path = shared_data / "fashion" / "test.parquet"
    rows, counts = read(path, partition_rows=1000)
    table = pq.read_table(path)
    assert [row["key"] for row in rows] == [str(key) for key in table["id"].to_pylist()]
    assert [row["caption"] for row in rows] == [text.strip() for text in table["caption"].to_pylist()]
    assert counts.dropped == {}


def test_what_is_not_there_is_told_before_anything_is_read() -> None:
    for ref in ("no/such/*.wat.gz", "no/such.parquet", "no/such.warc.gz", "no/such"):
        with pytest.raises(UsageError):
            read(ref)
    with pytest.raises(UsageError, match="no source"):
        read()
    with pytest.raises(SettingsError, match="needs rows"):
        read("a", partition_rows=0)


def test_a_damaged_parquet_file_is_no_bad_row(tmp_path: Path) -> None:
    path = url_file(tmp_path / "a.parquet", rows=2000, group=2000)
    whole = path.read_bytes()
    settings = CandidatesSettings((str(path),))
    partitions = partitions_of(settings)
    path.write_bytes(whole[:400] + bytes(2000) + whole[2400:])
    with pytest.raises(IntegrityError):
        candidates_of(partitions[0], settings)
    path.write_bytes(whole[:-20])
    with pytest.raises(IntegrityError):
        partitions_of(settings)
