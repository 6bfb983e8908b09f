"""What a sample must have is said by whoever opens the source; keys tell files apart."""

import tarfile
from pathlib import Path

import pytest
from tests.data.source_files import images, make_image, read

from diptych.core.errors import Reason, UnknownNameError
from diptych.core.records import Need
from diptych.data.sources.open import Columns

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_images_that_differ_by_their_suffix_only_are_several_samples(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "a.png", "a.jpg.png", "A.JPG", "b.jpg", "c/b.jpg", "c/d.jpg")
    pairs, dropped = read(tmp_path, need=Need.IMAGE)
    assert {pair.key: Path(pair.path).name for pair in pairs} == {
        "A": "A.JPG", "a.jpg": "a.jpg", "a.jpg.png": "a.jpg.png", "a.png": "a.png", "b": "b.jpg",
        "c/b": "b.jpg", "d": "d.jpg",
    }  # fmt: skip
    assert dropped == {}
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,one\na.png,two\na.jpg,three\nc/b.jpg,four\n")
    pairs, dropped = read(tmp_path / "t.csv")
    assert [(pair.key, pair.captions) for pair in pairs] == [
        ("a.jpg", ("one", "three")), ("a.png", ("two",)), ("b", ("four",)),
    ]  # fmt: skip
    assert dropped == {} and all(Path(pair.path).read_bytes() == pair.image for pair in pairs)


def test_images_of_one_name_in_a_tar_are_several_samples_unless_they_share_a_caption(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "a.png", "b.jpg", "b.png", "c.jpg", "c.png")
    (tmp_path / "c.txt").write_text("a mask and its photo")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a.jpg", "a.png", "b.jpg", "c.jpg", "c.png", "c.txt", "b.png"):
            archive.add(tmp_path / name, name)
    pairs, dropped = read(tmp_path / "x.tar", need=Need.IMAGE)
    files = {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "b": "b.jpg",
        "c": "c.jpg",
        "b.png": "b.png",
    }
    assert [pair.key for pair in pairs] == list(files) and dropped == {}
    assert all(pair.image == (tmp_path / files[pair.key]).read_bytes() for pair in pairs)


def test_rows_of_parquet_keep_their_keys_apart_whatever_their_files_are_called(tmp_path: Path) -> None:
    names = ["x/00000002.jpg", "x/a.jpg", "y/a.jpg", "z/00000002.jpg", "z/a.jpg"]
    images(tmp_path, *names)
    structs = [{"bytes": (tmp_path / name).read_bytes(), "path": name} for name in names]
    for number, cells in enumerate((names, structs)):
        pq.write_table(pa.table({"image": cells}), tmp_path / f"{number}.parquet")
        pairs, dropped = read(tmp_path / f"{number}.parquet", need=Need.IMAGE)
        assert dropped == {} and len({pair.key for pair in pairs}) == 5
        assert [pair.key for pair in pairs[:2]] == ["00000002", "a"]
        assert {pair.path for pair in pairs} == (
            {str(tmp_path / "1.parquet")} if number else {str(tmp_path / name) for name in names}
        )


