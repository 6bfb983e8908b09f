"""Whatever servers do, every request ends in time, every row has one reason, and nobody is asked too much."""

import hashlib
import io
import json
import time
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest
from PIL import Image
from tests.curate.fault_server import FaultServer, jpeg, response

from diptych.core.errors import Reason, SettingsError
from diptych.core.records import Counts
from diptych.curate.columns import CANDIDATES, FETCHED
from diptych.curate.fetch.fetch import fetch_partition
from diptych.curate.fetch.settings import FetchSettings

MAX_BYTES = 300_000
TIMEOUT, DEADLINE = 0.8, 3.0


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
        "backoff_seconds": 0.02, "max_bytes": MAX_BYTES, "decoders": 0,
    }  # fmt: skip
    return FetchSettings(**{**plain, **changes})  # type: ignore[arg-type]


def candidates(rows: Sequence[dict[str, object]]) -> pa.Table:
    whole = [
        {"key": f"{place:04d}", "caption": "c", "license": "cc0", **row} for place, row in enumerate(rows)
    ]
    columns = {name: [row.get(name) for row in whole] for name in CANDIDATES.names}
    return pa.table(columns, schema=CANDIDATES)


def fetched(urls: Sequence[str], settings: FetchSettings) -> tuple[list[dict[str, object]], Counts]:
    table, counts = fetch_partition(candidates([{"url": url} for url in urls]), settings, lookup=here)
    assert table.schema == FETCHED
    assert table.num_rows == len(urls) == counts.seen == counts.kept + counts.dropped.total()
    rows: list[dict[str, object]] = table.to_pylist()
    for row in rows:
        assert (row["status"] == "ok") == (row["image"] is not None)
    return rows, counts


# path: what becomes of it, and how often it is asked with two retries
FAULTS: dict[str, tuple[str, int]] = {
    "/ok/1": ("ok", 1),
    "/packed": ("ok", 1),
    "/chain/5": ("ok", 2),  # by /chain/6 too
    "/busy/2/429": ("ok", 3),
    "/busy/1/503/0": ("ok", 2),
    "/busy/3/503": ("http_server_error", 3),
    "/busy/9/429": ("rate_limited", 3),
    "/busy/9/429/60": ("rate_limited", 1),
    "/status/404": ("http_client_error", 1),
    "/status/410": ("http_client_error", 1),
    "/status/403": ("http_client_error", 1),
    "/status/204": ("http_client_error", 1),
    "/status/302": ("http_client_error", 1),
    "/status/500": ("http_server_error", 1),
    "/status/502": ("http_server_error", 3),
    "/status/504": ("http_server_error", 3),
    "/hangup": ("connection", 6),  # aiohttp asks once more by itself
    "/reset": ("connection", 3),
    "/long": ("connection", 3),
    "/short": ("connection", 3),
    "/garbage": ("connection", 3),
    "/endless-head": ("connection", 3),
    "/silent": ("timeout", 1),
    "/drip": ("timeout", 1),
    "/slow-head": ("timeout", 1),
    "/endless": ("too_many_bytes", 1),
    "/announced": ("too_many_bytes", 1),
    "/bomb": ("too_many_bytes", 1),
    "/loop": ("redirects", 6),
    "/chain/6": ("redirects", 1),
    "/page": ("not_an_image", 1),
    "/empty": ("not_an_image", 1),
    "/misnamed": ("not_an_image", 1),
    "/brotli": ("not_an_image", 1),
    "/svg": ("format_not_allowed", 1),
    "/cut": ("truncated_image", 1),
}


def test_every_fault_ends_in_time_and_is_told() -> None:
    # A host of its own for each, since one that asks to be left alone is.
    with FaultServer() as server:
        urls = [server.url(path, f"h{place}.example.org") for place, path in enumerate(FAULTS)]
        started = time.monotonic()
        rows, counts = fetched(urls, settings_for(server))
        seconds = time.monotonic() - started
    assert {path: row["status"] for path, row in zip(FAULTS, rows, strict=True)} == {
        path: reason for path, (reason, _) in FAULTS.items()
    }
    assert {path: server.asked[path] for path in FAULTS} == {
        path: times for path, (_, times) in FAULTS.items()
    }
    assert seconds < 2 * DEADLINE  # robots.txt, then the picture
    assert counts.kept == 5
    assert all(row["robots"] == "absent" for row in rows)
    assert max(row["bytes"] or 0 for row in rows) <= MAX_BYTES + 2**16  # type: ignore[operator]


