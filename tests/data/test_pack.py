"""Packing survives its decoders, makes the same bytes with any number of workers, and resumes after kills."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.data.source_files import INTERRUPTIONS, digests, images, make_image

from diptych.core.errors import (
    DataError,
    DiptychError,
    EnvironmentFault,
    Reason,
    TooMuchBadDataError,
    UsageError,
)
from diptych.core.files.durable import TEMP_PREFIX
from diptych.core.records import Counts, Pair
from diptych.data.images.limits import ImageLimits
from diptych.data.images.sandbox import DecoderSettings, decode_all
from diptych.data.pack import PackSettings, pack
from diptych.data.shards.reader import ShardSet
from diptych.data.shards.writer import ShardSettings
from diptych.data.sources.open import open_source

ANY_LOSS = ShardSettings(max_bad_fraction=1.0, max_samples=16)

# A decoder with one fault for each of a few marked files, as a plug-in of someone else might have.
MISBEHAVING = """
import ctypes, io, os, sys, time
from PIL import Image

def decode(data, limits):
    if b"SEGFAULT" in data:
        ctypes.string_at(0)
    if b"HANG" in data:
        while True:
            pass
    if b"EXIT" in data:
        os._exit(3)
    if b"HUNGRY" in data:
        bytearray(64 * 2**30)
    if b"ODD" in data:
        raise KeyError("odd")
    if b"CHATTY" in data:
        print("noise on standard output", flush=True)
        os.write(1, b"and below it")
    return Image.open(io.BytesIO(data)).convert("RGB")

broken = "no function"
"""


@pytest.fixture
def folder(tmp_path):
    """Forty images in a folder: two without a caption, two that do not decode, one far too large."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        data = make_image(number)
        data = data[:100] if number in (7, 23) else data
        data = make_image(number, size=(300, 300)) if number == 31 else data
        (source / f"{number:03d}.jpg").write_bytes(data)
        if number not in (4, 5):
            (source / f"{number:03d}.txt").write_text(f"caption {number}")
    return source


def settings_for(workers: int) -> PackSettings:
    limits = ImageLimits(max_pixels=10_000)
    return PackSettings(DecoderSettings(limits=limits), ANY_LOSS, workers=workers)


def test_any_number_of_workers_gives_the_same_bytes_and_counts(folder, tmp_path):
    made = {}
    for workers in (0, 1, 3):
        manifest = pack(open_source(folder), tmp_path / f"out{workers}", settings=settings_for(workers))
        made[workers] = (digests(tmp_path / f"out{workers}"), manifest.counts)
        assert manifest.counts["in"] == 40 and manifest.counts["out"] == 35
        assert manifest.counts["dropped"]["missing_caption"] == 2
        assert manifest.counts["dropped"]["too_many_pixels"] == 1
        assert manifest.counts["examples"]["too_many_pixels"] == ["031"]
    assert made[0] == made[1] == made[3]
    assert ShardSet.open(tmp_path / "out0").digest == ShardSet.open(tmp_path / "out3").digest


def test_what_is_packed_already_is_left_alone(folder, tmp_path):
    out = tmp_path / "out"
    first = pack(open_source(folder), out, settings=settings_for(0))
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert pack(open_source(str(folder) + "/"), out, settings=settings_for(2)) == first
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    other = replace(settings_for(0), shards=replace(ANY_LOSS, max_samples=5))
    with pytest.raises(UsageError, match="another pack"):
        pack(open_source(folder), out, settings=other)
    (folder / "000.txt").write_text("another caption")
    with pytest.raises(UsageError, match="another pack"):
        pack(open_source(folder), out, settings=settings_for(0))


