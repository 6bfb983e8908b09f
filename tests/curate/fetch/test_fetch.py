"""Whatever servers do, every request ends in time, every row has one reason, and nobody is asked too much."""

import hashlib
import io
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from tests.curate.fault_server import FaultServer, jpeg, response
from tests.data.test_damage import mutants

from diptych.core.errors import EnvironmentFault, Reason, SettingsError
from diptych.core.records import Counts
from diptych.curate.columns import CANDIDATES, FETCHED
from diptych.curate.fetch.fetch import fetch_partition
from diptych.curate.fetch.settings import FetchSettings

MAX_BYTES = 300_000
TIMEOUT, DEADLINE = 1.5, 5.0  # seconds; enough beside other programs


async def here(host: str) -> Sequence[str]:
    """Resolve every name to this machine, but for one that does not exist."""
    if host.startswith("nowhere"):
        raise OSError("no such name")
    return ["127.0.0.1"]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def settings_for(server: FaultServer, **changes: object) -> FetchSettings:
    plain: dict[str, object] = {
        "contact": "test@example.org", "allow_networks": ("127.0.0.1/32",), "allow_ports": (server.port,),
        "delay_seconds": 0.0, "per_host": 64, "timeout_seconds": TIMEOUT, "deadline_seconds": DEADLINE,
        "backoff_seconds": 0.02, "max_bytes": MAX_BYTES, "decoders": 0
    }  # fmt: skip
    return FetchSettings(**{**plain, **changes})  # type: ignore[arg-type]


def candidates(rows: Sequence[dict[str, object]]) -> pa.Table:
    plain = ({"key": f"{place:04d}", "caption": "c", "license": "cc0"} for place in range(len(rows)))
    return pa.Table.from_pylist(
        [given | row for given, row in zip(plain, rows, strict=True)], schema=CANDIDATES
    )


def fetched(urls: Sequence[str], settings: FetchSettings) -> tuple[list[dict[str, Any]], Counts]:
    table, counts = fetch_partition(candidates([{"url": url} for url in urls]), settings, lookup=here)
    assert table.schema == FETCHED
    assert table.num_rows == len(urls) == counts.seen == counts.kept + counts.dropped.total()
    rows: list[dict[str, Any]] = table.to_pylist()
    assert all((row["status"] == "ok") == (row["image"] is not None) for row in rows)
    return rows, counts


