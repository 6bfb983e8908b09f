"""What a folder is read as: what lies beside the data hides nothing, and is named."""

import gzip
import json
import warnings
from itertools import chain
from pathlib import Path

import pytest
from tests.data.source_files import images, keyed, make_image, read, write_parquet, write_tar

from diptych.core.errors import DataError, IntegrityError, UsageError
from diptych.core.records import Counts, Need
from diptych.data.pack import PackSettings, pack
from diptych.data.shards.writer import ShardSettings
from diptych.data.sources.open import open_source
from diptych.evaluate.tasks.readers.tables import FolderReader
from diptych.evaluate.tasks.readers.webdataset import WebDatasetReader

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COMPANION = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"


def tar_of(path: Path, *keys: str, caption: str = "in the tar") -> Path:
    samples = [
        ((f"{key}.jpg", make_image(number)), (f"{key}.txt", caption.encode()))
        for number, key in enumerate(keys)
    ]
    return write_tar(path, chain.from_iterable(samples))


def photos(folder: Path, *names: str) -> None:
    images(folder, *names)
    for name in names:
        (folder / name).with_suffix(".txt").write_text("beside")


def keys(ref: Path, need: Need = Need.PAIR) -> list[str]:
    return [pair.key for pair in open_source(ref, need=need).pairs(Counts())]


STRAYS = {
    "backup.tar": b"",
    "prices.csv": b"name,price\nx,1\n",
    "notes.tsv": b"",
    "log.jsonl": b'{"step": 1}\n',
    "utf16.csv": "image,caption\n".encode("utf-16"),
    "table.parquet": b"PAR1 damaged",
}


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("deep", [False, True])
def test_a_stray_file_does_not_hide_the_images_and_is_named(tmp_path, stray, deep):
    names = ("2020/a.jpg", "2020/b.jpg", "2021/c.jpg") if deep else ("a.jpg", "b.jpg", "c.jpg")
    photos(tmp_path, *names)
    (tmp_path / stray).write_bytes(STRAYS[stray])
    with pytest.warns(UserWarning, match=f"not read: {stray}"):
        assert keys(tmp_path) == ["a", "b", "c"]


def test_a_loose_image_does_not_hide_the_tars(tmp_path):
    for number in range(3):
        tar_of(tmp_path / f"{number}.tar", f"k{number}")
    images(tmp_path, "preview.jpg")
    with pytest.warns(UserWarning, match="not read: preview.jpg"):
        assert keys(tmp_path) == ["k0", "k1", "k2"]
    images(tmp_path, "b.jpg", "c.jpg")
    with pytest.raises(UsageError, match=r"(?s)several sources.*0\.tar"):
        open_source(tmp_path)


