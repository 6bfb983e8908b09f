"""Read candidate pairs from a WAT file, beside the plain loop of gzip and json.

Run: python benchmarks/crawl.py [--wat FILE] [--pages 3000] [--rounds 5] [--quick] [--json FILE]
Without `--wat` a file is drawn in Common Crawl's format: for each page the records of request, response and
crawl; of 20 to 200 links a fifth are images and half of those have a caption. The plain loop is what
published extractors do, with Python's own gzip and json: every metadata record is parsed, images with `alt`
are kept with their address joined to the page's. It checks, counts and hashes nothing, and stops at damage.

Writes: JSON to standard output, and to `--json` if given.
"""

import argparse
import gzip
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin

from contest import Rows, machine, options_of, write_result

from diptych.core.files import durable as files
from diptych.curate.candidates.crawl import Candidate, CrawlSettings, pairs_of_crawl

SEED = 2021
WORDS = (
    "red",
    "blue",
    "old",
    "small",
    "dog",
    "cat",
    "house",
    "beach",
    "with",
    "the",
    "of",
    "in",
    "man",
    "night",
)


def _record(url: str, payload: dict[str, object]) -> bytes:
    envelope = {
        "Format": "WARC",
        "WARC-Header-Metadata": {"WARC-Target-URI": url},
        "Payload-Metadata": payload,
    }
    body = json.dumps({"Container": {"Compressed": True}, "Envelope": envelope}).encode()
    head = f"WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: {url}\r\nContent-Length: {len(body)}\r\n\r\n"
    return gzip.compress(head.encode() + body + b"\r\n\r\n", 6, mtime=0)


def draw(path: Path, pages: int) -> None:
    """Write a WAT file."""
    rng = random.Random(SEED)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(2, 10)))

    def link(number: int) -> dict[str, str]:
        if rng.random() < 0.8:
            return {"path": "A@/href", "url": f"/section/{number}/{rng.random()}", "text": text()}
        caption = {"alt": text()} if rng.random() < 0.5 else {}
        return {"path": "IMG@/src", "url": f"/media/{rng.random()}.jpg", **caption}

    parts = []
    for page in range(pages):
        url = f"https://site{rng.randrange(1000)}.example/{page}/index.html"
        links = [link(number) for number in range(rng.randint(20, 200))]
        html = {
            "Head": {"Title": text(), "Metas": [{"name": "description", "content": text()}]},
            "Links": links,
        }
        parts.append(_record(url, {"HTTP-Request-Metadata": {"Headers": {"User-Agent": "CCBot/2.0"}}}))
        parts.append(_record(url, {"HTTP-Response-Metadata": {"HTML-Metadata": html}}))
        parts.append(_record(url, {"WARC-Metadata-Metadata": {"fetchTimeMs": "117"}}))
    files.write_bytes(path, b"".join(parts))


def ours(path: Path) -> int:
    """Return how many pairs diptych reads."""
    return sum(isinstance(row, Candidate) for row in pairs_of_crawl(path, CrawlSettings(captions=("alt",))))


def plain(path: Path) -> int:
    """Return how many pairs the plain loop reads."""
    found = []
    for url, body in _bodies(path):
        payload = json.loads(body)["Envelope"]["Payload-Metadata"]
        html = payload.get("HTTP-Response-Metadata", {}).get("HTML-Metadata", {})
        base = html.get("Head", {}).get("Base", url)
        for link in html.get("Links", ()):
            if link.get("path") == "IMG@/src" and link.get("alt"):
                found.append((urljoin(base, link["url"]), link["alt"]))
    return len(found)


def _bodies(path: Path) -> Iterator[tuple[str, bytes]]:
    with gzip.open(path) as file:
        while line := file.readline():
            headers = {}
            while line.strip():
                name, _, value = line.partition(b":")
                headers[name.lower()] = value.strip()
                line = file.readline()
            if headers.get(b"warc-type") == b"metadata":
                yield headers[b"warc-target-uri"].decode(), file.read(int(headers[b"content-length"]))


def main() -> None:
    """Run both in turn and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wat", type=Path)
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write besides standard output")
    options = options_of(parser, pages=800, rounds=2)
    with tempfile.TemporaryDirectory() as folder:
        path = options.wat or Path(folder) / "drawn.warc.wat.gz"
        if not options.wat:
            draw(path, options.pages)
        with gzip.open(path) as file:
            size = sum(len(piece) for piece in iter(lambda: file.read(2**20), b""))
        seconds: dict[str, list[float]] = {"diptych": [], "plain": []}
        pairs: dict[str, int] = {}
        contestants: tuple[tuple[str, Callable[[Path], int]], ...] = (("diptych", ours), ("plain", plain))
        shown = Rows(options.rounds * len(contestants))
        for _ in range(options.rounds):
            for name, read in contestants:
                began = time.perf_counter()
                pairs[name] = read(path)
                seconds[name].append(time.perf_counter() - began)
                shown.show(name, f"{pairs[name] / seconds[name][-1]:.0f} pairs a second")
    middle = {name: statistics.median(rounds) for name, rounds in seconds.items()}
    result = {
        "benchmark": "crawl",
        "machine": machine(),
        "versions": {name: version(name) for name in ("diptych", "pyarrow")},
        "megabytes_of_json": round(size / 1e6, 1),
        "pairs": pairs,
        "megabytes_per_second": {name: round(size / 1e6 / value, 1) for name, value in middle.items()},
        "pairs_per_second": {name: round(pairs[name] / value) for name, value in middle.items()},
        "seconds": {name: [round(value, 3) for value in rounds] for name, rounds in seconds.items()},
        "ratio_to_plain": round(middle["plain"] / middle["diptych"], 2),
    }
    write_result(result, options.json)


if __name__ == "__main__":
    main()