def size_of(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size


# path: what becomes of it, and how often it is requested with two retries
FAULTS: dict[str, tuple[str, int]] = {
    "/ok/1": ("ok", 1), "/packed": ("ok", 1), "/chain/5": ("ok", 2),  # by /chain/6 too
    "/busy/2/429": ("ok", 3), "/busy/1/503/0": ("ok", 2), "/busy/3/503": ("http_server_error", 3),
    "/busy/9/429": ("rate_limited", 3), "/busy/9/429/60": ("rate_limited", 1),
    "/status/404": ("http_client_error", 1), "/status/410": ("http_client_error", 1),
    "/status/403": ("http_client_error", 1), "/status/204": ("http_client_error", 1),
    "/status/302": ("http_client_error", 1), "/status/500": ("http_server_error", 1),
    "/status/502": ("http_server_error", 3), "/status/504": ("http_server_error", 3),
    "/hangup": ("connection", 6),  # aiohttp asks once more by itself
    "/reset": ("connection", 3), "/long": ("connection", 3), "/short": ("connection", 3),
    "/garbage": ("connection", 3), "/endless-head": ("connection", 3),
    "/silent": ("timeout", 1), "/drip": ("timeout", 1), "/slow-head": ("timeout", 1),
    "/endless": ("too_many_bytes", 1), "/announced": ("too_many_bytes", 1), "/bomb": ("too_many_bytes", 1),
    "/loop": ("redirects", 6), "/chain/6": ("redirects", 1),
    "/page": ("not_an_image", 1), "/empty": ("not_an_image", 1), "/misnamed": ("not_an_image", 1),
    "/brotli": ("not_an_image", 1), "/svg": ("format_not_allowed", 1), "/cut": ("truncated_image", 1)
}  # fmt: skip


def test_every_fault_ends_in_time_and_is_told() -> None:
    # A host of its own for each, since one that asks to be left alone is.
    with FaultServer() as server:
        urls = [server.url(path, f"h{position}.example.org") for position, path in enumerate(FAULTS)]
        started = time.monotonic()
        rows, counts = fetched(urls, settings_for(server))
        assert time.monotonic() - started < 2 * DEADLINE  # robots.txt, then the image
    statuses = [row["status"] for row in rows]
    assert {
        path: (status, server.asked[path]) for path, status in zip(FAULTS, statuses, strict=True)
    } == FAULTS
    assert counts.kept == 5
    assert all(row["robots"] == "absent" for row in rows)
    assert max(row["bytes"] or 0 for row in rows) <= MAX_BYTES + 2**16


def test_what_is_known_of_a_row_is_kept(server: FaultServer) -> None:
    urls = [server.url(path) for path in ("/chain/2", "/status/404", "/page")]
    (chained, gone, page), _ = fetched(urls, settings_for(server))
    assert chained == {
        "key": "0000", "status": "ok", "image": jpeg(7), "sha256": hashlib.sha256(jpeg(7)).hexdigest(),
        "width": 64, "height": 48, "bytes": len(jpeg(7)), "url": server.url("/chain/0"), "http_status": 200,
        "content_type": "image/jpeg", "robots": "absent", "opt_out": None, "license": "cc0"
    }  # fmt: skip
    assert (gone["http_status"], gone["image"], gone["sha256"]) == (404, None, None)
    assert (page["http_status"], page["content_type"]) == (200, "image/jpeg")
    assert server.agents == {"diptych/0.1 (+test@example.org)"}


def test_hosts_that_cannot_be_reached_are_told_apart(server: FaultServer) -> None:
    with FaultServer() as closed:
        pass
    dead = f"http://dead.example.org:{closed.port}/x"
    urls = [dead, server.url("/ok/1", "nowhere.example.org"), "http://x.org:1/"]
    rows, _ = fetched(urls, settings_for(server, allow_ports=(server.port, closed.port)))
    assert [row["status"] for row in rows] == ["connection", "name_not_found", "forbidden_address"]


def test_rows_without_anything_to_fetch_are_counted(server: FaultServer) -> None:
    table = candidates(
        [{}, {"url": ""}, {"url": "mailto:x"}, {"url": server.url("/ok/1"), "fields": '{"sha256":'}]
    )
    done, counts = fetch_partition(table, settings_for(server), lookup=here)
    assert done["status"].to_pylist() == ["missing_image", "missing_image", "bad_address", "bad_row"]
    assert counts.as_dict()["dropped"] == {"bad_address": 1, "bad_row": 1, "missing_image": 2}
    empty, none = fetch_partition(candidates([]), settings_for(server), lookup=here)
    assert (empty.num_rows, none.seen, empty.schema) == (0, 0, FETCHED)


def test_nobody_on_the_web_is_asked_without_a_contact(server: FaultServer) -> None:
    with pytest.raises(SettingsError, match="cannot reach you"):
        fetched([server.url("/ok/1")], settings_for(server, contact=""))
    rows, _ = fetched([server.url("/ok/1", "127.0.0.1")], settings_for(server, contact=""))
    assert rows[0]["status"] == "ok"


ROBOTS = b"User-agent: diptych\nDisallow: /ok/2\nDisallow: /chain/0\nContent-Usage: /ok/3 train-ai=n\n"


def test_robots_txt_is_kept_to_on_the_way_too() -> None:
    with FaultServer() as server:
        server.robots = {
            "a.example.org": response(200, ROBOTS),
            "b.example.org": response(503),
            "c.example.org": response(302, b"", f"Location: {server.url('/robots.txt')}"),
            "d.example.org": response(302, b"", "Location: /robots.txt"),
            "e.example.org": response(403),
        }
        settings = settings_for(server)
        hosts = [("a", "/ok/1"), ("a", "/ok/2"), ("a", "/chain/2"), ("a", "/ok/3"), ("b", "/ok/4"),
                 ("c", "/ok/2"), ("d", "/ok/5"), ("e", "/ok/6")]  # fmt: skip
        rows, _ = fetched([server.url(path, f"{host}.example.org") for host, path in hosts], settings)
        assert [(row["status"], row["robots"]) for row in rows] == [
            ("ok", "allowed"), ("robots", "disallowed"), ("robots", "disallowed"), ("opted_out", "allowed"),
            ("http_server_error", "unreachable"), ("robots", "disallowed"),
            ("ok", "absent"), ("ok", "absent")
        ]  # fmt: skip
        assert rows[3]["opt_out"] == "content-usage"
        assert {server.asked[path] for path in ("/ok/2", "/chain/0", "/ok/3", "/ok/4")} == {0}
        ignoring = settings_for(server, robots=False)
        assert [row["robots"] for row in fetched([server.url("/ok/2")], ignoring)[0]] == [None]


def test_names_and_robots_txt_are_asked_for_once_a_host() -> None:
    names: list[str] = []

    async def counting(host: str) -> Sequence[str]:
        names.append(host)
        return await here(host)

    with FaultServer() as server:
        urls = [server.url(f"/ok/{n}", f"{host}.example.org") for n in range(30) for host in "ab"]
        table = candidates([{"url": url} for url in urls])
        _, counts = fetch_partition(table, settings_for(server), lookup=counting)
        assert (counts.kept, server.asked["/robots.txt"]) == (60, 2)
    assert sorted(names) == ["a.example.org", "b.example.org"]


def test_owners_who_say_no_are_heard(server: FaultServer) -> None:
    signals = {
        "X-Robots-Tag=otherbot:noai": None,
        "X-Robots-Tag=diptych:noindex,noimageai": "noimageai,noindex",
        "tdm-reservation=1&X-Robots-Tag=none": "none,tdm-reservation",
    }
    urls = [server.url(f"/ok/1?{query}") for query in signals]
    rows, _ = fetched(urls, settings_for(server))
    assert [row["opt_out"] for row in rows] == list(signals.values())
    assert [row["status"] for row in rows] == ["ok", "opted_out", "opted_out"]
    rows, _ = fetched(urls, settings_for(server, respect_opt_out=()))
    assert [(row["status"], row["opt_out"]) for row in rows] == [
        ("ok", signal) for signal in signals.values()
    ]


def test_a_host_is_asked_by_few_at_a_time_and_not_too_often() -> None:
    with FaultServer() as server:
        server.images = {f"/{place}.jpg": jpeg(place) for place in range(40)}
        urls = [server.url(path, f"{host}.example.org") for path in server.images for host in "ab"]
        _, counts = fetched(urls, settings_for(server, per_host=2, delay_seconds=0.01))
        assert counts.kept == 80
        assert max(server.most_open.values()) <= 2
        times = sorted(start for host, start in server.starts if host == "a.example.org")
        assert times[-1] - times[1] >= 0.01 * 39 * 0.9


def test_crawl_delay_is_kept_to_within_reason() -> None:
    with FaultServer() as server:
        server.robots = {"a.example.org": response(200, b"User-agent: *\nCrawl-delay: 900")}
        started = time.monotonic()
        urls = [server.url(f"/ok/{n}") for n in range(4)]
        _, counts = fetched(urls, settings_for(server, max_crawl_delay_seconds=0.2))
        assert (counts.kept, time.monotonic() - started >= 0.6) == (4, True)


def test_retry_after_is_waited_for_and_a_host_that_wants_rest_gets_it() -> None:
    with FaultServer() as server:
        started = time.monotonic()
        rows, _ = fetched([server.url("/busy/1/503/1")], settings_for(server))
        assert rows[0]["status"] == "ok"
        assert 1.0 <= time.monotonic() - started < DEADLINE
        paths = ["/busy/99/429/3600", *(f"/ok/{n}" for n in range(50))]
        urls = [server.url(path, "b.example.org") for path in paths]
        rows, counts = fetched(urls, settings_for(server, per_host=1))
        assert counts.dropped == {Reason.RATE_LIMITED: 51}
        assert sum(server.asked[f"/ok/{n}"] for n in range(50)) == 0


def test_exactly_the_images_that_changed_since_they_were_indexed_are_dropped() -> None:
    """Whoever buys an expired domain can put any image under an old URL (Carlini et al. 2023)."""
    changed = set(range(5, 1000, 27))
    files = [jpeg(n, (16, 16)) for n in range(1000)]
    digests = [json.dumps({"sha256": hashlib.sha256(data).hexdigest()}) for data in files]
    with FaultServer() as server:
        server.images = {
            f"/{n}.jpg": jpeg(5000 + n, (16, 16)) if n in changed else data for n, data in enumerate(files)
        }
        rows = [{"url": server.url(f"/{n}.jpg"), "fields": fields} for n, fields in enumerate(digests)]
        patient = settings_for(server, timeout_seconds=10.0, deadline_seconds=60.0)
        done, counts = fetch_partition(candidates(rows), patient, lookup=here)
        trusting = settings_for(server, verify_sha256=False)
        trusted, _ = fetch_partition(candidates(rows[:32]), trusting, lookup=here)
    status = done["status"].to_pylist()
    assert {n for n, state in enumerate(status) if state == "hash_mismatch"} == changed
    assert counts.dropped == {Reason.HASH_MISMATCH: 37}
    assert done["image"].to_pylist() == [None if n in changed else data for n, data in enumerate(files)]
    assert set(trusted["status"].to_pylist()) == {"ok"}


def test_images_are_made_smaller_when_asked_and_never_larger(server: FaultServer) -> None:
    flag, buffer = Image.new("RGB", (300, 100), "blue"), io.BytesIO()
    flag.paste("red", (100, 0, 200, 100))
    flag.save(buffer, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: the size is that of what a viewer shows
    server.images |= {"/wide.png": buffer.getvalue(), "/small.jpg": jpeg(2, (40, 30)),
                      "/turned.jpg": jpeg(3, (60, 20), exif=exif)}  # fmt: skip
    sizes = {}
    for resize in ("none", "keep_ratio", "center_crop"):
        urls = [server.url(path) for path in ("/wide.png", "/small.jpg", "/turned.jpg")]
        rows, _ = fetched(urls, settings_for(server, resize=resize, size=64))
        sizes[resize] = [(row["width"], row["height"]) for row in rows]
        assert [size_of(row["image"]) for row in rows[:2]] == sizes[resize][:2]
        if resize == "none":
            assert rows[2]["image"] == server.images["/turned.jpg"]
    assert sizes == {
        "none": [(300, 100), (40, 30), (20, 60)],
        "keep_ratio": [(192, 64), (40, 30), (20, 60)],
        "center_crop": [(64, 64), (30, 30), (20, 20)],
    }
    center = Image.open(io.BytesIO(rows[0]["image"])).crop((4, 4, 60, 60))  # red is all that a crop keeps
    assert all(red > 245 and max(others) < 10 for _, (red, *others) in center.getcolors(9999) or ())


def test_images_that_candidates_bring_are_judged_without_the_network(server: FaultServer) -> None:
    before = server.connections
    good, bad = jpeg(1, (90, 90)), b"<html>"
    digest = hashlib.sha256(good).hexdigest()
    table = candidates(
        [{"image": good, "url": server.url("/ok/1")}, {"image": bad}, {"image": good[:700]},
         {"image": good, "fields": json.dumps({"sha256": "0" * 64})}]
    )  # fmt: skip
    kept, counts = fetch_partition(table, FetchSettings(decoders=0))
    # The last is what img2dataset writes: the digest of the download beside the image encoded again.
    assert kept["status"].to_pylist() == ["ok", "unreadable_image", "truncated_image", "ok"]
    assert (kept["image"].null_count, kept["sha256"].to_pylist()[::3], kept["width"][0].as_py()) == (
        4, [digest, digest], 90
    )  # fmt: skip
    assert counts.kept == 2
    smaller, _ = fetch_partition(table, FetchSettings(decoders=0, resize="keep_ratio", size=30))
    assert size_of(smaller["image"][0].as_py()) == (30, 30)
    assert server.connections == before


def test_the_same_answers_make_the_same_bytes(server: FaultServer) -> None:
    server.images |= {f"/s{n}.jpg": jpeg(n, (90, 70)) for n in range(30)}
    paths = [*(f"/s{n}.jpg" for n in range(30)), "/status/404", "/page", "/hangup"]
    table = candidates([{"url": server.url(path)} for path in paths])
    results = []
    for concurrency, decoders in ((1, 0), (64, 2)):
        cropped = {"resize": "center_crop", "size": 32, "concurrency": concurrency, "decoders": decoders}
        results.append(fetch_partition(table, settings_for(server, **cropped), lookup=here)[0])
    assert results[0].equals(results[1])


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
    server.images |= {f"/d{n}.jpg": jpeg(n, comment=marks.get(n, b"fine")) for n in range(60)}
    urls = [server.url(f"/d{n}.jpg") for n in range(60)]
    deadly = settings_for(server, decoder="deadly_decoder:decode", decoders=2, decode_seconds=1.0)
    rows, counts = fetched(urls, deadly)
    assert counts.kept == 57
    assert {n: row["status"] for n, row in enumerate(rows) if row["status"] != "ok"} == {
        10: "decoder_crash", 20: "timeout", 30: "too_many_pixels"
    }  # fmt: skip


def test_a_decoder_that_cannot_start_is_told_and_leaves_nothing_running(server: FaultServer) -> None:
    settings = settings_for(server, decoder="diptych.data.images.transforms:absent", decoders=1)
    with pytest.raises(EnvironmentFault, match="does not start"):
        fetched([server.url(f"/ok/{n}") for n in range(5)], settings)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.deep)])
