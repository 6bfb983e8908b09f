"""Text tables as other programs write them: no row is lost uncounted, no caption swallows others."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest
from tests.data.source_files import images, keyed, make_image, read

from diptych.core.errors import DataError, IntegrityError, TooMuchBadDataError, UsageError
from diptych.core.records import Counts, Need, Pair
from diptych.data.sources.open import Columns, open_source
from diptych.data.sources.table_rows import table_rows

ROWS = [("a.jpg", "a dog, running"), ("b.jpg", 'the "big" cat'), ("c.jpg", "über | alles; ja")]


def table(folder: Path, captions: list[str], *, delimiter: str = ",") -> Path:
    """A table without quoting, as programs that never heard of it write one; every row names one image."""
    images(folder, "a.jpg")
    suffix = "tsv" if delimiter == "\t" else "csv"
    lines = [f"image{delimiter}caption", *(f"a.jpg{delimiter}{caption}" for caption in captions)]
    (folder / f"t.{suffix}").write_text("\n".join(lines) + "\n")
    return folder / f"t.{suffix}"


def total(path: Path) -> tuple[int, int]:
    """How many captions are kept and how many rows are dropped."""
    pairs, dropped = read(path)
    return sum(len(pair.captions) for pair in pairs), sum(dropped.values())


def test_a_quote_that_is_never_closed_is_an_error_with_its_line(tmp_path):
    captions = [f"row {number}" for number in range(1000)]
    captions[99] = '"a 5 inch pipe'
    with pytest.raises(DataError, match=r"(?s)never closed.*t\.csv line 101"):
        read(table(tmp_path, captions))


def test_rows_between_two_stray_quotes_count_as_bad_by_their_lines(tmp_path):
    captions = [f"row {number}" for number in range(1000)]
    captions[99], captions[599] = '"a 5 inch pipe', 'a 6" nail'
    path = table(tmp_path, captions)
    assert total(path) == (499, 501)  # rows 100 to 600, both included, are one cell
    counts = Counts()
    counts.keep(len(list(open_source(path).pairs(counts))))
    with pytest.raises(TooMuchBadDataError, match="501 of"):
        counts.check(0.1)


@pytest.mark.parametrize("delimiter", ["\t", ";", ","])
def test_a_swallow_of_few_rows_is_counted_too(tmp_path, delimiter):
    captions = [f"row {number}" for number in range(300)]
    for first in range(0, 300, 30):
        captions[first], captions[first + 7] = '"5 inches', '7 inches"'
    assert total(table(tmp_path, captions, delimiter=delimiter)) == (220, 80)
    (tmp_path / "late").mkdir()
    two = table(tmp_path / "late", ["one", '"two', 'three"', "four"], delimiter=delimiter)
    assert total(two) == (2, 2)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_swallow_is_seen_wherever_the_images_column_is(tmp_path, column):
    images(tmp_path, "a.jpg")
    rows = [["caption", "label"], ['"two inches', "x"], ["one", "y"], ['three" pipe', "z"], ["four", "w"]]
    for number, row in enumerate(rows):
        row.insert(column, "a.jpg" if number else "image")
    (tmp_path / "t.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    assert total(tmp_path / "t.csv") == (1, 3)


@pytest.mark.parametrize("order", [("image", "caption"), ("caption", "image"), ("caption", "image", "label")])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_well_formed_table_is_read_as_pandas_reads_it(tmp_path, order, delimiter):
    pandas = pytest.importorskip("pandas")
    rng = random.Random(len(order))
    pieces = ["a", "dog ", '"', ",", ";", "\t", "\n", "\r\n", "é", "犬", '5" ', "3.5", ":", "="]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(order)
        for number in range(200):
            text = "".join(rng.choices(pieces, k=rng.randint(1, 9))).strip() or "x"
            cells = {"image": f"{number}.jpg", "caption": text, "label": text[::-1].strip()}
            writer.writerow([cells[name] for name in order])
    expected = pandas.read_csv(
        tmp_path / "t.csv", sep=delimiter, dtype=str, keep_default_na=False, engine="python"
    )
    rows = [row.cells for row in table_rows(tmp_path / "t.csv", Columns(), ("image", "caption"))]
    assert rows == expected.to_dict("records")


def test_a_swallow_beyond_the_longest_cell_is_counted_and_reading_goes_on(tmp_path):
    kept, dropped = total(table(tmp_path, ['"never closed', *["x"] * 40_000]))
    assert kept + dropped == 40_001
    assert 131_072 // len("a.jpg,x\n") <= dropped <= 131_072 // len("a.jpg,x\n") + 2


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("front", ["", "\n", "  \r\n\r\n", "sep"])
def test_delimiters_marks_and_empty_lines_change_nothing(tmp_path, delimiter, encoding, front):
    images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("title, or; name|", "image", "caption")])
    csv.writer(text, delimiter=delimiter).writerows(("t", *row) for row in ROWS)
    front = f"sep={delimiter}\r\n" if front == "sep" and delimiter != "\t" else front.replace("sep", "")
    (tmp_path / "t.csv").write_text(front + text.getvalue(), encoding=encoding, newline="")
    assert keyed(tmp_path / "t.csv") == [(name[0], (caption,)) for name, caption in ROWS]


def test_utf_16_is_named(tmp_path):
    for name in ("t.csv", "t.txt", "t.tsv"):
        (tmp_path / name).write_text("image\tcaption\na.jpg\tx\n", encoding="utf-16")
        with pytest.raises(UsageError, match="UTF-16"):
            read(tmp_path / name)


def test_two_columns_of_one_name_are_kept_apart_or_refused(tmp_path):
    images(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_text("label,image,caption,label,label\nx,a.jpg,c,y,z\n")
    pairs, _ = read(tmp_path / "t.csv")
    assert pairs[0].fields == {"label": "x", "label.1": "y", "label.2": "z"}  # pandas' names
    (tmp_path / "t.csv").write_text("image,caption,caption\na.jpg,c,d\n")
    with pytest.raises(UsageError, match="one name"):
        read(tmp_path / "t.csv")


def test_compressed_tables_are_read_and_damaged_ones_refused(tmp_path):
    images(tmp_path, "a.jpg")
    packed = gzip.compress(b"image,caption\n" + b"a.jpg,x\n" * 3000)
    (tmp_path / "t.csv.gz").write_bytes(packed)
    assert total(tmp_path / "t.csv.gz") == (3000, 0)
    (tmp_path / "t.csv.gz").write_bytes(packed[:-9])
    with pytest.raises(IntegrityError, match="compressed"):
        read(tmp_path / "t.csv.gz")


def test_json_lines_and_lists_are_tables(tmp_path):
    images(tmp_path, "a.jpg", "b.jpg")
    rows = [
        {"image": "a.jpg", "caption": ["one", "two"], "id": 7, "score": 0.5, "tags": ["t"]},
        {"image": "b.jpg", "caption": "three", "label": "\ud800"},
        {"image": "a.jpg", "caption": "four"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n[1]\n{bad\n")
    (tmp_path / "t.json").write_text(json.dumps([*rows, [1]]), encoding="utf-8-sig")
    expected = [
        Pair("7", make_image(0), ("one", "two", "four"), {"score": 0.5}),
        Pair("b", make_image(1), ("three",), {"label": "\\ud800"}),
    ]
    for name, bad in (("t.jsonl", 2), ("t.json", 1)):
        assert read(tmp_path / name) == (expected, {"bad_row": bad}), name
    (tmp_path / "t.jsonl").write_text('{"image": "a.jpg"}\n')
    with pytest.raises(UsageError, match="image"):
        read(tmp_path / "t.jsonl")
    (tmp_path / "t.json").write_text('{"title": "no table"}')
    with pytest.raises(UsageError, match="no table"):
        read(tmp_path / "t.json")


@pytest.mark.parametrize("folder", ["val2017", "annotations/val2017", "annotations"])
def test_coco_captions_are_read_with_images_in_or_beside_their_folder(tmp_path, folder):
    images(tmp_path / folder, "139.jpg", "285.jpg", "632.jpg")
    (tmp_path / "annotations").mkdir(exist_ok=True)
    named = [
        {"id": number, "file_name": name} for number, name in enumerate(("139.jpg", "285.jpg", "632.jpg"))
    ]
    captions = ((1, "a bear"), (0, "a room"), (1, " a big bear "))
    notes = [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(captions)]
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps({"info": {}, "images": named, "annotations": notes}))
    expected = [
        Pair("139", make_image(0), ("a room",)), Pair("285", make_image(1), ("a bear", "a big bear"))
    ]  # fmt: skip
    assert read(path) == (expected, {"missing_caption": 1})
    assert len(list(open_source(path, need=Need.IMAGE).pairs(Counts()))) == 3


def test_columns_of_other_names_choose_the_delimiter(tmp_path):
    images(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_text("file;title, short, of it\na.jpg;x, y, z\n")
    columns = Columns(image="file", caption="title, short, of it")
    assert keyed(tmp_path / "t.csv", columns) == [("a", ("x, y, z",))]


def test_the_real_captions_of_coco_val2017_are_all_there(shared_data):
    source = open_source(shared_data / "text" / "captions_val2017.json", need=Need.CAPTION)
    counts = Counts()
    captions = [len(pair.captions) for pair in source.pairs(counts)]
    assert (len(captions), sum(captions), dict(counts.dropped)) == (5000, 25_014, {})
