"""A sample that is removed is gone to the last byte, and a kill at any step loses nothing."""

import hashlib
import random
import shutil
from pathlib import Path

import pytest
from tests.data.source_files import INTERRUPTIONS, digests

from diptych.core.errors import DataError, UsageError
from diptych.core.files.durable import TEMP_PREFIX
from diptych.core.manifest import read_manifest, verify
from diptych.core.records import Counts, Pair
from diptych.data.shards.edit import remove
from diptych.data.shards.reader import ShardSet
from diptych.data.shards.writer import ShardSettings, write_shards

PER_SHARD = 4


def pair(number: int) -> Pair:
    noise = random.Random(number).randbytes(700)
    fields = {"page": f"https://example.org/page-of-{number:03d}"}
    return Pair(f"sample-{number:03d}", b"\xff\xd8\xff" + noise, (f"the caption of {number:03d}",), fields)


PAIRS = [pair(number) for number in range(14)]  # shards of 4, 4, 4 and 2


@pytest.fixture
def shards(tmp_path):
    write_shards(PAIRS, tmp_path / "set", settings=ShardSettings(max_samples=PER_SHARD))
    return tmp_path / "set"


def keys_of(*numbers: int) -> list[str]:
    return [PAIRS[number].key for number in numbers]


def left(*numbers: int) -> list[Pair]:
    return [pair for number, pair in enumerate(PAIRS) if number not in numbers]


def traces(folder: Path, gone: Pair) -> list[str]:
    """Files anywhere below that hold a piece of the sample: image, its digest, caption, key, field."""
    pieces = [gone.image[start : start + 16] for start in range(3, len(gone.image) - 16, 16)]
    pieces += [gone.captions[0].encode(), gone.key.encode(), str(gone.fields["page"]).encode()]
    pieces += [hashlib.sha256(gone.image).digest(), hashlib.sha256(gone.image).hexdigest().encode()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(piece in path.read_bytes() for piece in pieces)]


@pytest.mark.parametrize(
    "numbers",
    [(1,), (0,), (3,), (13,), (0, 1, 2, 3), (12, 13), (3, 4, 11), tuple(range(13))],
    ids=str,
)
def test_no_byte_of_a_removed_sample_stays_and_all_others_do(shards, numbers):
    assert all(traces(shards.parent, PAIRS[number]) for number in numbers)
    manifest = remove(shards, keys_of(*numbers), reason="asked for")
    assert [traces(shards.parent, PAIRS[number]) for number in numbers] == [[]] * len(numbers)
    verify(shards)
    assert list(ShardSet.open(shards)) == left(*numbers)
    assert manifest == read_manifest(shards)
    assert manifest.extra["samples"] == len(PAIRS) - len(numbers) == sum(manifest.extra["shard_samples"])
    assert manifest.extra["version"] == 2
    counts = manifest.counts
    assert counts["in"] == counts["out"] + counts["dropped"]["removed"] == len(PAIRS)
    for name in ("index.npy", "manifest.json"):  # without them the set is tars, read by their headers
        (shards / name).unlink()
    assert [pair.key for pair in ShardSet.open(shards)] == [pair.key for pair in left(*numbers)]


def test_removing_first_or_last_samples_is_packing_without_them(shards, tmp_path):
    """Where the cuts between shards stay, the bytes are those of a set that never held the samples."""
    remove(shards, keys_of(0, 1, 2, 3))
    write_shards(PAIRS[4:], tmp_path / "never", settings=ShardSettings(max_samples=PER_SHARD))
    assert digests(shards) == digests(tmp_path / "never")
    remove(shards, keys_of(13))
    write_shards(PAIRS[4:13], tmp_path / "neither", settings=ShardSettings(max_samples=PER_SHARD))
    assert digests(shards) == digests(tmp_path / "neither")
    assert ShardSet.open(shards).digest == ShardSet.open(tmp_path / "neither").digest


def test_every_removal_is_on_record_without_naming_anyone(shards):
    inode = (shards / "00002.tar").stat().st_ino
    first = remove(shards, keys_of(2, 7), reason="a person asked")
    assert (shards / "00002.tar").stat().st_ino == inode  # an untouched shard is linked, not copied
    second = remove(shards, keys_of(5), reason="blocked")
    names = sorted(hashlib.sha256(key.encode()).hexdigest() for key in keys_of(2, 7))
    assert second.extra["version"] == 3
    assert second.extra["removals"][0] == first.extra["removals"][0]
    assert second.extra["removals"][0] == {"count": 2, "reason": "a person asked", "keys_sha256": names}
    assert second.counts["dropped"] == {"removed": 3}


def test_removing_again_does_nothing_and_a_wrong_key_is_refused(shards):
    first = remove(shards, keys_of(2))
    before = digests(shards)
    assert remove(shards, keys_of(2)) == first
    with pytest.raises(UsageError, match="no such keys") as caught:
        remove(shards, [*keys_of(3), "sample-999"])
    assert "sample-999" in str(caught.value)
    with pytest.raises(DataError, match="nothing would be left"):
        remove(shards, keys_of(*(n for n in range(14) if n != 2)))
    assert digests(shards) == before


def test_what_else_lies_in_the_folder_is_never_deleted_unasked(shards):
    (shards / "stages").mkdir()
    (shards / "stages" / "image").write_bytes(PAIRS[4].image)
    with pytest.raises(UsageError, match="holds more") as caught:
        remove(shards, keys_of(4))
    assert "stages" in str(caught.value) and len(ShardSet.open(shards)) == len(PAIRS)
    remove(shards, keys_of(4), drop_others=True)
    assert traces(shards.parent, PAIRS[4]) == []
    (shards / "manifest.json").unlink()
    with pytest.raises(UsageError, match="manifest"):  # tars of others
        remove(shards, keys_of(1))


def test_an_open_reader_keeps_reading_what_it_opened(shards):
    """A reader that has its shards open sees the old set to its end, one that opens later the new one."""
    reader = ShardSet.open(shards)
    assert [reader.pair(number) for number in range(len(PAIRS))] == PAIRS
    remove(shards, keys_of(1, 6))
    assert list(reader.pairs(Counts())) == PAIRS
    assert list(ShardSet.open(shards)) == left(1, 6)


GONE = (1, 2, 12, 13)


@pytest.mark.parametrize("interrupted", INTERRUPTIONS)
def test_an_interruption_at_any_durable_step_can_be_repeated(interrupted, tmp_path, shards, monkeypatch):
    def begin(step):
        shutil.copytree(shards, parent / f"set{step}")
        remove(parent / f"set{step}", keys_of(*GONE))

    parent, old = tmp_path / "sets", digests(shards)
    begin(0)
    whole = digests(parent / "set0")
    monkeypatch.setenv("DIPTYCH_TESTING", "1")
    for step in interrupted(begin):
        folder = parent / f"set{step}"
        assert digests(folder) in (old, whole), step  # the old set or the new one, never a mix
        assert list(ShardSet.open(folder)) in (PAIRS, left(*GONE)), step
        manifest = remove(folder, keys_of(*GONE))
        assert digests(folder) == whole, step
        assert manifest.extra["version"] == 2 and len(manifest.extra["removals"]) == 1
        assert traces(folder, PAIRS[GONE[step % len(GONE)]]) == [], step
        assert not [path for path in parent.iterdir() if path.name.startswith(TEMP_PREFIX)], step
        shutil.rmtree(folder)