def test_mutated_images_are_fetched_and_every_one_is_counted(server: FaultServer, count: int) -> None:
    sent = list(mutants(count, seed=3))
    server.images |= {f"/m{n}.img": data for n, data in enumerate(sent)}
    urls = [server.url(f"/m{n}.img") for n in range(count)]
    rows, counts = fetched(urls, settings_for(server, decoders=2, per_host=32))
    assert Counter(row["status"] for row in rows) == Counter({"ok": counts.kept, **counts.dropped})
    assert 0.02 * count < counts.kept < 0.9 * count
    assert not {"decoder_crash", "timeout", "connection"} & set(counts.dropped)
    for row, data in zip(rows, sent, strict=True):
        if row["status"] == "ok":
            assert row["image"] == data
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Image.open(io.BytesIO(data)).load()  # Pillow, asked directly, agrees


def test_settings_that_mean_nothing_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"user_agent": "x\r\nHost: y"}, {"contact": "\n"}, {"per_host": 0}, {"quality": 0}, {"retries": -1},
        {"respect_opt_out": ("nothing",)}, {"timeout_seconds": 0}, {"formats": ("EPS",)},
        {"allow_networks": ("x",)}
    ]  # fmt: skip
    for settings in wrong:
        with pytest.raises(SettingsError):
            FetchSettings(**settings)
