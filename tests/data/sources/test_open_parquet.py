"""Columns that nobody asked for must not matter; Arrow files of Hugging Face and img2dataset's are read."""

import json
from pathlib import Path

import pytest
from tests.data.source_files import images, keyed, make_image, read, write_parquet

from diptych.core.errors import IntegrityError, UsageError
from diptych.curate.candidates.candidates import CandidatesSettings, candidates_of, partitions_of
from diptych.data.sources.open import Columns, open_source
from diptych.evaluate.tasks.readers.tables import ParquetReader

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FAR = 2**62  # microseconds: the year 148,108


@pytest.fixture
def odd(tmp_path):
    """A table with values that Python cannot hold, lists, bytes, and two columns of one name."""
    columns = {
        "image": pa.array([make_image(1), make_image(2)]),
        "caption": pa.array(["a", "b"]),
        "when": pa.array([FAR, 0], pa.timestamp("us")),
        "day": pa.array([2**31 - 1, 0], pa.date32()),
        "nanoseconds": pa.array([1, 1_000], pa.timestamp("ns")),
        "length": pa.array([FAR, 1], pa.duration("us")),
        "zone": pa.array([0, 0], pa.timestamp("s", tz="Mars/Olympus")),
        "vector": pa.array([[1.0], [2.0]]),
        "thumbnail": pa.array([b"x", b"y"]),
        "good": pa.array(["x", "y"]),
    }
    arrays = [*columns.values(), pa.array([1, 2]), pa.array(["p", "q"])]
    path = tmp_path / "test.parquet"
    pq.write_table(pa.Table.from_arrays(arrays, names=[*columns, "label", "label"]), path)
    return path


def test_what_nobody_asked_for_does_not_stop_the_reading(odd):
    pairs, dropped = read(odd)
    assert [pair.captions for pair in pairs] == [("a",), ("b",)] and dropped == {}
    assert pairs[0].fields == {"good": "x", "nanoseconds": "1970-01-01T00:00:00.000000001"}
    assert pairs[1].fields["good"] == "y" and pairs[1].fields["when"] == "1970-01-01T00:00:00"
    assert pairs[1].fields["day"] == "1970-01-01"


def test_curation_reads_the_same_table(odd):
    settings = CandidatesSettings(sources=(str(odd),))
    tables = [candidates_of(partition, settings)[0] for partition in partitions_of(settings)]
    assert [caption for table in tables for caption in table["caption"].to_pylist()] == ["a", "b"]


def test_evaluation_reads_it_by_a_column_that_is_there_once(odd):
    examples = ParquetReader(label="good").examples(odd.parent, "test")
    assert [(one.labels, one.captions) for one in examples] == [(("x",), ("a",)), (("y",), ("b",))]
    with pytest.raises(UsageError, match="one name"):
        list(ParquetReader().examples(odd.parent, "test"))


def test_a_column_that_is_asked_for_twice_is_refused(tmp_path):
    cells = [pa.array([make_image()]), pa.array(["a"]), pa.array(["b"])]
    table = pa.Table.from_arrays(cells, names=["image", "caption", "caption"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="one name"):
        read(tmp_path / "t.parquet")


def test_parquet_of_img2dataset_is_read_as_it_is(tmp_path):
    """Its ParquetSampleWriter: metadata, then the column jpg; failed rows have a status and no image."""
    write_parquet(
        tmp_path / "00000.parquet",
        url=["http://x/1", "http://x/2", "http://x/3"],
        key=["000000000", "000000001", "000000002"],
        caption=["one", "two", "three"],
        status=["success", "failed_to_download", "success"],
        error_message=[None, "HTTP Error 404", None],
        exif=["{}", None, "{}"],
        sha256=["0" * 64, None, "1" * 64],
        jpg=[make_image(1), None, make_image(3)],
    )
    (tmp_path / "00000_stats.json").write_text("{}")
    pairs, dropped = read(tmp_path)
    assert [(pair.key, pair.captions, pair.image) for pair in pairs] == [
        ("000000000", ("one",), make_image(1)),
        ("000000002", ("three",), make_image(3)),
    ]
    assert dropped == {"not_downloaded": 1}


def saved(folder: Path, rows: int, name: str = "data-00000-of-00001.arrow", first: int = 0) -> None:
    """An Arrow stream as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(exist_ok=True)
    numbers = range(first, first + rows)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    structs = pa.array([{"bytes": make_image(n), "path": f"{n}.jpg"} for n in numbers], kind)
    table = pa.table({"image": structs, "text": pa.array([f"caption {n}" for n in numbers])})
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=3):
            writer.write_batch(batch)


def test_a_folder_of_save_to_disk_is_read_in_its_stated_order(tmp_path):
    folder = tmp_path / "saved"
    saved(folder, 5, "data-00001-of-00002.arrow", first=10)
    saved(folder, 4, "data-00000-of-00002.arrow")
    saved(folder, 2, "cache-0123.arrow", first=90)  # what map() leaves beside them
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    expected = [(str(n), (f"caption {n}",)) for n in (*range(4), *range(10, 15))]
    assert keyed(folder, Columns(caption="text")) == expected
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))
    with pytest.raises(UsageError):
        read(folder)


def test_splits_of_save_to_disk_are_named(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    saved(tmp_path / "train", 1)
    with pytest.raises(UsageError, match=r"(?s)splits.*train, test"):
        open_source(tmp_path)


def test_arrow_files_of_both_forms_are_read_and_damaged_files_refused(tmp_path):
    images(tmp_path, "a.jpg")
    path = tmp_path / "t.arrow"
    table = pa.table({"image": ["a.jpg"], "caption": ["x"]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert keyed(path) == [("a", ("x",))]
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"ARROW1\0\0" + bytes(400), bytes(500)):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError):
            read(path)
    path = write_parquet(tmp_path / "t.parquet", image=[make_image()], caption=["x"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IntegrityError, match="Parquet"):
        read(path)
