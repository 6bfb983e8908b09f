import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.evaluate.conftest import GREEN, RED, solid

from diptych.core.errors import BadSampleError, DataError, IntegrityError, MissingPackageError
from diptych.evaluate.prompts.sets import prompt_set
from diptych.evaluate.tasks.readers import Example, image_bytes, middle_frame
from diptych.evaluate.tasks.readers.arrays import CifarReader, IdxReader, StlReader, read_batch
from diptych.evaluate.tasks.readers.originals import ClevrReader, read_mat
from diptych.evaluate.tasks.readers.tables import ListReader, ParquetReader, TableReader
from diptych.evaluate.tasks.registry import open_task

RED_CELL = {"bytes": solid(RED), "path": None}


def write_parquet(path: Path, columns: Mapping[str, list[object]], classes: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    if classes is not None:
        features = {"img": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def test_parquet_of_hugging_face_is_read_with_its_class_names(tmp_path: Path) -> None:
    images = [RED_CELL, {"bytes": None, "path": "b.png"}, {"bytes": None, "path": None}]
    classes = ["truck", "cat"]
    columns = {"img": images, "label": [0, 1, 1], "region": ["EU", "AF", None]}
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", columns, classes)
    write_parquet(tmp_path / "data/train-0.parquet", {"img": images[:1], "label": [0]}, classes)
    (tmp_path / "data" / "b.png").write_bytes(solid(GREEN))
    reader = ParquetReader()
    assert reader.class_names(tmp_path, "test") == ("truck", "cat")
    first, second, third = reader.examples(tmp_path, "test")
    assert image_bytes(first.image) == solid(RED) and image_bytes(second.image) == solid(GREEN)
    assert third.image == b"" and (first.labels, third.labels) == ((0,), (1,))
    assert second.fields["region"] == "AF"


def test_splits_and_labels_of_copies(tmp_path: Path) -> None:
    """Copies say validation for val, and have their own order of classes, several labels or hidden ones."""
    names = list(reversed(prompt_set("cifar10").keys))
    write_parquet(tmp_path / "cifar10/plain_text/test-0.parquet", {"img": [RED_CELL], "label": [0]}, names)
    task = open_task("cifar10", tmp_path / "cifar10")
    assert [task.class_names[item.labels[0]] for item in task.items()] == ["truck"]
    for name, path, column, labels in (
        ("imagenet", "data/validation-0.parquet", "label", 7),
        ("voc2007", "test.parquet", "labels", [14, 3]),
        ("food101", "test.parquet", "label", -1),
    ):
        write_parquet(tmp_path / name / path, {"image": [RED_CELL], column: [labels]})
    assert [item.labels for item in open_task("imagenet", tmp_path / "imagenet").items()] == [(7,)]
    assert [item.labels for item in open_task("voc2007", tmp_path / "voc2007").items()] == [(14, 3)]
    with pytest.raises(DataError, match="use a split with published labels"):
        list(open_task("food101", tmp_path / "food101").items())


LIST = ListReader("t.txt", r"(?P<image>\S+) (?P<label>\S+)", "{image}")


@pytest.mark.parametrize(
    ("reader", "content", "error", "message"),
    [
        (LIST, b"a.jpg cat\nnonsense\n", IntegrityError, "line 2: 'nonsense'"),
        (LIST, b"\xff\xfe", IntegrityError, "not UTF-8"),
        (LIST, b"../../secret cat\n", BadSampleError, "unsafe_path"),
        (TableReader("t.txt", "label", "{image}"), b"image,label\na.jpg,1,2\n", IntegrityError, "line 2"),
    ],
)
def test_a_list_or_table_that_does_not_fit_is_refused(
    reader: ListReader | TableReader, content: bytes, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        list(reader.examples(tmp_path, "test"))


def test_further_columns_become_fields(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("file\tlabel\tgender\nx/a.jpg\tcat\tf\n")
    fields = {"file": "x/a.jpg", "gender": "f"}
    examples = list(TableReader("t.tsv", "label", "{file}").examples(tmp_path, "test"))
    assert examples == [Example("x/a.jpg", tmp_path / "x/a.jpg", ("cat",), fields=fields)]


def test_cifar_as_binary_has_the_fine_label_second(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    for classes, name, before in (
        (10, "cifar-10-batches-bin/test_batch.bin", ([3], [8])),
        (100, "cifar-100-binary/test.bin", ([3, 77], [8, 0])),
    ):
        path = tmp_path / str(classes) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join(bytes(labels) + values.tobytes() for labels in before))
        examples = list(CifarReader(classes).examples(tmp_path / str(classes), "test"))
        assert [e.labels for e in examples] == [(labels[-1],) for labels in before]
        pixels = np.asarray(Image.open(io.BytesIO(bytes(examples[1].image))))
        assert np.array_equal(pixels, values.transpose(1, 2, 0))


def test_stl_is_stored_column_by_column(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    (tmp_path / "test_X.bin").write_bytes(values.tobytes())
    (tmp_path / "test_y.bin").write_bytes(b"\x02")
    (example,) = StlReader().examples(tmp_path, "test")
    pixels = np.asarray(Image.open(io.BytesIO(bytes(example.image))))
    assert example.labels == (1,) and np.array_equal(pixels, values.transpose(2, 1, 0))


@pytest.mark.parametrize("code", [
    b"cos\nsystem\n(U\x04trueltR.", b"\x80\x02}(U\x04datacnumpy\ndtype\n(U\x02O8K\x00K\x01tRu.",
    b"\x80\x02]q\x01.", b"\x80\x02}(U\x04data", b"",
])  # fmt: skip
def test_a_pickle_that_does_more_than_hold_arrays_is_refused(tmp_path: Path, code: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(code)
    with pytest.raises(IntegrityError):
        read_batch(tmp_path / "test_batch")


IDX = struct.pack(">4I", 0x803, 1, 2, 2) + b"1234"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        *((images, b"\x07", "damaged") for images in (IDX[:-1], IDX + b"x", b"\0\0\x08\x01" + IDX[4:], b"")),
        (IDX, b"\x07\x08", "1 images and 2 labels"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, images: bytes, labels: bytes, message: str) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(labels)) + labels)
    with pytest.raises(IntegrityError, match=message):
        list(IdxReader().examples(tmp_path, "t10k"))


@pytest.mark.parametrize("packed", [True, False])
def test_matlab_files_are_read_as_scipy_writes_them(tmp_path: Path, packed: bool) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(1)
    kinds = [("u1", (1, 3)), ("i2", (4, 5)), ("<i4", (2, 3)), ("f4", (7, 1)), ("f8", (3, 3)), ("u2", (1, 1))]
    numbers = {f"v{kind[-2:]}": rng.integers(0, 100, shape).astype(kind) for kind, shape in kinds}
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = "abbey", np.array([[1.5, 2.5]])
    values = {**numbers, "text": "größe", "cells": cells}
    scipy_io.savemat(tmp_path / "a.mat", values, do_compression=packed)
    variables = read_mat(tmp_path / "a.mat")
    for name, value in numbers.items():
        assert np.array_equal(variables[name], value), name
    assert variables["text"] == "größe" and variables["cells"][0] == "abbey"
    assert np.array_equal(variables["cells"][1], [[1.5, 2.5]])


def test_a_damaged_matlab_file_is_refused_or_read_never_worse(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    path, values = tmp_path / "a.mat", {"labels": np.arange(50), "name": "x"}
    scipy_io.savemat(path, values, do_compression=True)
    whole = path.read_bytes()
    second = 128 + 8 + struct.unpack_from("<I", whole, 132)[0]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if cut in (128, second):  # between two variables nothing tells that more should follow
            assert len(read_mat(path)) == (cut == second)
            continue
        with pytest.raises(IntegrityError):
            read_mat(path)
    scipy_io.savemat(path, values)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for position in rng.integers(128, len(whole), 300):
        changed = bytearray(whole)
        changed[position] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(changed))
        try:
            read_mat(path)
        except IntegrityError:
            continue


def test_a_portable_pixmap_becomes_a_png() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    image = Image.open(io.BytesIO(image_bytes(b"P6\n3 2\n255\n" + pixels.tobytes())))
    assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels)
    assert image_bytes(b"P6\n3 2\n255\nshort") == b"P6\n3 2\n255\nshort"  # the decoder refuses it


def test_videos_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(MissingPackageError, match=r"diptych\[video\]"):
        patch.setitem(__import__("sys").modules, "av", None)
        middle_frame(tmp_path / "a.avi")
    pytest.importorskip("av")
    (tmp_path / "a.avi").write_bytes(b"no video")
    for name in ("a.avi", "gone.avi"):
        with pytest.raises(BadSampleError):
            middle_frame(tmp_path / name)


@pytest.mark.parametrize("text", ["{", "[]", '{"scenes": [{}]}', '{"scenes": 3}', "{}"])
def test_damaged_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "CLEVR_v1.0/scenes/CLEVR_val_scenes.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(IntegrityError):
        list(ClevrReader().examples(tmp_path, "val"))
