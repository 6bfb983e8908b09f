"""Every kind of source gives the same kind of pairs; bad rows are dropped and counted, never raised."""

import os

import pytest
from tests.data.source_files import images, keyed, make_image, read, write_parquet, write_tar

from diptych.core.errors import DataError, IntegrityError, UnknownNameError, UsageError
from diptych.core.records import Pair
from diptych.data.shards.writer import write_shards
from diptych.data.sources.open import Columns, open_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# --- folder of images


def test_a_folder_of_images_gives_captions_from_the_files_beside_them(tmp_path):
    images(tmp_path, "b.jpg", "a/x.JPEG", "a/y.png", ".hidden/z.jpg")
    (tmp_path / "b.txt").write_text("\ufefffirst line\n\n second line \n")
    (tmp_path / "a/x.json").write_text('{"caption": "x", "width": 3, "tags": ["t"], "none": null}')
    (tmp_path / "a/y.json").write_text('{"captions": ["y1", "", "y2"]}')
    (tmp_path / "notes.txt").write_text("no image of this name")
    assert read(tmp_path) == (
        [
            Pair("b", make_image(0), ("first line", "second line")),
            Pair("x", make_image(1), ("x",), {"label": "a", "width": 3, "none": None}),
            Pair("y", make_image(2), ("y1", "y2"), {"label": "a"}),
        ],
        {},
    )


def test_equal_names_in_several_folders_keep_their_folder_in_the_key(tmp_path):
    images(tmp_path, "a/1.jpg", "b/1.jpg", "b/1.png")
    for folder in "ab":
        (tmp_path / folder / "1.txt").write_text(folder)
    assert keyed(tmp_path) == [("a/1", ("a",)), ("b/1.jpg", ("b",)), ("b/1.png", ("b",))]


def test_bad_files_of_a_folder_are_counted_by_reason(tmp_path):
    images(tmp_path, *(f"{number}.jpg" for number in range(8)))
    beside = {
        "0.txt": b"good",
        "1.txt": b"\xff\xfe\xfd",
        "2.txt": b"  \n ",
        "3.txt": b"x" * 1_000_000,
        "4.json": b"{not json",
        "5.json": b'{"caption": 7}',
        "6.json": b"[" * 100_000,
    }
    for name, data in beside.items():
        (tmp_path / name).write_bytes(data)
    pairs, dropped = read(tmp_path)
    assert [pair.key for pair in pairs] == ["0"]
    assert dropped == {
        "bad_row": 2, "caption_not_text": 2, "caption_too_long": 1, "empty_caption": 1, "missing_caption": 1
    }  # fmt: skip


def test_pipes_and_dangling_links_neither_hang_nor_raise(tmp_path):
    images(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "d.jpg").symlink_to("/dev/zero")
    for stem in "abcd":
        (tmp_path / f"{stem}.txt").write_text(stem)
    pairs, dropped = read(tmp_path)
    assert [pair.key for pair in pairs] == ["a"] and dropped == {"missing_image": 3}
    inputs = [entry.name for entry in open_source(tmp_path).inputs()]
    assert inputs == ["a.jpg", "a.txt", "b.txt", "c.txt", "d.txt"]


# --- tables


def test_rows_that_share_an_image_become_one_pair(tmp_path):
    images(tmp_path, "i/1.jpg", "i/2.jpg")
    (tmp_path / "t.csv").write_text(
        'image,caption,label\ni/2.jpg,"two, quoted",b\ni/1.jpg,one,a\n\ni/2.jpg,"again\nover lines",c\n'
    )
    pairs = [
        Pair("2", make_image(1), ("two, quoted", "again\nover lines"), {"label": "b"}),
        Pair("1", make_image(0), ("one",), {"label": "a"}),
    ]
    assert read(tmp_path / "t.csv") == (pairs, {})


def test_tsv_other_columns_ids_and_absolute_paths(tmp_path):
    images(tmp_path, "elsewhere/1.jpg")
    path = tmp_path / "t" / "t.tsv"
    path.parent.mkdir()
    path.write_text(f"\ufeffid\tfile\ttitle\nk7\t{tmp_path / 'elsewhere' / '1.jpg'}\ta, b\n")
    pairs, _ = read(path, Columns(image="file", caption="title"))
    assert pairs == [Pair("k7", make_image(0), ("a, b",), {})]


