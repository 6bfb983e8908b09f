"""The vectors of `test_addresses` through a whole fetch, and a listener that counts what reaches it."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import pytest
from tests.curate.fault_server import FaultServer, response
from tests.curate.fetch.test_addresses import ALL
from tests.curate.fetch.test_fetch import candidates, settings_for

from diptych.core.errors import Reason
from diptych.curate.fetch.fetch import fetch_partition
from diptych.curate.fetch.settings import FetchSettings

REFUSED = {"bad_address", "forbidden_address"}
INNER = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]


class Canary:
    """Listens on this machine and counts who comes."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.visits = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.socket.accept()[0].close()
                self.visits += 1


@pytest.fixture
def canary() -> Iterator[Canary]:
    listening = Canary()
    yield listening
    listening.socket.close()
    assert listening.visits == 0


@pytest.fixture
def outside() -> Iterator[FaultServer]:
    """Serve under the one address that is allowed, so that the canary's own is not."""
    try:
        with FaultServer("::1") as server:
            yield server
    except AssertionError:
        pytest.skip("this machine has no IPv6 loopback")


async def inwards(host: str) -> Sequence[str]:
    """Resolve every name to this machine, beside a public address, as the owner of a domain may."""
    return ["9.9.9.9", "127.0.0.1"]


def towards(url: str, port: int) -> str:
    """Lead a vector that names no port to the canary's."""
    head, slash, rest = url.partition("/a.jpg")
    plain = head.startswith("http://") and slash and not head.endswith(":80") and "@" not in head
    return f"{head}:{port}/a.jpg{rest}" if plain else url


def statuses(urls: Sequence[str], settings: FetchSettings, lookup: object) -> list[str]:
    table = candidates([{"url": url} for url in urls])
    done, counts = fetch_partition(table, settings, lookup=lookup)  # type: ignore[arg-type]
    assert counts.seen == len(urls) == counts.kept + counts.dropped.total()
    result: list[str] = done["status"].to_pylist()
    return result


def test_no_url_reaches_the_canary(canary: Canary) -> None:
    ports = (80, canary.port)
    settings = FetchSettings(contact="x@example.org", allow_ports=ports, delay_seconds=0.0, decoders=0)
    urls = [url for _, url in ALL] + [towards(url, canary.port) for _, url in ALL]
    urls += [f"http://{name}.example.org:{canary.port}/" for name in ("rebind", "localtest", "127-0-0-1")]
    results = statuses([url for url in urls if url], settings, inwards)
    assert len(results) > 2 * 80
    assert set(results) == REFUSED


def test_no_redirect_reaches_the_canary(canary: Canary, outside: FaultServer) -> None:
    settings = settings_for(
        outside, allow_networks=("::1/128",), allow_ports=(80, canary.port, outside.port), per_host=64
    )
    targets = {towards(url, canary.port) for _, url in ALL if url and "::1]" not in url and "\n" not in url}
    targets |= {f"http://name.example.org:{canary.port}/"}
    urls = [
        outside.url("/to", "[::1]") + f"?url={quote(quote(one, safe=''), safe='')}" for one in sorted(targets)
    ]
    ok, *results = statuses([outside.url("/ok/1", "[::1]"), *urls], settings, inwards)
    assert ok == "ok"
    # What is no URL of its own is a path on the same host, and not there; what cannot be a header is none.
    assert set(results) - REFUSED <= {"connection", "http_client_error", "too_many_bytes"}
    assert sum(one in REFUSED for one in results) >= 90


def test_a_robots_txt_is_no_way_in_either(canary: Canary, outside: FaultServer) -> None:
    outside.robots = {"[::1]": response(302, b"", f"Location: http://127.0.0.1:{canary.port}/robots.txt")}
    settings = settings_for(outside, allow_networks=("::1/128",), allow_ports=(canary.port, outside.port))
    assert statuses([outside.url("/ok/1", "[::1]")], settings, inwards) == [Reason.FORBIDDEN_ADDRESS]


@pytest.mark.parametrize("second", INNER)
def test_a_name_that_changes_its_answer_is_dialled_where_it_was_judged(
    canary: Canary, outside: FaultServer, second: str
) -> None:
    responses = [["::1"], [second]]

    async def rebinding(host: str) -> Sequence[str]:
        return responses.pop(0) if len(responses) > 1 else responses[0]

    settings = settings_for(outside, allow_networks=("::1/128",))
    urls = [outside.url(f"/ok/{n}", "rebind.example.org") for n in range(5)]
    assert statuses(urls, settings, rebinding) == ["ok"] * 5
    assert statuses(urls, settings, rebinding) == [Reason.FORBIDDEN_ADDRESS] * 5
