"""What a sample must have is said by whoever opens the source; keys tell files apart."""

from pathlib import Path

import pytest
from tests.data.source_files import images, keyed, make_image, read, write_parquet, write_tar

from diptych.core.errors import Reason, UnknownNameError
from diptych.core.records import Need
from diptych.data.sources.open import Columns

pytest.importorskip("pyarrow")


def test_images_that_differ_by_their_suffix_only_are_several_samples(tmp_path):
    images(tmp_path, "a.jpg", "a.png", "a.jpg.png", "A.JPG", "b.jpg", "c/b.jpg", "c/d.jpg")
    pairs, dropped = read(tmp_path, need=Need.IMAGE)
    assert {pair.key: Path(pair.path).name for pair in pairs} == {
        "A": "A.JPG", "a.jpg": "a.jpg", "a.jpg.png": "a.jpg.png", "a.png": "a.png", "b": "b.jpg",
        "c/b": "b.jpg", "d": "d.jpg",
    }  # fmt: skip
    assert dropped == {}
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,one\na.png,two\na.jpg,three\nc/b.jpg,four\n")
    expected = [("a.jpg", ("one", "three")), ("a.png", ("two",)), ("b", ("four",))]
    assert keyed(tmp_path / "t.csv") == expected
    assert all(Path(pair.path).read_bytes() == pair.image for pair in read(tmp_path / "t.csv")[0])


def test_images_of_one_name_in_a_tar_are_several_samples_unless_they_share_a_caption(tmp_path):
    names = ("a.jpg", "a.png", "b.jpg", "c.jpg", "c.png", "c.txt", "b.png")
    path = write_tar(tmp_path / "x.tar", [(name, make_image(n)) for n, name in enumerate(names)])
    pairs, dropped = read(path, need=Need.IMAGE)
    images_by_key = {"a.jpg": 0, "a.png": 1, "b": 2, "c": 3, "b.png": 6}
    assert [pair.key for pair in pairs] == list(images_by_key) and dropped == {}
    assert all(pair.image == make_image(images_by_key[pair.key]) for pair in pairs)


def test_rows_of_parquet_keep_their_keys_apart_whatever_their_files_are_called(tmp_path):
    names = ["x/00000002.jpg", "x/a.jpg", "y/a.jpg", "z/00000002.jpg", "z/a.jpg"]
    images(tmp_path, *names)
    structs = [{"bytes": (tmp_path / name).read_bytes(), "path": name} for name in names]
    for number, cells in enumerate((names, structs)):
        path = write_parquet(tmp_path / f"{number}.parquet", image=cells)
        pairs, dropped = read(path, need=Need.IMAGE)
        assert dropped == {} and len({pair.key for pair in pairs}) == 5
        assert [pair.key for pair in pairs[:2]] == ["00000002", "a"]
        paths = {str(path)} if number else {str(tmp_path / name) for name in names}
        assert {pair.path for pair in pairs} == paths


def test_where_an_image_is_enough_captions_may_be_missing_or_broken(tmp_path):
    images(tmp_path / "f", "cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "4.jpg", "._4.jpg")
    (tmp_path / "f/cat/2.txt").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "f/4.json").write_text('{"label": "bird"}')
    pairs, dropped = read(tmp_path / "f", need=Need.IMAGE)
    assert dropped == {} and [pair.captions for pair in pairs] == [()] * 4
    labels = {pair.key: pair.fields.get("label") for pair in pairs}
    assert labels == {"1": "cat", "2": "cat", "3": "dog", "4": "bird"}
    (tmp_path / "t.csv").write_text("image,label\nf/4.jpg,bird\nf/cat/1.jpg,cat\nno.jpg,cat\n")
    pairs, dropped = read(tmp_path / "t.csv", need=Need.IMAGE)
    assert [(pair.key, pair.fields) for pair in pairs] == [("4", {"label": "bird"}), ("1", {"label": "cat"})]
    assert dropped == {"missing_image": 1}
    path = write_parquet(tmp_path / "t.parquet", image=[make_image()], label=["x"])
    pairs, dropped = read(path, need=Need.IMAGE)
    assert [(pair.captions, pair.fields) for pair in pairs] == [((), {"label": "x"})] and dropped == {}
    members = [("k.jpg", make_image(1)), ("l.jpg", make_image(2)), ("l.txt", b"\xff\xfe\xfd")]
    pairs, dropped = read(write_tar(tmp_path / "x.tar", members), need=Need.IMAGE)
    expected = [(key, (), str(tmp_path / "x.tar")) for key in "kl"]
    assert [(pair.key, pair.captions, pair.path) for pair in pairs] == expected and dropped == {}


def test_training_counts_what_has_no_caption(tmp_path):
    images(tmp_path, "f/1.jpg", "f/2.jpg", "f/3.jpg")
    (tmp_path / "f/2.txt").write_text("two")
    names = ("1.jpg", "2.jpg", "2.txt", "3.jpg")
    write_tar(tmp_path / "x.tar", [(name, (tmp_path / "f" / name).read_bytes()) for name in names])
    for source in ("f", "x.tar"):
        pairs, dropped = read(tmp_path / source)
        assert [pair.key for pair in pairs] == ["2"] and dropped == {"missing_caption": 2}
    (tmp_path / "t.csv").write_text("image,label\nf/1.jpg,a\n")
    with pytest.raises(UnknownNameError, match="'caption'"):
        read(tmp_path / "t.csv")
    with pytest.raises(UnknownNameError, match="'lable'"):  # a column that was asked for by name
        read(tmp_path / "t.csv", Columns(caption="lable"), need=Need.IMAGE)


def test_where_nothing_is_needed_a_labelled_row_stays_whatever_its_image_is(tmp_path):
    images(tmp_path, "1.jpg", "f/1.jpg")
    (tmp_path / "folder.jpg").mkdir()
    missing, remote, unsafe = Reason.MISSING_IMAGE, Reason.REMOTE_IMAGE, Reason.UNSAFE_PATH
    faults = {
        "1.jpg,a": None, "gone.jpg,b": missing, "https://example.org/x.jpg,c": remote, "../up.jpg,d": unsafe,
        ",e": missing, ",f": missing, "\0.jpg,g": unsafe, "folder.jpg,h": missing,
    }  # fmt: skip
    (tmp_path / "t.csv").write_text("image,label\n" + "\n".join([*faults, "1.jpg"]))
    pairs, dropped = read(tmp_path / "t.csv", need=Need.NOTHING)
    assert [(f"{pair.fields['label']}", pair.fault, pair.image == b"") for pair in pairs] == [
        (row[-1], fault, fault is not None) for row, fault in faults.items()
    ]
    assert dropped == {"bad_row": 1} and len({pair.key for pair in pairs}) == 8
    path = write_parquet(tmp_path / "t.parquet", image=["1.jpg", "gone.jpg", None], label=["a", "b", "c"])
    pairs, dropped = read(path, need=Need.NOTHING)
    assert [(pair.fields["label"], pair.fault) for pair in pairs] == [
        ("a", None), ("b", missing), ("c", missing)
    ]  # fmt: skip
    (tmp_path / "f/2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    pairs, dropped = read(tmp_path / "f", need=Need.NOTHING)
    assert [(pair.key, pair.fault) for pair in pairs] == [("1", None), ("2", missing)]
