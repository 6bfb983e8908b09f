"""Columns that nobody asked for must not matter; Arrow files of Hugging Face and img2dataset's are read."""

import datetime
import json
from pathlib import Path

import pytest
from tests.data.source_files import images, make_image, read

from diptych.core.errors import IntegrityError, UsageError
from diptych.curate.candidates.candidates import CandidatesSettings, candidates_of, partitions_of
from diptych.data.sources.open import Columns, open_source
from diptych.evaluate.tasks.readers.tables_parquet import ParquetReader

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FAR = 2**62  # microseconds: the year 148,108


def odd_table() -> "pa.Table":
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
    names = [*columns, "label", "label"]
    return pa.Table.from_arrays([*columns.values(), pa.array([1, 2]), pa.array(["p", "q"])], names=names)


def test_what_nobody_asked_for_does_not_stop_the_reading(tmp_path: Path) -> None:
    pq.write_table(odd_table(), tmp_path / "t.parquet")
    pairs, dropped = read(tmp_path / "t.parquet")
    assert [pair.captions for pair in pairs] == [("a",), ("b",)] and dropped == {}
    assert pairs[0].fields == {"good": "x", "nanoseconds": "1970-01-01T00:00:00.000000001"}
    assert pairs[1].fields["good"] == "y" and pairs[1].fields["when"] == "1970-01-01T00:00:00"
    assert pairs[1].fields["day"] == datetime.date(1970, 1, 1).isoformat()


def test_curation_reads_the_same_table(tmp_path: Path) -> None:
    pq.write_table(odd_table(), tmp_path / "t.parquet")
    settings = CandidatesSettings(sources=(str(tmp_path / "t.parquet"),))
    tables = [candidates_of(partition, settings)[0] for partition in partitions_of(settings)]
    assert [caption for table in tables for caption in table["caption"].to_pylist()] == ["a", "b"]


def test_evaluation_reads_it_by_a_column_that_is_there_once(tmp_path: Path) -> None:
    pq.write_table(odd_table(), tmp_path / "test.parquet")
    examples = list(ParquetReader(label="good").examples(tmp_path, "test"))
    assert [(example.labels, example.captions) for example in examples] == [
        (("x",), ("a",)),
        (("y",), ("b",)),
    ]
    with pytest.raises(UsageError, match="one name"):
        list(ParquetReader().examples(tmp_path, "test"))


def test_a_column_that_is_asked_for_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array([make_image()]), pa.array(["a"]), pa.array(["b"])], names=["image", "caption", "caption"]
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="one name"):
        read(tmp_path / "t.parquet")


def test_parquet_of_img2dataset_is_read_as_it_is(tmp_path: Path) -> None:
    """Its ParquetSampleWriter: metadata, then the column jpg; failed rows have a status and no image."""
    table = pa.table(
        {
            "url": ["http://x/1", "http://x/2", "http://x/3"],
            "key": ["000000000", "000000001", "000000002"],
            "caption": ["one", "two", "three"],
            "status": ["success", "failed_to_download", "success"],
            "error_message": [None, "HTTP Error 404", None],
            "exif": ["{}", None, "{}"],
            "sha256": ["0" * 64, None, "1" * 64],
            "jpg": [make_image(1), None, make_image(3)],
        }
    )
    pq.write_table(table, tmp_path / "00000.parquet")
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
    table = pa.table(
        {
            "image": pa.array([{"bytes": make_image(n), "path": f"{n}.jpg"} for n in numbers], kind),
            "text": pa.array([f"caption {n}" for n in numbers]),
        }
    )
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=3):
            writer.write_batch(batch)


def test_a_folder_of_save_to_disk_is_read_in_its_stated_order(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    saved(folder, 5, "data-00001-of-00002.arrow", first=10)
    saved(folder, 4, "data-00000-of-00002.arrow")
    saved(folder, 2, "cache-0123.arrow", first=90)  # what map() leaves beside them
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    pairs, dropped = read(folder, Columns(caption="text"))
    assert [pair.captions[0] for pair in pairs] == [f"caption {n}" for n in (*range(4), *range(10, 15))]
    assert pairs[0].key == "0" and pairs[0].image == make_image(0) and dropped == {}
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))
    with pytest.raises(UsageError):
        read(folder)


def test_splits_of_save_to_disk_are_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    saved(tmp_path / "train", 1)
    with pytest.raises(UsageError, match=r"(?s)splits.*train, test"):
        open_source(tmp_path)


def test_arrow_files_of_both_forms_are_read_and_damaged_ones_told(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    table = pa.table({"image": ["a.jpg"], "caption": ["x"]})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    pairs, _ = read(tmp_path / "t.arrow")
    assert pairs[0].captions == ("x",)
    data = (tmp_path / "t.arrow").read_bytes()
    for damaged in (data[: len(data) // 2], b"ARROW1\0\0" + bytes(400), bytes(500)):
        (tmp_path / "t.arrow").write_bytes(damaged)
        with pytest.raises(IntegrityError):
            read(tmp_path / "t.arrow")