def test_where_an_image_is_enough_captions_may_be_missing_or_broken(tmp_path: Path) -> None:
    images(tmp_path / "f", "cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "4.jpg", "._4.jpg")
    (tmp_path / "f/cat/2.txt").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "f/4.json").write_text('{"label": "bird"}')
    pairs, dropped = read(tmp_path / "f", need=Need.IMAGE)
    assert dropped == {} and [pair.captions for pair in pairs] == [()] * 4
    assert {pair.key: pair.fields.get("label") for pair in pairs} == {
        "1": "cat", "2": "cat", "3": "dog", "4": "bird",
    }  # fmt: skip
    (tmp_path / "t.csv").write_text("image,label\nf/4.jpg,bird\nf/cat/1.jpg,cat\nno.jpg,cat\n")
    pairs, dropped = read(tmp_path / "t.csv", need=Need.IMAGE)
    assert [(pair.key, pair.fields) for pair in pairs] == [("4", {"label": "bird"}), ("1", {"label": "cat"})]
    assert dropped == {"missing_image": 1}
    pq.write_table(pa.table({"image": [make_image()], "label": ["x"]}), tmp_path / "t.parquet")
    pairs, dropped = read(tmp_path / "t.parquet", need=Need.IMAGE)
    assert [(pair.captions, pair.fields) for pair in pairs] == [((), {"label": "x"})] and dropped == {}
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "f/cat/1.jpg", "k.jpg")
        archive.add(tmp_path / "f/dog/3.jpg", "l.jpg")
        archive.add(tmp_path / "f/cat/2.txt", "l.txt")
    pairs, dropped = read(tmp_path / "x.tar", need=Need.IMAGE)
    assert [(pair.key, pair.captions, pair.path) for pair in pairs] == [
        (key, (), str(tmp_path / "x.tar")) for key in "kl"
    ]
    assert dropped == {}


def test_training_counts_what_has_no_caption(tmp_path: Path) -> None:
    images(tmp_path, "f/1.jpg", "f/2.jpg", "f/3.jpg")
    (tmp_path / "f/2.txt").write_text("two")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("1.jpg", "2.jpg", "2.txt", "3.jpg"):
            archive.add(tmp_path / "f" / name, name)
    for source in ("f", "x.tar"):
        pairs, dropped = read(tmp_path / source)
        assert [pair.key for pair in pairs] == ["2"] and dropped == {"missing_caption": 2}
    (tmp_path / "t.csv").write_text("image,label\nf/1.jpg,a\n")
    with pytest.raises(UnknownNameError, match="'caption'"):
        read(tmp_path / "t.csv")
    with pytest.raises(UnknownNameError, match="'lable'"):  # a column that was asked for by name
        read(tmp_path / "t.csv", Columns(caption="lable"), need=Need.IMAGE)


def test_where_nothing_is_needed_a_labelled_row_stays_whatever_its_image_is(tmp_path: Path) -> None:
    images(tmp_path, "1.jpg")
    (tmp_path / "folder.jpg").mkdir()
    rows = [
        "1.jpg,a",
        "gone.jpg,b",
        "https://example.org/x.jpg,c",
        "../up.jpg,d",
        ",e",
        ",f",
        "1.jpg",
        "\0.jpg,g",
        "folder.jpg,h",
    ]
    (tmp_path / "t.csv").write_text("image,label\n" + "\n".join(rows))
    pairs, dropped = read(tmp_path / "t.csv", need=Need.NOTHING)
    assert [(pair.fields["label"], pair.fault, bool(pair.image)) for pair in pairs] == [
        ("a", None, True),
        ("b", Reason.MISSING_IMAGE, False),
        ("c", Reason.REMOTE_IMAGE, False),
        ("d", Reason.UNSAFE_PATH, False),
        ("e", Reason.MISSING_IMAGE, False),
        ("f", Reason.MISSING_IMAGE, False),
        ("g", Reason.UNSAFE_PATH, False),
        ("h", Reason.MISSING_IMAGE, False),
    ]
    assert dropped == {"bad_row": 1} and len({pair.key for pair in pairs}) == 8
    table = pa.table({"image": ["1.jpg", "gone.jpg", None], "label": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "t.parquet")
    pairs, dropped = read(tmp_path / "t.parquet", need=Need.NOTHING)
    assert [(pair.fields["label"], pair.fault) for pair in pairs] == [
        ("a", None), ("b", Reason.MISSING_IMAGE), ("c", Reason.MISSING_IMAGE),
    ]  # fmt: skip
    images(tmp_path, "f/1.jpg")
    (tmp_path / "f/2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    pairs, dropped = read(tmp_path / "f", need=Need.NOTHING)
    assert [(pair.key, pair.fault) for pair in pairs] == [("1", None), ("2", Reason.MISSING_IMAGE)]