def test_too_much_bad_data_fails_and_leaves_nothing(folder, tmp_path):
    strict = replace(settings_for(2), shards=replace(ANY_LOSS, max_bad_fraction=0.05))
    with pytest.raises(TooMuchBadDataError, match="5 of 40 dropped"):
        pack(open_source(folder), tmp_path / "out", settings=strict)
    for path in folder.glob("*.txt"):
        path.unlink()
    with pytest.raises(DataError, match="no pair is left"):
        pack(open_source(folder), tmp_path / "out", settings=settings_for(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_large_images_are_made_smaller_when_asked(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name, size in (("wide", (400, 200)), ("tall", (90, 300)), ("small", (40, 30))):
        (source / f"{name}.jpg").write_bytes(make_image(3, size=size))
        (source / f"{name}.txt").write_text(name)
    for workers in (0, 2):
        settings = PackSettings(decoding=DecoderSettings(resize=64), workers=workers)
        pack(open_source(source), tmp_path / f"out{workers}", settings=settings)
    pairs = {pair.key: pair for pair in ShardSet.open(tmp_path / "out2")}
    sizes = {key: Image.open(io.BytesIO(pair.image)).size for key, pair in pairs.items()}
    assert sizes == {"wide": (128, 64), "tall": (64, 213), "small": (40, 30)}
    assert pairs["small"].image == make_image(3, size=(40, 30))
    assert digests(tmp_path / "out0") == digests(tmp_path / "out2")


def test_without_verification_the_first_bytes_still_decide(folder, tmp_path):
    (folder / "000.jpg").write_bytes(b"<html>not found</html>")
    settings = replace(settings_for(0), verify_decode=False)
    manifest = pack(open_source(folder), tmp_path / "out", settings=settings)
    assert manifest.counts["dropped"] == {"format_not_allowed": 1, "missing_caption": 2}


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "misbehaving_decoder.py").write_text(MISBEHAVING)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    return "misbehaving_decoder:decode"


@pytest.mark.timeout(120)
def test_a_decoder_that_dies_or_hangs_costs_its_own_image_only(misbehaving):
    marks = {20: "SEGFAULT", 45: "HANG", 70: "EXIT", 71: "HUNGRY", 72: "ODD", 73: "CHATTY", 199: "EXIT"}
    items = [(number, make_image(number) + marks.get(number, "").encode()) for number in range(200)]
    settings = DecoderSettings(decoder=misbehaving, timeout_seconds=2.0)
    results = list(decode_all(items, lambda item: item[1], settings=settings, workers=2))
    assert [item for item, _ in results] == items
    assert {item[0]: result.reason for item, result in results if result.reason} == {
        20: Reason.DECODER_CRASH,
        45: Reason.TIMEOUT,
        70: Reason.DECODER_CRASH,
        71: Reason.TOO_MANY_PIXELS,
        72: Reason.UNREADABLE_IMAGE,
        199: Reason.DECODER_CRASH,
    }


def test_a_decoder_that_cannot_start_is_an_error(misbehaving):
    settings = DecoderSettings(decoder=misbehaving.replace(":decode", ":absent"))
    with pytest.raises(EnvironmentFault, match="does not start"):
        list(decode_all([b"x"], bytes, settings=settings, workers=1))


def _children() -> set[int]:
    """Process ids of this process's children (Linux)."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for task in tasks.glob("*/children") for pid in task.read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_no_decoder_is_left_behind_whatever_ends_the_packing(misbehaving):
    before = _children()
    settings = DecoderSettings(decoder=misbehaving, timeout_seconds=60.0)
    images = [make_image(number) + b"HANG" * (number > 150) for number in range(300)]
    stream = decode_all(images, bytes, settings=settings, workers=2)
    next(stream)
    assert _children() > before
    stream.close()
    assert _children() == before

    def failing() -> Iterator[bytes]:
        yield from images[:100]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        list(decode_all(failing(), bytes, settings=settings, workers=2))
    assert _children() == before


def test_large_images_cross_the_socket_whole():
    images = [make_image(1, size=(32, 32)) + bytes(number * 500_000) for number in range(8)]
    settings = DecoderSettings(resize=16)
    results = list(decode_all(images, bytes, settings=settings, workers=2))
    assert all(result.image is not None and len(result.image) < 2000 for _, result in results)


@pytest.mark.parametrize("interrupted", INTERRUPTIONS)
def test_an_interruption_at_any_durable_step_leaves_nothing_half_done(interrupted, tmp_path, monkeypatch):
    def begin(step):
        pack(open_source(tmp_path / "source"), tmp_path / f"out{step}", settings=settings)

    images(tmp_path / "source", *(f"{number}.jpg" for number in range(5)))
    for number in range(5):
        (tmp_path / "source" / f"{number}.txt").write_text(f"caption {number}")
    settings = PackSettings(workers=0, shards=ShardSettings(max_samples=3))
    begin(0)
    whole = digests(tmp_path / "out0")
    assert {"00000.tar", "00001.tar", "index.npy"} == set(whole)
    monkeypatch.setenv("DIPTYCH_TESTING", "1")
    for step in interrupted(begin):
        out = tmp_path / f"out{step}"
        assert not out.exists() or digests(out) == whole
        begin(step)
        assert digests(out) == whole, step
        assert [path for path in tmp_path.iterdir() if path.name.startswith(TEMP_PREFIX)] == [], step
        shutil.rmtree(out)


def test_a_folder_that_holds_something_else_is_never_touched(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(DiptychError, match="not empty"):
        pack(open_source(folder), tmp_path / "out", settings=settings_for(0))
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"


def test_the_fashion_titles_pack_without_a_loss(shared_data, tmp_path):
    manifest = pack(open_source(shared_data / "fashion" / "test.parquet"), tmp_path / "out")
    assert manifest.counts["in"] == manifest.counts["out"] == 3649
    shards = ShardSet.open(tmp_path / "out")
    assert isinstance(shards.pair(17), Pair) and "article_type" in shards.pair(17).fields
    again = Counts()
    keys = [pair.key for pair in open_source(tmp_path / "out").pairs(again)]
    assert len(keys) == 3649 and not again.dropped


def test_the_limit_of_pixels_is_a_setting_of_every_process(tmp_path):
    images(tmp_path / "photos", "a.jpg")  # 8 by 6 pixels
    (tmp_path / "photos" / "a.txt").write_text("a photo")
    command = [sys.executable, "-m", "diptych.cli.main", "pack", "photos", "out"]
    environment = {**os.environ, "DIPTYCH_MAX_PIXELS": "47"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "DIPTYCH_MAX_PIXELS" in done.stderr, done.stderr
