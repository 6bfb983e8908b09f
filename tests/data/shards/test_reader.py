"""Shards give back what was written, in any order and process, and agree with webdataset both ways."""

import io
import json
import math
import multiprocessing
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.data.source_files import make_image

from diptych.core.errors import DataError, IntegrityError, Reason, TooMuchBadDataError, UsageError
from diptych.core.manifest import FileEntry, read_manifest, verify
from diptych.core.records import Counts, Pair
from diptych.data.shards.index import expand_braces
from diptych.data.shards.reader import ShardSet, ShardSettings, write_shards
from diptych.data.shards.writer import member_key

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def some_pairs(count: int) -> list[Pair]:
    pairs: list[Pair] = []
    for number in range(count):
        captions = tuple(f"caption {number} {line} ä" for line in range(1 + number % 3))
        fields = {"label": f"l{number}", "n": number, "x": 0.5, "b": True, "none": None} if number % 2 else {}
        pairs.append(Pair(f"{number:06d}", make_image(number, FORMATS[number % 5]), captions, fields))
    return pairs


def test_pairs_come_back_as_they_were_in_any_order(tmp_path: Path) -> None:
    pairs = some_pairs(57)
    write_shards(pairs, tmp_path / "out", settings=ShardSettings(max_samples=10))
    shards = ShardSet.open(tmp_path / "out")
    assert len(shards) == 57
    assert list(shards) == pairs
    for number in np.random.default_rng(0).permutation(57).tolist():
        assert shards.pair(number) == pairs[number]
        assert shards.key(number) == pairs[number].key
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"{number:05d}.tar" for number in range(6)),
        "index.npy",
        "manifest.json",
    ]


def test_strange_keys_texts_and_fields_survive(tmp_path: Path) -> None:
    pairs = [
        Pair(
            "a/b.c d", make_image(0), ("\n two\nlines ",), {"key": "other", "captions": "mine", "fields": "x"}
        ),
        Pair("größe" * 40, make_image(1), ("", "second"), {"nan": math.nan, "inf": math.inf}),
        Pair("a_b_c_d", make_image(2), ("\0 NUL", "𝕊"), {}),
    ]
    write_shards(pairs, tmp_path / "out")
    back = list(ShardSet.open(tmp_path / "out"))
    assert back[0] == pairs[0] and back[2] == pairs[2]
    assert (back[1].key, back[1].captions) == (pairs[1].key, pairs[1].captions)
    assert back[1].fields == {"nan": None, "inf": None}  # JSON has no words for them


