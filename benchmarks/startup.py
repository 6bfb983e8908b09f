"""How long a user waits before anything happens: imports and the command's first answers.

    python benchmarks/startup.py [--peer-python PEERS/bin/python] [--runs 10] [--quick] [--json FILE]

Every run is a fresh process, rounds alternate between all lines, files are warm in the page cache. Medians
and the fastest run are reported. The peers' interpreter (DIPTYCH_PEERS_PYTHON) needs open_clip 3.3;
without it only ours is measured.

Writes: JSON to standard output, and to the file of --json.
"""

import argparse
import os
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

from contest import Rows, machine, missing, options_of, run_child, skip, write_result

SILENT = "import sys, diptych; assert 'torch' not in sys.modules"
PEER_IMPORT = """
import torch
operators = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    try:
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        break
import open_clip
"""
LIMITS = {"import diptych": 0.2, "diptych --help": 0.5}
"""Seconds that were promised."""


def lines(peer_python: str | None) -> dict[str, list[str]]:
    """Return the commands to time."""
    command = str(Path(sys.executable).with_name("diptych"))
    found = {
        "python": [sys.executable, "-c", "pass"],
        "import diptych": [sys.executable, "-c", SILENT],
        "diptych --version": [command, "--version"],
        "diptych --help": [command, "--help"],
        "diptych train --help": [command, "train", "--help"],
    }
    if peer_python:
        found["peer: python"] = [peer_python, "-c", "pass"]
        found["peer: import open_clip"] = [peer_python, "-c", PEER_IMPORT]
    return found


def seconds(command: list[str]) -> float:
    """Return the wall time of one run; the benchmark ends if it fails."""
    begin = time.perf_counter()
    run_child(command)
    return time.perf_counter() - begin


def main() -> None:
    """Time everything and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", default=os.environ.get("DIPTYCH_PEERS_PYTHON"))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", help="file to write besides standard output")
    options = options_of(parser, runs=1)
    reason = missing(options.peer_python, "open_clip")
    skipped = skip("open_clip", reason) if reason else {}
    commands = lines(None if reason else options.peer_python)
    for command in commands.values():
        seconds(command)  # compiled bytecode and the page cache
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.runs):
        for name, command in commands.items():
            spent[name].append(seconds(command))
    rows, shown = {}, Rows(len(spent))
    for name, runs in spent.items():
        median, fastest = round(statistics.median(runs), 4), round(min(runs), 4)
        rows[name] = {
            "median_seconds": median, "fastest_seconds": fastest, "limit_seconds": LIMITS.get(name)
        }  # fmt: skip
        shown.show(name, rows[name])
    result = {
        "benchmark": "startup",
        "machine": machine(),
        "versions": {name: version(name) for name in ("diptych", "torch", "tyro")},
        "runs": options.runs,
        "skipped": skipped,
        "rows": rows,
    }
    write_result(result, options.json)


if __name__ == "__main__":
    main()