def test_a_missing_column_names_the_columns_and_the_nearest(tmp_path):
    (tmp_path / "t.csv").write_text("filepath,captions\na.jpg,x\n")
    with pytest.raises(UnknownNameError, match=r"captions, filepath(.|\n)*did you mean 'captions'"):
        read(tmp_path / "t.csv", Columns(image="filepath"))
    with pytest.raises(UnknownNameError, match="'image'"):
        read(write_parquet(tmp_path / "t.parquet", photo=[b"x"], text=["x"]))


def test_bad_rows_of_a_table_are_counted_by_reason(tmp_path):
    images(tmp_path, "ok.jpg", "late.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(80 * 2**20)
    rows = [
        b"image,caption", b"ok.jpg,good", b"ok.jpg", b"ok.jpg,a,b", b"gone.jpg,x", b",x", b"ok.jpg,",
        b"ok.jpg,\xff\xfe", b"ok.jpg,NUL \0 inside", b"\0.jpg,x", b"\xff.jpg,x", b"../ok.jpg,x",
        b"a/../../etc/passwd,x", b"ok.jpg," + b"y" * 1_000_000, b"ok.jpg," + b"y" * 20_000, b"pipe.jpg,x",
        b"huge.jpg,x", b"http://example.com/a.jpg,x", b"n" * 5000 + b".jpg,x", b"late.jpg,last",
    ]  # fmt: skip
    (tmp_path / "t.csv").write_bytes(b"\r\n".join(rows))
    names = [entry.name for entry in open_source(tmp_path / "t.csv").inputs()]
    assert names == ["t.csv", "ok.jpg", "huge.jpg", "late.jpg"]
    pairs, dropped = read(tmp_path / "t.csv")
    assert [(pair.key, pair.captions) for pair in pairs] == [("ok", ("good",)), ("late", ("last",))]
    assert dropped == {
        "bad_row": 2, "caption_not_text": 2, "caption_too_long": 2, "empty_caption": 1, "missing_image": 4,
        "remote_image": 1, "too_many_bytes": 1, "unsafe_path": 4,
    }  # fmt: skip


def test_a_line_of_a_hundred_megabytes_is_one_bad_row(tmp_path):
    images(tmp_path, "next.jpg")
    (tmp_path / "t.csv").write_bytes(b"image,caption\nok.jpg," + b"z" * 100_000_000 + b"\nnext.jpg,after\n")
    pairs, dropped = read(tmp_path / "t.csv")
    assert [pair.key for pair in pairs] == ["next"] and dropped == {"caption_too_long": 1}


# --- Parquet


def test_parquet_with_bytes_structs_and_paths(tmp_path):
    images(tmp_path, "i/one.jpg", "i/two.jpg")
    plain = pa.table(
        {
            "id": [10, 11],
            "image": [make_image(1), make_image(2)],
            "caption": ["a", "b"],
            "label": pa.array(["x", "y"]).dictionary_encode(),
            "when": pa.array([0, 1], pa.timestamp("s")),
            "vector": [[1.0], [2.0]],
            "score": [0.5, None],
        }
    )
    pq.write_table(plain, tmp_path / "plain.parquet", row_group_size=1)
    pairs, _ = read(tmp_path / "plain.parquet")
    fields = {"label": "x", "when": "1970-01-01T00:00:00", "score": 0.5}
    assert pairs[0] == Pair("10", make_image(1), ("a",), fields)
    assert pairs[1].key == "11" and pairs[1].fields["score"] is None
    structs = [{"bytes": make_image(3), "path": "a/q.jpg"}, {"bytes": None, "path": "i/one.jpg"}]
    write_parquet(tmp_path / "hub.parquet", image=structs, caption=[["c1", "c2"], ["d"]])
    pairs, _ = read(tmp_path / "hub.parquet")
    assert pairs == [Pair("q", make_image(3), ("c1", "c2")), Pair("one", make_image(0), ("d",))]
    paths = ["i/one.jpg", "i/two.jpg", "i/one.jpg"]
    pairs, _ = read(write_parquet(tmp_path / "paths.parquet", image=paths, caption=["a", "b", "c"]))
    assert [pair.key for pair in pairs] == ["one", "two", "00000002"]
    inputs = {"plain": [], "hub": ["i/one.jpg"], "paths": ["i/one.jpg", "i/two.jpg"]}
    for name, files in inputs.items():
        entries = open_source(tmp_path / f"{name}.parquet").inputs()
        assert [entry.name for entry in entries] == [f"{name}.parquet", *files]


def test_bad_cells_of_parquet_are_counted_by_reason(tmp_path):
    good, path = make_image(1), tmp_path / "t.parquet"
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 4, 6, 6, 9, 20_009, 20_010)))
    data = pa.py_buffer(b"ok" + b"\xff\xfe" + b"hi" + b"" + b"a\0b" + b"z" * 20_000 + b"!")
    captions = pa.Array.from_buffers(pa.string(), 7, [None, offsets, data])
    cells = [good, good, None, good, good, good, good]
    pairs, dropped = read(write_parquet(path, id=list("abcdefg"), image=cells, caption=captions))
    assert [pair.key for pair in pairs] == ["a", "g"]
    assert dropped == {"caption_not_text": 2, "caption_too_long": 1, "empty_caption": 1, "missing_image": 1}
    pairs, dropped = read(
        write_parquet(path, id=["a", "a", None], image=[good] * 3, caption=["x", "y", None])
    )
    assert len(pairs) == 1 and dropped == {"duplicate_key": 1, "missing_caption": 1}
    assert read(write_parquet(path, image=[1, 2], caption=["x", "y"])) == ([], {"bad_row": 2})