def test_what_is_known_of_a_row_is_kept(server: FaultServer) -> None:
    rows, _ = fetched(
        [server.url("/chain/2"), server.url("/status/404"), server.url("/page")], settings_for(server)
    )
    chained, gone, page = rows
    assert chained["url"] == server.url("/chain/0")
    assert chained["sha256"] == hashlib.sha256(jpeg(7)).hexdigest()
    assert (chained["image"], chained["width"], chained["height"]) == (jpeg(7), 64, 48)
    assert (chained["http_status"], chained["content_type"], chained["bytes"]) == (
        200,
        "image/jpeg",
        len(jpeg(7)),
    )
    assert (chained["license"], chained["robots"], chained["opt_out"]) == ("cc0", "absent", None)
    assert (gone["http_status"], gone["image"], gone["sha256"]) == (404, None, None)
    assert (page["http_status"], page["content_type"]) == (200, "image/jpeg")
    assert server.agents == {"diptych/0.1 (+test@example.org)"}


def test_hosts_that_cannot_be_reached_are_told_apart(server: FaultServer) -> None:
    closed = FaultServer()
    with closed:
        pass
    settings = settings_for(server, allow_ports=(server.port, closed.port))
    urls = [
        f"http://dead.example.org:{closed.port}/x",
        server.url("/ok/1", "nowhere.example.org"),
        "http://x.org:1/",
    ]
    rows, _ = fetched(urls, settings)
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


# --- manners ---------------------------------------------------------------------------------------

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
            ("ok", "absent"), ("ok", "absent"),
        ]  # fmt: skip
        assert rows[3]["opt_out"] == "content-usage"
        assert {server.asked[path] for path in ("/ok/2", "/chain/0", "/ok/3", "/ok/4")} == {0}
        ignoring = settings_for(server, robots=False)
        assert [row["robots"] for row in fetched([server.url("/ok/2")], ignoring)[0]] == [None]


def test_robots_txt_is_asked_for_once_a_host() -> None:
    with FaultServer() as server:
        urls = [server.url(f"/ok/{place}", f"{host}.example.org") for place in range(30) for host in "ab"]
        _, counts = fetched(urls, settings_for(server))
        assert (counts.kept, server.asked["/robots.txt"]) == (60, 2)


@pytest.mark.parametrize(
    ("query", "signals"),
    [
        ("X-Robots-Tag=noai", "noai"),
        ("X-Robots-Tag=otherbot:noai", None),
        ("X-Robots-Tag=diptych:noindex,noimageai", "noimageai,noindex"),
        ("Content-Usage=train-ai%3Dn", "content-usage"),
        ("Content-Signal=ai-train%3Dno", "content-signal"),
        ("tdm-reservation=1&X-Robots-Tag=none", "none,tdm-reservation"),
        ("tdm-reservation=0", None),
    ],
)
def test_owners_who_say_no_are_heard(server: FaultServer, query: str, signals: str | None) -> None:
    url = server.url(f"/ok/1?{query}")
    (row,), _ = fetched([url], settings_for(server))
    assert (row["status"], row["opt_out"]) == ("ok" if signals is None else "opted_out", signals)
    (heard,), _ = fetched([url], settings_for(server, respect_opt_out=()))
    assert (heard["status"], heard["opt_out"]) == ("ok", signals)


def test_a_host_is_asked_by_few_at_a_time_and_not_too_often() -> None:
    with FaultServer() as server:
        server.pictures = {f"/{place}.jpg": jpeg(place) for place in range(40)}
        urls = [server.url(path, f"{host}.example.org") for path in server.pictures for host in "ab"]
        _, counts = fetched(urls, settings_for(server, per_host=2, delay_seconds=0.01))
        assert counts.kept == 80
        assert max(server.most_open.values()) <= 2
        times = sorted(start for host, start in server.starts if host == "a.example.org")
        assert times[-1] - times[1] >= 0.01 * 39 * 0.9


def test_crawl_delay_is_kept_to_within_reason() -> None:
    with FaultServer() as server:
        server.robots = {"a.example.org": response(200, b"User-agent: *\nCrawl-delay: 900")}
        started = time.monotonic()
        _, counts = fetched(
            [server.url(f"/ok/{n}") for n in range(4)], settings_for(server, max_crawl_delay_seconds=0.2)
        )
        assert (counts.kept, time.monotonic() - started >= 0.6) == (4, True)


def test_retry_after_is_waited_for_and_a_host_that_wants_rest_gets_it() -> None:
    with FaultServer() as server:
        started = time.monotonic()
        rows, _ = fetched([server.url("/busy/1/503/1")], settings_for(server))
        assert rows[0]["status"] == "ok"
        assert 1.0 <= time.monotonic() - started < DEADLINE
        urls = [server.url("/busy/99/429/3600", "b.example.org")] + [
            server.url(f"/ok/{n}", "b.example.org") for n in range(50)
        ]
        rows, counts = fetched(urls, settings_for(server, per_host=1))
        assert counts.dropped == {Reason.RATE_LIMITED: 51}
        assert sum(server.asked[f"/ok/{n}"] for n in range(50)) == 0


