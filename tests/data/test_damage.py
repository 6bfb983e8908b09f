"""Damage is never silent: bit flips and cuts of shards, broken images."""

import io
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from diptych.core.errors import DiptychError, IntegrityError, Reason
from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Pair
from diptych.data.images.sandbox import DecoderSettings
from diptych.data.pack import PackSettings, pack
from diptych.data.shards.reader import ShardSet
from diptych.data.shards.writer import ShardSettings, write_shards
from diptych.data.sources.rows import unique

ANY_LOSS = ShardSettings(max_bad_fraction=1.0)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "PCX", "TGA", "JPEG2000")


def make_image(number: int, format_: str = "JPEG", side: int = 24) -> bytes:
    generator = random.Random(number)
    image = Image.frombytes("RGB", (side, side), generator.randbytes(side * side * 3))
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Three shards of ten pairs, with long and short captions and fields."""
    numbered = [(n, make_image(n, FORMATS[n % 5]), {"n": n} if n % 3 else {}) for n in range(30)]
    pairs = [Pair(f"{n:04d}", image, ("a caption",) * (1 + n % 2), fields) for n, image, fields in numbered]
    folder = tmp_path_factory.mktemp("shards") / "set"
    write_shards(pairs, folder, settings=ShardSettings(max_samples=10))
    return folder


def _fault(folder: Path) -> DiptychError | None:
    """What reading the whole set once finds wrong."""
    try:
        for _ in ShardSet.open(folder):
            pass
    except DiptychError as error:
        return error
    return None


def flip(path: Path, *bits: int) -> None:
    data = bytearray(path.read_bytes())
    for bit in bits:
        data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)


def test_every_one_of_500_bit_flips_is_noticed_and_its_file_named(pristine, tmp_path):
    folder = Path(shutil.copytree(pristine, tmp_path / "set"))
    assert _fault(folder) is None
    rng = random.Random(20)
    sizes = {path: path.stat().st_size for path in sorted(folder.iterdir()) if path.suffix != ".json"}
    drawn = [(path, rng.randrange(8 * sizes[path])) for path in rng.choices(list(sizes), k=500)]
    ends = [(p, 8 * at % (8 * sizes[p])) for p in sizes if p.suffix == ".tar" for at in (0, -1, -600, -1024)]
    for path, bit in (*drawn, *ends):
        flip(path, bit)
        fault = _fault(folder)
        assert isinstance(fault, IntegrityError), (path.name, bit)
        assert path.name in fault.where and fault.found and fault.expected
        flip(path, bit)
    assert _fault(folder) is None


def test_every_one_of_500_cuts_is_noticed_when_the_set_is_opened(pristine, tmp_path):
    folder = Path(shutil.copytree(pristine, tmp_path / "set"))
    rng = random.Random(21)
    for _ in range(500):
        path = folder / rng.choice(["00000.tar", "00001.tar", "00002.tar", "index.npy", "manifest.json"])
        data = path.read_bytes()
        path.write_bytes(data[: rng.randrange(len(data) - 1)])  # the manifest's last byte is but a line end
        with pytest.raises(IntegrityError) as caught:
            ShardSet.open(folder)
        assert path.name in caught.value.where
        path.write_bytes(data)
    assert _fault(folder) is None


def test_cuts_of_others_tars_are_noticed_too(pristine, tmp_path):
    data = (pristine / "00001.tar").read_bytes()
    path = tmp_path / "foreign.tar"
    rng = random.Random(22)
    for _ in range(200):
        path.write_bytes(data[: rng.randrange(len(data))])
        with pytest.raises(IntegrityError):
            ShardSet.open(path)


def test_a_missing_file_and_an_exchanged_shard_are_noticed(pristine, tmp_path):
    folder = Path(shutil.copytree(pristine, tmp_path / "set"))
    for name, message in (("00001.tar", "missing"), ("manifest.json", "manifest")):
        (folder / name).rename(tmp_path / name)
        with pytest.raises(IntegrityError, match=message):
            ShardSet.open(folder)
        (tmp_path / name).rename(folder / name)
    assert _fault(folder) is None
    first, size = (folder / "00000.tar").read_bytes(), (folder / "00001.tar").stat().st_size
    (folder / "00001.tar").write_bytes(first[:size].ljust(size, b"\0"))
    assert isinstance(_fault(folder), IntegrityError)


def test_the_policy_for_damaged_samples_is_obeyed(pristine, tmp_path):
    folder = Path(shutil.copytree(pristine, tmp_path / "set"))
    path = folder / "00001.tar"
    flip(path, 8 * 512 + 2, 8 * path.stat().st_size - 6)
    counts = Counts()
    keys = [pair.key for pair in ShardSet.open(folder).pairs(counts, on_damage="skip")]
    assert keys == [f"{n:04d}" for n in range(30) if n not in (10, 19)]
    assert counts.dropped == {Reason.DAMAGED: 2}
    assert counts.examples[Reason.DAMAGED][0] == f"{path}, sample 10 at byte 0"
    with pytest.raises(IntegrityError, match=r"00001\.tar, sample 10"):
        list(ShardSet.open(folder))


def test_a_shard_cut_while_it_is_open_is_an_error_and_no_signal(pristine, tmp_path):
    folder = Path(shutil.copytree(pristine, tmp_path / "set"))
    shards = ShardSet.open(folder)
    shards.pair(0)
    (folder / "00000.tar").write_bytes(b"")
    with pytest.raises(IntegrityError, match="found 0 bytes"):
        shards.pair(5)


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """Broken images of eleven formats: flipped bits, cuts, edited headers, doubled and deleted pieces."""
    rng = random.Random(seed)
    originals = [make_image(n, FORMATS[n % len(FORMATS)], side=8 + 8 * (n % 4)) for n in range(44)]
    for number in range(count):
        data = bytearray(originals[number % len(originals)])
        for _ in range(rng.choice((1, 1, 3, 20))):
            _mutate(data, rng)
        yield bytes(data)


def _mutate(data: bytearray, rng: random.Random) -> None:
    kind = rng.randrange(7)
    at = rng.randrange(len(data)) if data else 0
    if kind == 0 and data:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        start = rng.randrange(min(64, len(data) + 1))
        data[start : start + 4] = rng.choice(
            (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", rng.randbytes(4))
        )
    elif kind == 3:
        data[at:at] = data[: rng.randrange(200)]
    elif kind == 4:
        del data[at : at + rng.randrange(1, 100)]
    elif kind == 5:
        data[at : at + 16] = rng.randbytes(16)
    else:
        data += rng.randbytes(rng.randrange(100))


class Mutants:
    """A source of broken images with good captions."""

    name = "mutants"

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def inputs(self) -> tuple[FileEntry, ...]:
        return ()

    def pairs(self, counts: Counts) -> Iterator[Pair]:
        images = enumerate(mutants(self.count, self.seed))
        return unique((Pair(f"{n:06d}", data, ("a caption",)) for n, data in images), counts)


@pytest.mark.parametrize(("count", "seed"), [(10_000, 1), pytest.param(200_000, 2, marks=pytest.mark.deep)])
def test_mutated_images_go_through_pack_and_every_one_is_counted(tmp_path, count, seed):
    settings = PackSettings(shards=ANY_LOSS, decoding=DecoderSettings(timeout_seconds=30))
    manifest = pack(Mutants(count, seed), tmp_path / "out", settings=settings)
    kept, dropped = manifest.counts["out"], manifest.counts["dropped"]
    assert manifest.counts["in"] == count == kept + sum(dropped.values())
    assert 0.02 * count < kept < 0.9 * count
    assert not {"decoder_crash", "timeout", "damaged"} & set(dropped)
    assert len(list(ShardSet.open(tmp_path / "out"))) == kept
