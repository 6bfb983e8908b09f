"""Fixtures that every test may ask for, and a closed network."""

import gc
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

REPOSITORY = Path(__file__).resolve().parent.parent


gc.disable()  # while test files are imported: what they make stays


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later garbage collection."""
    gc.freeze()
    gc.enable()


def toml_of(plain: Mapping[str, Any]) -> str:
    """Write plain values as TOML, which has no word for None."""

    def without_none(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: without_none(item) for name, item in value.items() if item is not None}
        return [without_none(item) for item in value] if isinstance(value, list) else value

    return tomli_w.dumps(without_none(plain))


@pytest.fixture(autouse=True)
def closed_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that is not to this machine: no test may need the network."""
    dial = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to reach {address!r}: tests run offline")
        dial(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("DIPTYCH_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set DIPTYCH_SHARED_DATA to its folder")
    return folder


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """Folder in memory where there is one: these tests wait for hundreds of fsyncs otherwise, 10 ms each."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="diptych-test-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
