"""A whole curation from crawl files: seconds of every stage, and the plan that follows from them.

    python benchmarks/curate.py [OUT] [--data FOLDER] [--pairs 12000] [--workers 2] [--quick] [--json FILE]

Candidates are WAT files with captions (`inputs.py`); the images, some 30 kB each, come from
a server of this machine (benchmarks/fetch.py), are made smaller to 256 pixels and written into shards.
Queries are English words and pairs of words, and WordNet; without --data those of the captions.

No peer does the whole; the parts have benchmarks beside their peers: counting, match, balance, fetch, dedup,
crawl.

Reads: `text/` under --data. Writes: the curation in OUT, JSON to standard output and to the file of --json.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import machine, options_of, write_result
from inputs import captions, described

from diptych.core.settings import from_mapping
from diptych.curate.pipeline.estimate import EstimateSettings, estimate
from diptych.curate.pipeline.recipe import CurateRecipe
from diptych.curate.pipeline.run import curate

PER_FILE = 4000
CAPTIONS = 25_000


def write_wat(path: Path, address: str, captions: list[str], first: int) -> None:
    """Write a WAT file, one page with one image for each caption."""
    parts = []
    for number, caption in enumerate(captions, first):
        page = f"http://site{number % 500}.example/{number}"
        links = [{"path": "IMG@/src", "url": f"{address}{number}.jpg", "alt": caption}]
        html = {"Head": {"Title": "a page"}, "Links": links}
        body = {"Envelope": {"WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": page}}}
        body["Envelope"]["Payload-Metadata"] = {"HTTP-Response-Metadata": {"HTML-Metadata": html}}
        data = json.dumps(body).encode()
        lines = (
            "WARC/1.0",
            "WARC-Type: metadata",
            f"WARC-Target-URI: {page}",
            "Content-Type: application/json",
        )
        head = "\r\n".join((*lines, f"Content-Length: {len(data)}", "", ""))
        parts.append(gzip.compress(head.encode() + data + b"\r\n\r\n", 6))
    path.write_bytes(b"".join(parts))


def queries(data: Path | None, folder: Path) -> dict[str, Any]:
    """Return the sources of queries: English words and WordNet, or what the captions themselves hold."""
    if data:
        text = data / "text"
        return {
            "word_counts": str(text / "1grams_english.csv"),
            "pair_counts": str(text / "2grams_english.csv"),
            "wordnet": str(text / "oewn_synsets.tsv"),
            "choose": {"min_pmi": 4.0},
        }
    corpus = folder / "captions.txt"
    corpus.write_text("\n".join(captions(None, CAPTIONS)), encoding="utf-8")
    return {"corpus": [str(corpus)], "choose": {"min_pmi": 4.0}}


def recipe(data: Path | None, folder: Path, port: int) -> CurateRecipe:
    """Return the settings of the measured curation."""
    plain = {
        "queries": queries(data, folder),
        "candidates": {"sources": [str(folder / "*.warc.wat.gz")]},
        "balance": {"cap": 1000},
        "fetch": {
            "allow_networks": ["127.0.0.1/32"],
            "allow_ports": [port],
            "per_host": 128,
            "delay_seconds": 0.0,
            "robots": False,
            "resize": "keep_ratio",
            "decoders": 1,
        },
        "card": {"title": "COCO captions, as a crawl"},
    }
    return from_mapping(CurateRecipe, plain)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="folder of the curation; else a temporary one")
    parser.add_argument("--data", type=Path, default=os.environ.get("DIPTYCH_SHARED_DATA"))
    parser.add_argument("--pairs", type=int, default=12_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", help="file to write besides standard output")
    options = options_of(parser, pairs=1_000)
    with tempfile.TemporaryDirectory() as place:
        result = measured(options, options.out or Path(place) / "curated")
    write_result({"benchmark": "curate", "machine": machine(), **result}, options.json)


def measured(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Curate once; return the stages and the plan."""
    data = Path(options.data) if options.data else None
    texts = captions(data, options.pairs)
    crawl = out.with_name(out.name + "-crawl")
    crawl.mkdir(parents=True)
    server = Path(__file__).with_name("fetch.py")
    with subprocess.Popen(
        [sys.executable, server, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        port = json.loads(process.stdout.readline())["port"]
        for first in range(0, options.pairs, PER_FILE):
            part = texts[first : first + PER_FILE]
            write_wat(crawl / f"{first:08d}.warc.wat.gz", f"http://127.0.0.1:{port}/", part, first)
        done = curate(recipe(data, crawl, port), out, workers=options.workers)
        process.stdin.close()
        process.stdout.read()  # what it says at its end
    stages = {name: {"seconds": manifest.seconds, **manifest.counts} for name, manifest in done.items()}
    for stage in stages.values():
        stage.pop("examples")
    return {"measured_on": described(data), "stages": stages, "estimate": estimate(out, EstimateSettings())}


if __name__ == "__main__":
    main()
