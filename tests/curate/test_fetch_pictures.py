"""Decoders of a fetch may die, hang or never start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.curate.fault_server import FaultServer, jpeg
from tests.curate.test_fetch import fetched, settings_for

from diptych.core.errors import EnvironmentFault


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


MISBEHAVING = """
import os, time
from diptych.data.images import decode as honest

def decode(data, limits):
    if b"KILL" in data:
        os.kill(os.getpid(), 11)
    if b"HANG" in data:
        time.sleep(600)
    if b"GREEDY" in data:
        bytearray(2**36)
    return honest(data, limits)
"""


def test_a_decoder_that_dies_costs_its_own_picture_only(
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
    settings = settings_for(server, decoder="diptych.data.images:absent", decoders=1)
    with pytest.raises(EnvironmentFault, match="does not start"):
        fetched([server.url(f"/ok/{n}") for n in range(5)], settings)
