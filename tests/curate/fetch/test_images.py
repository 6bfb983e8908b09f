"""Decoders of a fetch may die, hang or never start."""

import warnings
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tests.curate.fault_server import FaultServer, jpeg
from tests.curate.fetch.test_fetch import fetched, settings_for
from tests.data.test_damage import mutants

from diptych.core.errors import EnvironmentFault


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


MISBEHAVING = """
import os, time
from diptych.data.images.transforms import decode as honest

def decode(data, limits):
    if b"KILL" in data:
        os.kill(os.getpid(), 11)
    if b"HANG" in data:
        time.sleep(600)
    if b"GREEDY" in data:
        bytearray(2**36)
    return honest(data, limits)
"""


def test_a_decoder_that_dies_costs_its_own_image_only(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_decoder.py").write_text(MISBEHAVING)
    monkeypatch.syspath_prepend(str(tmp_path))
    marks = {10: b"KILL", 20: b"HANG", 30: b"GREEDY"}
    server.pictures |= {f"/d{n}.jpg": jpeg(n, comment=marks.get(n, b"fine")) for n in range(60)}
    rows, counts = fetched(
        [server.url(f"/d{n}.jpg") for n in range(60)],
        settings_for(server, decoder="deadly_decoder:decode", decoders=2, decode_seconds=1.0),
    )
    assert counts.kept == 57
    assert {n: row["status"] for n, row in enumerate(rows) if row["status"] != "ok"} == {
        10: "decoder_crash", 20: "timeout", 30: "too_many_pixels",
    }  # fmt: skip


def test_a_decoder_that_cannot_start_is_told_and_leaves_nothing_running(server: FaultServer) -> None:
    settings = settings_for(server, decoder="diptych.data.images.transforms:absent", decoders=1)
    with pytest.raises(EnvironmentFault, match="does not start"):
        fetched([server.url(f"/ok/{n}") for n in range(5)], settings)


def test_10000_mutated_images_are_fetched_and_every_one_is_counted(server: FaultServer) -> None:
    count = 10_000
    sent = list(mutants(count, seed=3))
    server.pictures |= {f"/m{n}.img": data for n, data in enumerate(sent)}
    rows, counts = fetched(
        [server.url(f"/m{n}.img") for n in range(count)], settings_for(server, decoders=2, per_host=32)
    )
    statuses = Counter(row["status"] for row in rows)
    assert counts.seen == count == len(rows) == counts.kept + sum(counts.dropped.values())
    assert statuses == Counter({"ok": counts.kept, **counts.dropped})
    assert 0.02 * count < counts.kept < 0.9 * count
    assert not {"decoder_crash", "timeout", "connection"} & set(statuses)
    for row, data in zip(rows, sent, strict=True):
        if row["status"] == "ok":
            assert row["image"] == data
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Image.open(BytesIO(data)).load()  # Pillow, asked directly, agrees
