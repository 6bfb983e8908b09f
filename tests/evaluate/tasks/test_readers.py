import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image
from tests.evaluate.conftest import GREEN, RED, solid

from diptych.core.errors import BadSampleError, DataError, IntegrityError, MissingPackageError
from diptych.evaluate.prompts.sets import prompt_set
from diptych.evaluate.tasks.readers import Example, annotations_json, image_bytes, middle_frame, text_lines
from diptych.evaluate.tasks.readers.arrays import CifarReader, IdxReader, StlReader, read_batch
from diptych.evaluate.tasks.readers.originals import ClevrReader, read_mat
from diptych.evaluate.tasks.readers.tables import ListReader, ParquetReader, TableReader
from diptych.evaluate.tasks.registry import open_task

# --- Parquet --------------------------------------------------------------------------------------


def write_parquet(path: Path, columns: Mapping[str, list[object]], features: object = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    if features is not None:
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path)


def test_parquet_of_hugging_face_is_read_with_its_class_names(tmp_path: Path) -> None:
    features = {"img": {"_type": "Image"}, "label": {"names": ["truck", "cat"], "_type": "ClassLabel"}}
    images = [
        {"bytes": solid(RED), "path": None},
        {"bytes": None, "path": "b.png"},
        {"bytes": None, "path": None},
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.png").write_bytes(solid(GREEN))
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet",
                  {"img": images, "label": [0, 1, 1], "region": ["EU", "AF", None]}, features)  # fmt: skip
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", {"img": images[:1], "label": [0]}, features)
    reader = ParquetReader()
    assert reader.class_names(tmp_path, "test") == ("truck", "cat")
    first, second, third = reader.examples(tmp_path, "test")
    assert image_bytes(first.image) == solid(RED) and image_bytes(second.image) == solid(GREEN)
    assert third.image == b"" and (first.labels, third.labels) == ((0,), (1,))
    assert second.fields["region"] == "AF"


def test_the_classes_of_parquet_are_brought_to_our_order(tmp_path: Path) -> None:

    names = list(reversed(prompt_set("cifar10").keys))
    features = {"img": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    image = [{"bytes": solid(RED), "path": None}]
    write_parquet(tmp_path / "plain_text/test-0.parquet", {"img": image, "label": [0]}, features)
    task = open_task("cifar10", tmp_path)
    assert [task.class_names[item.labels[0]] for item in task.items()] == ["truck"]


def test_the_validation_split_of_a_copy_is_found(tmp_path: Path) -> None:
    image = [{"bytes": solid(RED), "path": None}]
    write_parquet(tmp_path / "data/validation-0.parquet", {"image": image, "label": [7]})
    assert [item.labels for item in open_task("imagenet", tmp_path).items()] == [(7,)]


def test_several_labels_and_hidden_ones(tmp_path: Path) -> None:
    image = [{"bytes": solid(RED), "path": None}]
    write_parquet(tmp_path / "test.parquet", {"image": image, "labels": [[14, 3]]})
    assert [item.labels for item in open_task("voc2007", tmp_path).items()] == [(14, 3)]
    write_parquet(tmp_path / "food" / "test.parquet", {"image": image, "label": [-1]})
    with pytest.raises(DataError, match="use a split with published labels"):
        list(open_task("food101", tmp_path / "food").items())


# --- lists and tables -----------------------------------------------------------------------------


def test_a_list_or_table_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg cat\nnonsense\n")
    reader = ListReader("list.txt", r"(?P<image>\S+) (?P<label>\S+)", "{image}")
    with pytest.raises(IntegrityError, match="line 2: 'nonsense'"):
        list(reader.examples(tmp_path, "test"))
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(IntegrityError, match="not UTF-8"):
        text_lines(tmp_path / "list.txt")
    (tmp_path / "t.csv").write_text("image,label\na.jpg,1,2\n")
    with pytest.raises(IntegrityError, match="line 2"):
        list(TableReader("t.csv", "label", "{image}").examples(tmp_path, "test"))


def test_further_columns_become_fields(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("file\tlabel\tgender\nx/a.jpg\tcat\tf\n")
    table = TableReader("t.tsv", "label", "{file}")
    assert list(table.examples(tmp_path, "test")) == [
        Example("x/a.jpg", tmp_path / "x/a.jpg", ("cat",), fields={"file": "x/a.jpg", "gender": "f"})
    ]


def test_a_path_that_leaves_the_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("../../secret cat\n")
    reader = ListReader("list.txt", r"(?P<image>\S+) (?P<label>\S+)", "{image}")
    with pytest.raises(BadSampleError, match="unsafe_path"):
        list(reader.examples(tmp_path, "test"))


# --- arrays ---------------------------------------------------------------------------------------


def cifar_binary(path: Path, before: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(bytes(labels) + bytes([10 * n] * 3072) for n, labels in enumerate(before)))


def test_cifar_as_binary_has_the_fine_label_second(tmp_path: Path) -> None:
    cifar_binary(tmp_path / "ten/cifar-10-batches-bin/test_batch.bin", [[3], [8]])
    cifar_binary(tmp_path / "hundred/cifar-100-binary/test.bin", [[3, 77], [8, 0]])
    ten = list(CifarReader(10).examples(tmp_path / "ten", "test"))
    hundred = list(CifarReader(100).examples(tmp_path / "hundred", "test"))
    assert [e.labels for e in ten] == [(3,), (8,)] and [e.labels for e in hundred] == [(77,), (0,)]
    assert Image.open(io.BytesIO(bytes(ten[1].image))).getpixel((5, 5)) == (10, 10, 10)


def test_colors_and_rows_of_cifar_are_in_their_places(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    path.parent.mkdir()
    path.write_bytes(b"\x05" + values.tobytes())
    (example,) = CifarReader(10).examples(tmp_path, "test")
    pixels = np.asarray(Image.open(io.BytesIO(bytes(example.image))))
    assert all(pixels[y, x, c] == values[c, y, x] for y, x, c in ((0, 31, 0), (31, 0, 1), (7, 9, 2)))


def test_stl_is_stored_column_by_column(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    (tmp_path / "test_X.bin").write_bytes(values.tobytes())
    (tmp_path / "test_y.bin").write_bytes(b"\x02")
    (example,) = StlReader().examples(tmp_path, "test")
    pixels = np.asarray(Image.open(io.BytesIO(bytes(example.image))))
    assert example.labels == (1,) and all(
        pixels[y, x, c] == values[c, x, y] for y, x, c in ((0, 95, 0), (40, 3, 2))
    )


@pytest.mark.parametrize("code", [
    b"cos\nsystem\n(U\x04trueltR.", b"\x80\x02}(U\x04datacnumpy\ndtype\n(U\x02O8K\x00K\x01tRu.",
    b"\x80\x02]q\x01.", b"\x80\x02}(U\x04data", b"",
])  # fmt: skip
def test_a_pickle_that_does_more_than_hold_arrays_is_refused(tmp_path: Path, code: bytes) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(code)
    with pytest.raises(IntegrityError):
        read_batch(path)


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"\0\0\x08\x01" + d[4:], lambda d: b""]
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, damage: object) -> None:
    whole = struct.pack(">4I", 0x803, 1, 2, 2) + b"1234"
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(damage(whole))  # type: ignore[operator]
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 1) + b"\x07")
    with pytest.raises(IntegrityError):
        list(IdxReader().examples(tmp_path, "t10k"))


