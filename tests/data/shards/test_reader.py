"""Shards give back what was written, in any order and process, and agree with webdataset both ways."""

import json
import math
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.source_files import make_image, write_tar

from diptych.core.errors import DataError, IntegrityError, Reason, TooMuchBadDataError, UsageError
from diptych.core.manifest import FileEntry, read_manifest, verify, write_manifest
from diptych.core.records import Counts, Pair
from diptych.data.shards.index import expand_braces
from diptych.data.shards.reader import ShardSet
from diptych.data.shards.writer import ShardSettings, join_shards, member_key, write_shards

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


def some_pairs(count: int) -> list[Pair]:
    pairs: list[Pair] = []
    for number in range(count):
        captions = tuple(f"caption {number} {line} ä" for line in range(1 + number % 3))
        fields = {"label": f"l{number}", "n": number, "x": 0.5, "b": True, "none": None} if number % 2 else {}
        image = make_image(number, [*FORMATS][number % 5])
        pairs.append(Pair(f"{number:06d}", image, captions, fields))
    return pairs


def written(folder: Path, pairs: list[Pair], samples: int = 10_000) -> ShardSet:
    write_shards(pairs, folder, settings=ShardSettings(max_samples=samples))
    return ShardSet.open(folder)


def test_pairs_come_back_as_they_were_in_any_order(tmp_path):
    pairs = some_pairs(57)
    shards = written(tmp_path / "out", pairs, 10)
    assert len(shards) == 57
    assert list(shards) == pairs
    for number in np.random.default_rng(0).permutation(57).tolist():
        assert shards.pair(number) == pairs[number]
        assert shards.key(number) == pairs[number].key
    names = [*(f"{number:05d}.tar" for number in range(6)), "index.npy", "manifest.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_strange_keys_texts_and_fields_survive(tmp_path):
    fields = {"key": "other", "captions": "mine", "fields": "x"}
    pairs = [
        Pair("a/b.c d", make_image(0), ("\n two\nlines ",), fields),
        Pair("größe" * 40, make_image(1), ("", "second"), {"nan": math.nan, "inf": math.inf}),
        Pair("a_b_c_d", make_image(2), ("\0 NUL", "𝕊"), {}),
    ]
    pairs_back = list(written(tmp_path / "out", pairs))
    pairs[1] = replace(pairs[1], fields={"nan": None, "inf": None})  # JSON has no words for them
    assert pairs_back == pairs


def test_equal_pairs_make_equal_bytes_and_the_same_digest(tmp_path):
    one, two = (written(tmp_path / name, some_pairs(30), 7) for name in ("one", "two"))
    for file in ("00000.tar", "00004.tar", "index.npy"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert one.digest == two.digest != written(tmp_path / "three", some_pairs(29), 7).digest


def test_shards_stay_below_their_limits_and_the_ranges_cover_every_byte(tmp_path):
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
    tiny = write_shards(some_pairs(3), tmp_path / "tiny", settings=ShardSettings(max_bytes=10))
    assert len(tiny.outputs) == 3 + 1  # a sample that is larger than a shard has its own


def test_the_manifest_carries_digests_counts_and_inputs(tmp_path):
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
        "bad_row": 2, "caption_not_text": 1, "duplicate_key": 1, "format_not_allowed": 1,
        "missing_caption": 1, "missing_image": 1,
    }  # fmt: skip
    assert manifest.inputs == inputs and manifest.seed == 4 and manifest.extra["samples"] == 5


def test_too_many_bad_pairs_or_none_left_or_a_source_that_fails_write_nothing(tmp_path):
    bad = [Pair(str(number), b"junk", ("a",)) for number in range(3)]

    def failing() -> Iterator[Pair]:
        yield from some_pairs(20)
        raise RuntimeError("the source broke")

    with pytest.raises(TooMuchBadDataError):
        write_shards([*some_pairs(3), *bad], tmp_path / "out", settings=ShardSettings(max_bad_fraction=0.4))
    with pytest.raises(DataError, match="no pair is left"):
        write_shards(bad, tmp_path / "out")
    with pytest.raises(RuntimeError):
        write_shards(failing(), tmp_path / "out", settings=ShardSettings(max_samples=3))
    assert list(tmp_path.iterdir()) == []
    write_shards(some_pairs(20), tmp_path / "out")
    with pytest.raises(UsageError, match="not empty"):
        write_shards(some_pairs(20), tmp_path / "out")


def test_joined_sets_read_as_one(tmp_path):
    pairs = some_pairs(40)
    for start, end in ((0, 13), (13, 14), (14, 40)):
        written(tmp_path / "parts" / f"{start:02d}", pairs[start:end], 10)
    parts = sorted((tmp_path / "parts").iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00000.tar").write_text("left by a run that was killed")
    manifest = join_shards(parts, tmp_path / "out", seed=7)
    assert verify(tmp_path / "out") == manifest == read_manifest(tmp_path / "out")
    assert (manifest.seed, manifest.extra) == (7, {"samples": 40, "shard_samples": [10, 3, 1, 10, 10, 6]})
    shards = ShardSet.open(tmp_path / "out")
    assert list(shards) == pairs
    assert shards.pair(25) == pairs[25]
    tars = [path.read_bytes() for part in parts for path in sorted(part.glob("*.tar"))]
    assert [path.read_bytes() for path in sorted((tmp_path / "out").glob("*.tar"))] == tars
    with pytest.raises(DataError, match="no pair is left"):
        join_shards([], tmp_path / "none")
    assert not (tmp_path / "none" / "manifest.json").exists()


def test_webdataset_reads_our_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    pairs = some_pairs(25)
    written(tmp_path / "out", pairs, 10)
    urls = str(tmp_path / "out" / "{00000..00002}.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [pair.key for pair in pairs]
    for number, (sample, pair) in enumerate(zip(samples, pairs, strict=True)):
        assert sample[[*FORMATS.values()][number % 5]] == pair.image
        assert sample["txt"].decode() == pair.captions[0]
        if len(pair.captions) > 1:
            assert tuple(json.loads(sample["json"])["captions"]) == pair.captions


def test_we_read_shards_that_webdataset_wrote(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"part-{shard:03d}.tar")) as sink:
            for number in range(4):
                image, text = make_image(10 * shard + number), f" caption {shard} {number}\n"
                record = {"url": f"http://x/{number}", "width": 8, "list": [1], "ok": True}
                sink.write({"__key__": f"{number:05d}", "jpg": image, "txt": text, "json": record})
    shards = ShardSet.open(str(tmp_path / "part-{000..001}.tar"))
    pairs = list(shards)
    assert [pair.key for pair in pairs[3:5]] == ["00003", "part-001-00000"]
    fields = {"url": "http://x/1", "width": 8, "ok": True}
    assert pairs[5] == Pair("part-001-00001", make_image(11), ("caption 1 1",), fields)
    joined = ShardSet.open(f"{tmp_path}/part-000.tar::{tmp_path}/part-001.tar")
    assert list(joined) == pairs == list(ShardSet.open(tmp_path))
    assert joined.digest == shards.digest


def test_foreign_members_are_grouped_as_webdataset_groups_them(tmp_path):
    long = "long/" + "k" * 150
    members = [
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
        ("seven.pkl", b"cos\nsystem\n(S'x'\ntR."),  # could run code: never decoded
        ("eight.jpg", make_image(8)),
        ("eight.json", b"[" * 100_000),
    ]
    shards = ShardSet.open(write_tar(tmp_path / "a.tar", members))
    pairs = list(shards.pairs(shards.counts))
    assert [pair.key for pair in pairs] == ["x/one", long, "seven"]
    assert pairs[1].captions == ("two", "zwei")
    assert pairs[2] == Pair("seven", make_image(7), ("seven",))
    reasons = ("MISSING_IMAGE", "MISSING_CAPTION", "EMPTY_CAPTION", "CAPTION_NOT_TEXT", "BAD_ROW")
    assert shards.counts.dropped == {Reason[name]: 1 for name in reasons}


def test_a_key_twice_in_a_shard_is_dropped_and_two_members_of_one_kind_refused(tmp_path):
    members = [(f"{key}.{extension}", b"x") for key in "aba" for extension in ("jpg", "txt")]
    shards = ShardSet.open(write_tar(tmp_path / "a.tar", members))
    assert len(shards) == 2 and shards.counts.dropped == {Reason.DUPLICATE_KEY: 1}
    path = write_tar(tmp_path / "b.tar", [("a.jpg", b"1"), ("a.txt", b"x"), ("a.JPG", b"2")])
    with pytest.raises(DataError, match="two members of one kind"):
        ShardSet.open(path)


def _keys_in_child(shards: ShardSet, out: "multiprocessing.Queue[list[str]]") -> None:
    out.put([shards.pair(number).key for number in range(len(shards))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_shard_set_travels_into_other_processes(tmp_path, method):
    shards = written(tmp_path / "out", some_pairs(12), 5)
    assert shards.pair(3).key == "000003"  # a file is open when the process is made
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_keys_in_child, args=(shards, results))
    child.start()
    assert results.get(timeout=60) == [f"{number:06d}" for number in range(12)]
    child.join()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")
def test_many_shards_do_not_keep_many_files_open(tmp_path):
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    shards = written(tmp_path / "out", some_pairs(300), 1)
    assert len(list(shards)) == len(list(shards)) == 300
    assert open_files() - before <= 256
    shards.close()
    assert open_files() <= before


def test_braces_are_spelt_out():
    assert expand_braces("s3-{098..101}-{a,b}.tar")[:3] == ["s3-098-a.tar", "s3-098-b.tar", "s3-099-a.tar"]
    assert expand_braces("{8..10}{08..9}") == ["808", "809", "908", "909", "1008", "1009"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    for wrong in ("{5..2}.tar", "{0..99999999999}.tar", "{0..999}{0..9999}"):
        with pytest.raises(UsageError):
            expand_braces(wrong)


def test_a_missing_shard_an_empty_folder_and_another_format_are_refused(tmp_path):
    with pytest.raises(UsageError, match="missing"):
        ShardSet.open(str(tmp_path / "{0..3}.tar"))
    with pytest.raises(UsageError, match="no shards here"):
        ShardSet.open(tmp_path)
    folder = tmp_path / "out"
    written(folder, some_pairs(2))
    write_manifest(folder, replace(read_manifest(folder), format=99))
    with pytest.raises(UsageError, match="another format"):
        ShardSet.open(folder)
    leaving = FileEntry("../00000.tar", 1, "0" * 64)
    write_manifest(folder, replace(read_manifest(folder), format=1, outputs=(leaving,)))
    with pytest.raises(IntegrityError):
        ShardSet.open(folder)


def test_member_keys_are_safe_and_distinct():
    keys = ["a.b", "a/b", "a b", "../b", "a_b", "", "ä", "x" * 200, "x" * 201, "CON", "a\0b"]
    made = [member_key(key) for key in keys]
    assert len(set(made)) == len(keys)
    for name in made:
        assert name and len(name) <= 80 and name.isascii() and not set(name) & set("./\\ \0")