def test_a_folder_of_parquet_files_is_one_source(tmp_path):
    for part in range(2):
        write_parquet(tmp_path / f"{part}.parquet", image=[make_image(part)], caption=[f"c{part}"])
    assert keyed(tmp_path) == [("00000000", ("c0",)), ("00000001", ("c1",))]


# --- tars, shards, scenes


def test_tars_and_our_own_shards_are_sources(tmp_path):
    pairs = [Pair(f"{number}", make_image(number), ("a", "b")) for number in range(4)]
    write_shards(pairs, tmp_path / "ours")
    assert read(tmp_path / "ours") == (pairs, {})
    write_tar(tmp_path / "x.tar", [("k.jpg", make_image()), ("k.txt", b"cap"), ("lone.jpg", b"x")])
    for ref in (tmp_path / "x.tar", f"{tmp_path}/{{x,x}}.tar"):
        actual, dropped = read(ref)
        assert actual[0] == Pair("k", make_image(), ("cap",))
        assert dropped["missing_caption"] >= 1
    path = tmp_path / "ours" / "00000.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    assert read(tmp_path / "ours") == (pairs[1:], {"damaged": 1})


def test_scenes_are_a_source_and_their_reference_is_checked():
    pairs, dropped = read("scenes:unseen?count=3&seed=5")
    assert len(pairs) == 3 and dropped == {}
    assert pairs == read("scenes:unseen?count=3&seed=5&size=64")[0]
    for wrong in ("scenes:nosuch", "scenes:train?cuont=3", "scenes:train?count=-1", "scenes:train?count=x"):
        with pytest.raises(UsageError):
            open_source(wrong)


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such source"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no images"):
        open_source(tmp_path)
    (tmp_path / "a.jpg").write_bytes(make_image())
    with pytest.raises(UsageError, match="no kind of file"):
        open_source(tmp_path / "a.jpg")
    (tmp_path / "b.tar").write_bytes(b"junk" * 400)
    with pytest.raises((IntegrityError, DataError)):
        read(tmp_path / "b.tar")


def test_inputs_change_with_the_content_and_not_with_the_way_of_writing_the_path(tmp_path, monkeypatch):
    images(tmp_path, "i/1.jpg", "i/2.jpg")
    (tmp_path / "t.csv").write_text("image,caption\ni/1.jpg,one\ni/2.jpg,two\n")
    first = open_source(tmp_path / "t.csv").inputs()
    monkeypatch.chdir(tmp_path)
    assert open_source("t.csv").inputs() == first == open_source(tmp_path / "i" / ".." / "t.csv").inputs()
    (tmp_path / "i/2.jpg").write_bytes(make_image(77))
    assert open_source("t.csv").inputs() != first


def test_real_photos_with_five_captions_each(shared_data):
    table = shared_data / "coco" / "captions.tsv"
    pairs, dropped = read(table)
    assert len(pairs) == 160 and dropped == {}
    assert sum(len(pair.captions) for pair in pairs) == len(table.read_text().splitlines()) - 1
