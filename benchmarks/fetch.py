"""Images fetched a second from a server on the same machine, beside img2dataset.

A server in a process of its own hands out 30 kB JPEGs; what fetches decodes them, and writes Parquet: with
their bytes kept, and with the shortest side scaled down to 256. Rounds alternate between the two. The server
shares the processors with what is measured; its processor seconds are told. Both have a process for each
processor, started within the time: ours fetches a partition in each, as `diptych curate --workers` does.

    python benchmarks/fetch.py [--peer-python PEERS/bin/python] [--images 4000]
        [--rounds 3] [--quick] [--json FILE]

The peer's interpreter needs img2dataset 1.47. It opens a connection for each image, reads no robots.txt,
dials whatever a name resolves to and knows no limit per host; ours does all of its checks here too.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from contest import Rows, machine, missing, options_of, run_child, skip, write_result
from inputs import photo

PICTURES = 200
SIZE, QUALITY, NOISE = (512, 384), 80, 6  # about 30 kB
SMALL = 256
CASES = ("none", "keep_ratio")
PEER_THREADS = 64


def pictures() -> list[bytes]:
    """Draw photo-like JPEGs."""
    return [photo(number, SIZE, quality=QUALITY, noise=NOISE) for number in range(PICTURES)]


class Answers(asyncio.Protocol):
    """Answers requests on one connection with images made before."""

    def __init__(self, whole: list[bytes]) -> None:
        self._whole = whole

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Remember whom to answer."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole; they are too short to come in parts."""
        for request in data.split(b"\r\n\r\n")[:-1]:
            name = request.split(b" ", 2)[1].strip(b"/").removesuffix(b".jpg")
            found = name.isdigit()
            self._transport.write(
                self._whole[int(name) % PICTURES]
                if found
                else b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            )
            if b"\r\nconnection: close" in request.lower():
                self._transport.close()