def test_labels_and_images_must_be_as_many(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 1, 2, 2) + b"1234")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 2) + b"\x07\x08")
    with pytest.raises(IntegrityError, match="1 images and 2 labels"):
        list(IdxReader().examples(tmp_path, "train"))


# --- MATLAB ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_matlab_files_are_read_as_scipy_writes_them(tmp_path: Path, packed: bool) -> None:
    rng = np.random.default_rng(1)
    numbers = {
        f"v{position}": rng.integers(0, 100, shape).astype(kind)
        for position, (kind, shape) in enumerate(
            [("u1", (1, 3)), ("i2", (4, 5)), ("<i4", (2, 3)), ("f4", (7, 1)), ("f8", (3, 3)), ("u2", (1, 1))]
        )
    }
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = "abbey", np.array([[1.5, 2.5]])
    scipy.io.savemat(tmp_path / "a.mat", {**numbers, "text": "größe", "cells": cells}, do_compression=packed)
    variables = read_mat(tmp_path / "a.mat")
    for name, value in numbers.items():
        assert np.array_equal(variables[name], value), name
    assert variables["text"] == "größe" and variables["cells"][0] == "abbey"
    assert np.array_equal(variables["cells"][1], [[1.5, 2.5]])


def test_a_damaged_matlab_file_is_refused_or_read_never_worse(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"labels": np.arange(50), "name": "x"}, do_compression=True)
    whole = (tmp_path / "a.mat").read_bytes()
    rng = np.random.default_rng(0)
    second = 128 + 8 + struct.unpack_from("<I", whole, 132)[0]
    for cut in range(len(whole)):
        (tmp_path / "cut.mat").write_bytes(whole[:cut])
        if cut in (128, second):  # between two variables nothing tells that more should follow
            assert len(read_mat(tmp_path / "cut.mat")) == (cut == second)
            continue
        with pytest.raises(IntegrityError):
            read_mat(tmp_path / "cut.mat")
    scipy.io.savemat(tmp_path / "b.mat", {"labels": np.arange(50), "name": "x"})
    whole = (tmp_path / "b.mat").read_bytes()
    for position in rng.integers(128, len(whole), 300):
        changed = bytearray(whole)
        changed[position] ^= int(rng.integers(1, 256))
        (tmp_path / "bad.mat").write_bytes(bytes(changed))
        try:
            read_mat(tmp_path / "bad.mat")
        except IntegrityError:
            continue


# --- images and the rest ------------------------------------------------------------------------


def test_a_portable_pixmap_becomes_a_png() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    image = Image.open(io.BytesIO(image_bytes(b"P6\n3 2\n255\n" + pixels.tobytes())))
    assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PPM")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image_bytes(file.getvalue())))), pixels)
    assert image_bytes(b"P6\n3 2\n255\nshort") == b"P6\n3 2\n255\nshort"  # the decoder refuses it


def test_a_video_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingPackageError, match=r"diptych\[video\]"):
        middle_frame(tmp_path / "a.avi")


def test_a_video_that_is_none_cannot_be_read(tmp_path: Path) -> None:
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
    if text in ("{", "[]"):
        with pytest.raises(IntegrityError):
            annotations_json(path)