def test_equal_pairs_make_equal_bytes_and_the_same_digest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shards(some_pairs(30), tmp_path / name, settings=ShardSettings(max_samples=7))
    for file in ("00000.tar", "00004.tar", "index.npy"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert ShardSet.open(tmp_path / "one").digest == ShardSet.open(tmp_path / "two").digest
    write_shards(some_pairs(29), tmp_path / "three", settings=ShardSettings(max_samples=7))
    assert ShardSet.open(tmp_path / "one").digest != ShardSet.open(tmp_path / "three").digest


def test_shards_stay_below_their_limits_and_the_ranges_cover_every_byte(tmp_path: Path) -> None:
    limit = 20_000
    manifest = write_shards(some_pairs(100), tmp_path / "out", settings=ShardSettings(max_bytes=limit))
    index = np.load(tmp_path / "out" / "index.npy", allow_pickle=False)
    sizes = [entry.bytes for entry in manifest.outputs if entry.name.endswith(".tar")]
    assert len(sizes) > 5 and max(sizes) <= limit
    for shard, size in enumerate(sizes):
        rows = index[index["shard"] == shard]
        ends = rows["offset"] + rows["length"]
        assert rows["offset"][0] == 0 and ends[-1] == size
        assert np.array_equal(ends[:-1], rows["offset"][1:])


def test_one_sample_larger_than_a_shard_gets_its_own(tmp_path: Path) -> None:
    manifest = write_shards(some_pairs(3), tmp_path / "out", settings=ShardSettings(max_bytes=10))
    assert [entry.name for entry in manifest.outputs] == ["00000.tar", "00001.tar", "00002.tar", "index.npy"]


def test_the_manifest_carries_digests_counts_and_inputs(tmp_path: Path) -> None:
    counts = Counts()
    counts.drop(Reason.BAD_ROW, "row 3")
    inputs = (FileEntry("source.csv", 3, "0" * 64),)
    bad = [
        Pair("gif", b"not an image", ("a",)),
        Pair("none", b"", ("a",)),
        Pair("mute", make_image(1), ()),
        Pair("half", make_image(1), ("\ud800",)),
        Pair("000001", make_image(9), ("again",)),
        Pair("\ud800", make_image(1), ("a",)),
    ]
    write_shards([*some_pairs(5), *bad], tmp_path / "out", counts=counts, inputs=inputs, seed=4)
    manifest = verify(tmp_path / "out")
    assert manifest.counts["in"] == 12 and manifest.counts["out"] == 5
    assert manifest.counts["dropped"] == {
        "bad_row": 2,
        "caption_not_text": 1,
        "duplicate_key": 1,
        "format_not_allowed": 1,
        "missing_caption": 1,
        "missing_image": 1,
    }
    assert manifest.inputs == inputs and manifest.seed == 4 and manifest.extra["samples"] == 5


def test_too_many_bad_pairs_or_none_left_write_nothing(tmp_path: Path) -> None:
    bad = [Pair(str(number), b"junk", ("a",)) for number in range(3)]
    with pytest.raises(TooMuchBadDataError):
        write_shards([*some_pairs(3), *bad], tmp_path / "out", settings=ShardSettings(max_bad_fraction=0.4))
    with pytest.raises(DataError, match="no pair is left"):
        write_shards(bad, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Pair]:
        yield from some_pairs(20)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_shards(failing(), tmp_path / "out", settings=ShardSettings(max_samples=3))
    assert list(tmp_path.iterdir()) == []
    write_shards(some_pairs(20), tmp_path / "out")
    with pytest.raises(UsageError, match="not empty"):
        write_shards(some_pairs(20), tmp_path / "out")


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    pairs = some_pairs(25)
    write_shards(pairs, tmp_path / "out", settings=ShardSettings(max_samples=10))
    urls = str(tmp_path / "out" / "{00000..00002}.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [pair.key for pair in pairs]
    extensions = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
    for number, (sample, pair) in enumerate(zip(samples, pairs, strict=True)):
        assert sample[extensions[FORMATS[number % 5]]] == pair.image
        assert sample["txt"].decode() == pair.captions[0]
        if len(pair.captions) > 1:
            assert tuple(json.loads(sample["json"])["captions"]) == pair.captions


def test_we_read_shards_that_webdataset_wrote(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"part-{shard:03d}.tar")) as sink:
            for number in range(4):
                sink.write(
                    {
                        "__key__": f"{number:05d}",
                        "jpg": make_image(10 * shard + number),
                        "txt": f" caption {shard} {number}\n",
                        "json": {"url": f"http://x/{number}", "width": 8, "list": [1], "ok": True},
                    }
                )
    shards = ShardSet.open(str(tmp_path / "part-{000..001}.tar"))
    pairs = list(shards)
    assert [pair.key for pair in pairs[3:5]] == ["00003", "part-001-00000"]
    assert pairs[5].captions == ("caption 1 1",)
    assert pairs[5].image == make_image(11)
    assert pairs[5].fields == {"url": "http://x/1", "width": 8, "ok": True}
    joined = ShardSet.open(f"{tmp_path}/part-000.tar::{tmp_path}/part-001.tar")
    assert list(joined) == pairs == list(ShardSet.open(tmp_path))
    assert joined.digest == shards.digest


def _tar(path: Path, members: list[tuple[str, bytes]], format_: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format_) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_foreign_members_are_grouped_as_webdataset_groups_them(tmp_path: Path) -> None:
    long = "long/" + "k" * 150
    path = _tar(
        tmp_path / "a.tar",
        [
            ("__meta__.json", b"{}"),
            ("./x/one.JPG", make_image(1)),
            ("./x/one.txt", b"one"),
            (f"{long}.png", make_image(2, "PNG")),
            (f"{long}.json", b'{"caption": "two", "key": "k2", "captions": ["two", "zwei"]}'),
            (f"{long}.cls", b"7"),
            ("README", b"no extension"),
            ("three.json", b'{"caption": "no image"}'),
            ("four.jpg", make_image(4)),
            ("five.jpg", make_image(5)),
            ("five.txt", b"\xff\xfe"),
            ("six.jpg", make_image(6)),
            ("six.txt", b"   "),
            ("seven.seg.jpg", make_image(6)),
            ("seven.jpg", make_image(7)),
            ("seven.json", b'{"caption": "seven"}'),
            ("eight.jpg", make_image(8)),
            ("eight.json", b"[" * 100_000),
        ],
    )
    shards = ShardSet.open(path)
    counts = shards.counts
    pairs = list(shards.pairs(counts))
    assert [pair.key for pair in pairs] == ["x/one", long, "seven"]
    assert pairs[1].captions == ("two", "zwei")
    assert pairs[2].image == make_image(7)
    assert counts.dropped == {
        Reason.MISSING_IMAGE: 1,
        Reason.MISSING_CAPTION: 1,
        Reason.EMPTY_CAPTION: 1,
        Reason.CAPTION_NOT_TEXT: 1,
        Reason.BAD_ROW: 1,
    }


def test_two_members_of_one_kind_in_a_sample_are_refused(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.txt", b"x"), ("a.JPG", b"2")])
    with pytest.raises(DataError, match="two members of one kind"):
        ShardSet.open(path)


def test_a_key_that_comes_back_later_in_a_shard_is_dropped(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", [(f"{key}.{ext}", b"x") for key in "aba" for ext in ("jpg", "txt")])
    shards = ShardSet.open(path)
    assert len(shards) == 2 and shards.counts.dropped == {Reason.DUPLICATE_KEY: 1}


def test_members_that_could_run_code_are_never_decoded(tmp_path: Path) -> None:
    path = _tar(
        tmp_path / "a.tar",
        [("a.jpg", make_image(1)), ("a.txt", b"x"), ("a.pkl", b"cos\nsystem\n(S'x'\ntR."), ("a.pth", b"PK")],
    )
    assert list(ShardSet.open(path)) == [Pair("a", make_image(1), ("x",))]


def _keys_in_child(shards: ShardSet, out: "multiprocessing.Queue[list[str]]") -> None:
    out.put([shards.pair(number).key for number in range(len(shards))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_shard_set_travels_into_other_processes(tmp_path: Path, method: str) -> None:
    write_shards(some_pairs(12), tmp_path / "out", settings=ShardSettings(max_samples=5))
    shards = ShardSet.open(tmp_path / "out")
    assert shards.pair(3).key == "000003"  # a file is open when the process is made
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_keys_in_child, args=(shards, results))
    child.start()
    assert results.get(timeout=60) == [f"{number:06d}" for number in range(12)]
    child.join()


def _open_files() -> int:
    handles = Path("/proc/self/fd")
    return len(list(handles.iterdir())) if handles.is_dir() else 0


def test_many_shards_do_not_keep_many_files_open(tmp_path: Path) -> None:
    write_shards(some_pairs(300), tmp_path / "out", settings=ShardSettings(max_samples=1))
    before = _open_files()
    shards = ShardSet.open(tmp_path / "out")
    assert len(list(shards)) == len(list(shards)) == 300
    if before:
        assert _open_files() - before <= 256
        shards.close()
        assert _open_files() <= before


def test_braces_are_spelt_out() -> None:
    assert expand_braces("s3-{098..101}-{a,b}.tar")[:3] == ["s3-098-a.tar", "s3-098-b.tar", "s3-099-a.tar"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    for wrong in ("{5..2}.tar", "{0..99999999999}.tar", "{0..999}{0..9999}"):
        with pytest.raises(UsageError):
            expand_braces(wrong)


def test_a_missing_shard_and_an_empty_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        ShardSet.open(str(tmp_path / "{0..3}.tar"))
    with pytest.raises(UsageError, match="no shards here"):
        ShardSet.open(tmp_path)


def test_a_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    write_shards(some_pairs(2), tmp_path / "out")
    from dataclasses import replace

    from diptych.core.manifest import write_manifest

    write_manifest(tmp_path / "out", replace(read_manifest(tmp_path / "out"), format=99))
    with pytest.raises(UsageError, match="another format"):
        ShardSet.open(tmp_path / "out")
    leaving = FileEntry("../00000.tar", 1, "0" * 64)
    write_manifest(tmp_path / "out", replace(read_manifest(tmp_path / "out"), format=1, outputs=(leaving,)))
    with pytest.raises(IntegrityError):
        ShardSet.open(tmp_path / "out")


def test_member_keys_are_safe_and_distinct() -> None:
    keys = ["a.b", "a/b", "a b", "../b", "a_b", "", "ä", "x" * 200, "x" * 201, "CON", "a\0b"]
    made = [member_key(key) for key in keys]
    assert len(set(made)) == len(keys)
    for name in made:
        assert name and len(name) <= 80 and name.isascii() and not set(name) & set("./\\ \0")