async def serve() -> None:
    """Serve until the other side closes our standard input."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"
    made = pictures()
    whole = [head.format(len(data)).encode() + data for data in made]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answers(whole), "127.0.0.1", 0, backlog=1024)
    mean = statistics.mean(map(len, made))
    print(json.dumps({"port": server.sockets[0].getsockname()[1], "mean_bytes": mean}), flush=True)
    before = time.process_time()
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps({"cpu_seconds": time.process_time() - before}), flush=True)


def cpu_seconds() -> float:
    """Return what this process and those it has ended have used."""
    mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def fetch_part(port: int, places: range, resize: str, path: Path) -> int:
    """Fetch a partition as the stage does; return how many images came."""
    import pyarrow as pa

    from diptych.curate.columns import CANDIDATES
    from diptych.curate.fetch.fetch import fetch_partition
    from diptych.curate.fetch.settings import FetchSettings
    from diptych.curate.pipeline.stages import write_table

    columns = {
        "key": [f"{place:06d}" for place in places],
        "url": [f"http://127.0.0.1:{port}/{place}.jpg" for place in places],
        "caption": [""] * len(places),
    }
    table = pa.table({name: columns.get(name, [None] * len(places)) for name in CANDIDATES.names}, CANDIDATES)
    settings = FetchSettings(
        allow_networks=("127.0.0.1/32",), allow_ports=(port,), per_host=64, delay_seconds=0.0,
        resize=resize, size=SMALL, decoders=1,
    )  # fmt: skip
    done, counts = fetch_partition(table, settings)
    write_table(path, done)
    return counts.kept


def fetch_ours(port: int, count: int, resize: str, folder: Path) -> dict:
    """Fetch with diptych."""
    started, before = time.perf_counter(), cpu_seconds()
    processes = os.cpu_count() or 1
    shares = [range(count * part // processes, count * (part + 1) // processes) for part in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = [
            pool.submit(fetch_part, port, share, resize, folder / f"{part}.parquet")
            for part, share in enumerate(shares)
        ]
        fetched = sum(part.result() for part in parts)
    seconds = time.perf_counter() - started
    cpu = cpu_seconds() - before
    return {"name": "diptych", "seconds": seconds, "cpu_seconds": cpu, "fetched": fetched}


def fetch_theirs(port: int, count: int, resize: str, folder: Path) -> dict:
    """Fetch with img2dataset, as many processes as there are processors."""
    from img2dataset import download

    urls = folder / "urls.txt"
    urls.write_text("".join(f"http://127.0.0.1:{port}/{place}.jpg\n" for place in range(count)))
    started, before = time.perf_counter(), cpu_seconds()
    download(
        url_list=str(urls),
        input_format="txt",
        output_folder=str(folder / "out"),
        output_format="parquet",
        image_size=SMALL,
        resize_mode="no" if resize == "none" else resize,
        skip_reencode=resize == "none",
        resize_only_if_bigger=True,
        encode_quality=95,
        processes_count=os.cpu_count() or 1,
        thread_count=PEER_THREADS,
        number_sample_per_shard=1000,
        enable_wandb=False,
    )
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - before
    stats = [json.loads(path.read_text()) for path in (folder / "out").glob("*_stats.json")]
    name = f"img2dataset {importlib.metadata.version('img2dataset')}"
    fetched = sum(one["successes"] for one in stats)
    return {"name": name, "seconds": seconds, "cpu_seconds": cpu, "fetched": fetched}


def in_process(python: str, which: str, count: int, resize: str) -> dict:
    """Start a server, and measure in a fresh process of the given interpreter."""
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None and server.stdin is not None
        greeting = json.loads(server.stdout.readline())
        command = [python, __file__, "--worker", which, "--port", str(greeting["port"])]
        command += ["--pictures", str(count), "--resize", resize]
        environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
        found = run_child(command, env=environment)
        server.stdin.close()
        last = json.loads(server.stdout.readline())
    measured = json.loads(found.splitlines()[-1])
    if measured["fetched"] != count:
        raise SystemExit(f"{which} fetched {measured['fetched']} of {count} pictures")
    return {
        **measured,
        "mean_bytes": greeting["mean_bytes"],
        "pictures_per_second": count / measured["seconds"],
        "server_cpu_seconds": last["cpu_seconds"],
    }


def compare(pythons: dict[str, str], count: int, rounds: int, resize: str) -> dict:
    """Measure everything in one case, interleaved."""
    results: dict[str, list[dict]] = {which: [] for which in pythons}
    for _ in range(rounds):
        for which, python in pythons.items():
            results[which].append(in_process(python, which, count, resize))
    row: dict = {"resize": resize, "pictures": count}
    for which, found in results.items():
        rates = [one["pictures_per_second"] for one in found]
        row[which] = {**found[0], "pictures_per_second": statistics.median(rates), "rounds": rates}
    if "img2dataset" in results:
        pairs = zip(results["ours"], results["img2dataset"], strict=True)
        row["speed_up"] = statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)
    return row


def versions() -> dict[str, str]:
    """Return what ours was measured with."""
    return {name: importlib.metadata.version(name) for name in ("aiohttp", "pillow", "simplejpeg", "pyarrow")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", default=os.environ.get("DIPTYCH_PEERS_PYTHON"))
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file to write; standard output has it too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=("ours", "img2dataset"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--resize", choices=CASES, help=argparse.SUPPRESS)
    options = options_of(parser, pictures=800, rounds=1)
    if options.serve:
        asyncio.run(serve())
        return
    if options.worker:
        fetch = fetch_ours if options.worker == "ours" else fetch_theirs
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(fetch(options.port, options.pictures, options.resize, Path(folder))))
        return
    reason = missing(options.peer_python, "img2dataset")
    skipped = skip("img2dataset", reason) if reason else {}
    pythons = {"ours": sys.executable} | ({} if reason else {"img2dataset": options.peer_python})
    rows, shown = [], Rows(len(CASES))
    for resize in CASES:
        rows.append(compare(pythons, options.pictures, options.rounds, resize))
        shown.show(resize, rows[-1])
    where = {**machine(), **versions()}
    write_result({"benchmark": "fetch", "skipped": skipped, "machine": where, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