def test_the_table_that_lists_the_images_is_read_without_a_word(tmp_path):
    photos(tmp_path, "i/a.jpg", "i/b.jpg")
    (tmp_path / "list.csv").write_text("image,caption\ni/b.jpg,of the table\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keyed(tmp_path) == [("b", ("of the table",))]
    (tmp_path / "other.csv").write_text("image,caption\ni/a.jpg,again\n")
    with pytest.raises(UsageError, match=r"(?s)several sources.*list\.csv, other\.csv"):
        open_source(tmp_path)


def test_a_table_of_other_names_beside_images_without_captions_says_so(tmp_path):
    images(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_text("file,title\na.jpg,x\n")
    with pytest.raises(UsageError, match=r"(?s)column.*file, title.*--columns"):
        read(tmp_path)
    with pytest.warns(UserWarning, match=r"not read: list\.csv"):
        assert keys(tmp_path, Need.IMAGE) == ["a"]


def test_the_files_output_of_img2dataset_is_packed(tmp_path):
    """Its FilesSampleWriter: 00000/KEY.jpg, .txt and .json, and 00000.parquet, 00000_stats.json beside."""
    source = tmp_path / "images"
    for shard in ("00000", "00001"):
        (source / shard).mkdir(parents=True)
        rows = []
        for number in range(4):
            key, status = f"{shard}{number:04d}", "failed_to_download" if number == 3 else "success"
            row = {"url": f"http://x/{key}", "caption": f"caption {key}", "key": key, "status": status}
            rows.append(row)
            if status == "success":
                (source / shard / f"{key}.jpg").write_bytes(make_image(number))
                (source / shard / f"{key}.txt").write_text(row["caption"])
                (source / shard / f"{key}.json").write_text(json.dumps(row, indent=4))
        pq.write_table(pa.Table.from_pylist(rows), source / f"{shard}.parquet")
        (source / f"{shard}_stats.json").write_text("{}")
    settings = PackSettings(workers=0, shards=ShardSettings(max_bad_fraction=0.0))
    with pytest.warns(UserWarning, match=r"00000\.parquet"):
        manifest = pack(open_source(source), tmp_path / "out", settings=settings)
        pairs, _ = read(source)
    assert manifest.counts["in"] == manifest.counts["out"] == 6
    assert pairs[0].key == "000000000" and pairs[0].captions == ("caption 000000000",)
    assert pairs[0].fields["url"] == "http://x/000000000"


def test_what_desktops_leave_is_no_data(tmp_path):
    photos(tmp_path / "folder", "a.jpg", "b/c.jpg")
    left = ("._a.jpg", "._a.txt", ".DS_Store", "Thumbs.db", "b/._c.jpg", "__MACOSX/._a.jpg", "__MACOSX/x.jpg")
    for name in (*(f"folder/{name}" for name in left), "tars/._0.tar", "parquet/._0.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(COMPANION)
    tar_of(tmp_path / "tars" / "0.tar", "k", "._k", "__MACOSX/._k")
    write_parquet(tmp_path / "parquet" / "0.parquet", image=[make_image()], caption=["x"])
    for name, expected in (("folder", ["a", "c"]), ("tars", ["k"]), ("parquet", ["00000000"])):
        assert [key for key, _ in keyed(tmp_path / name)] == expected, name
    classes = FolderReader(path=".").examples(tmp_path / "folder", "test")
    assert [example.labels for example in classes] == [("b",)]
    (tmp_path / "set").mkdir()
    (tmp_path / "tars").rename(tmp_path / "set" / "test")
    assert len(list(WebDatasetReader().examples(tmp_path / "set", "test"))) == 1


def test_tars_one_folder_down_are_read_if_they_lie_in_one(tmp_path):
    tar_of(tmp_path / "wds" / "0.tar", "k")
    (tmp_path / "README.md").write_text("a set")
    assert keys(tmp_path) == ["k"]
    tar_of(tmp_path / "test" / "0.tar", "k")
    with pytest.raises(UsageError, match=r"(?s)several sources.*test, wds"):
        open_source(tmp_path)
    assert keys(tmp_path / "wds") == ["k"]


@pytest.mark.parametrize("name", ["0.tar.gz", "0.tgz"])
def test_compressed_tars_are_read_and_named_as_they_are(tmp_path, name):
    plain = tar_of(tmp_path / "aside" / "0.tar", "k", "l").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(plain))
    tar_of(tmp_path / "1.tar", "k", caption="other")
    (tmp_path / "aside" / "0.tar").unlink()
    pairs = [(pair.key, Path(pair.path).name) for pair in open_source(tmp_path).pairs(Counts())]
    assert pairs == [("k", name), ("l", name), ("1-k", "1.tar")]
    assert keys(tmp_path / name) == ["k", "l"]
    (tmp_path / name).write_bytes(gzip.compress(plain)[:-20])
    with pytest.raises(IntegrityError, match="compressed"):
        keys(tmp_path / name)
    (tmp_path / name).write_bytes(gzip.compress(bytes(20_000_000)))
    with pytest.raises(DataError, match="times its size"):
        keys(tmp_path / name)