# --- pictures --------------------------------------------------------------------------------------


def test_exactly_the_images_that_changed_since_they_were_indexed_are_dropped() -> None:
    """Whoever buys an expired domain can put any image under an old URL (Carlini et al. 2023)."""
    changed = set(range(5, 1000, 27))
    assert len(changed) == 37
    with FaultServer() as server:
        files = [jpeg(place, (16, 16)) for place in range(1000)]
        server.pictures = {
            f"/{place}.jpg": jpeg(5000 + place, (16, 16)) if place in changed else data
            for place, data in enumerate(files)
        }
        rows = [
            {
                "url": server.url(f"/{n}.jpg"),
                "fields": json.dumps({"sha256": hashlib.sha256(data).hexdigest()}),
            }
            for n, data in enumerate(files)
        ]
        done, counts = fetch_partition(candidates(rows), settings_for(server), lookup=here)
        trusting, _ = fetch_partition(
            candidates(rows[:32]), settings_for(server, verify_sha256=False), lookup=here
        )
    status = done["status"].to_pylist()
    assert {place for place, state in enumerate(status) if state == "hash_mismatch"} == changed
    assert counts.dropped == {Reason.HASH_MISMATCH: 37}
    assert done["image"].to_pylist() == [None if n in changed else data for n, data in enumerate(files)]
    assert set(trusting["status"].to_pylist()) == {"ok"}


def test_images_are_made_smaller_when_asked_and_never_larger(server: FaultServer) -> None:
    server.pictures |= {"/wide.jpg": jpeg(1, (300, 100)), "/small.jpg": jpeg(2, (40, 30))}
    urls = [server.url("/wide.jpg"), server.url("/small.jpg")]
    sizes = {}
    for resize in ("none", "keep_ratio", "center_crop"):
        rows, _ = fetched(urls, settings_for(server, resize=resize, size=64))
        sizes[resize] = [(row["width"], row["height"]) for row in rows]
        for row in rows:
            assert Image.open(io.BytesIO(row["image"])).size == (row["width"], row["height"])  # type: ignore[arg-type]
    assert sizes == {
        "none": [(300, 100), (40, 30)],
        "keep_ratio": [(192, 64), (40, 30)],
        "center_crop": [(64, 64), (30, 30)],
    }


def test_the_centre_is_what_a_crop_keeps(server: FaultServer) -> None:
    picture = Image.new("RGB", (300, 100), "blue")
    picture.paste("red", (100, 0, 200, 100))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    server.pictures |= {"/flag.png": buffer.getvalue()}
    (row,), _ = fetched([server.url("/flag.png")], settings_for(server, resize="center_crop", size=50))
    inner = Image.open(io.BytesIO(row["image"])).crop((4, 4, 46, 46))  # type: ignore[arg-type]
    for _, (red, green, blue) in inner.getcolors(9999) or ():
        assert red > 245 and green < 10 and blue < 10


def test_a_turned_photo_has_the_size_of_what_a_viewer_shows(server: FaultServer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    server.pictures |= {"/turned.jpg": jpeg(3, (60, 20), exif=exif)}
    (row,), _ = fetched([server.url("/turned.jpg")], settings_for(server))
    assert (row["width"], row["height"], row["image"]) == (20, 60, server.pictures["/turned.jpg"])


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
        4, [digest, digest], 90,
    )  # fmt: skip
    assert counts.kept == 2
    smaller, _ = fetch_partition(table, FetchSettings(decoders=0, resize="keep_ratio", size=30))
    assert Image.open(io.BytesIO(smaller["image"][0].as_py())).size == (30, 30)
    assert server.connections == before


def test_the_same_answers_make_the_same_bytes(server: FaultServer) -> None:
    server.pictures |= {f"/s{n}.jpg": jpeg(n, (90, 70)) for n in range(30)}
    urls = [
        server.url(path) for path in (*(f"/s{n}.jpg" for n in range(30)), "/status/404", "/page", "/hangup")
    ]
    tables = [
        fetch_partition(
            candidates([{"url": url} for url in urls]),
            settings_for(server, resize="center_crop", size=32, concurrency=concurrency, decoders=decoders),
            lookup=here,
        )[0]
        for concurrency, decoders in ((1, 0), (64, 2))
    ]
    assert tables[0].equals(tables[1])
