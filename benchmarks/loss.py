"""Time and memory of the contrastive loss, forward + backward, beside open_clip's ClipLoss.

Every measurement is a fresh process (so that its peak memory is its own); rounds alternate between the two.
Medians are reported, and the median of the rounds' ratios. On a machine that others use too, trust the
processor seconds of one thread (--threads 1): wall time then measures the others.

    python benchmarks/loss.py --peer-python PEERS/bin/python [--sizes 4096,16384]
        [--threads 1] [--quick] [--json FILE]

The peer's interpreter needs open_clip 3.3; without it only ours is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

from contest import Rows, machine, missing, options_of, run_child, skip, write_result

WIDTH = 512
SCALE = 1 / 0.07
WARM_UP_SIZE = 256


def clip_loss():
    """Return open_clip's loss; torchvision's compiled operators, which it imports, are not needed for it."""
    import torch

    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip

    loss = open_clip.ClipLoss()
    return loss, f"open_clip {open_clip.__version__}"


def our_loss():
    """Return diptych's loss."""
    import diptych
    from diptych.train.loss import contrastive_loss

    return contrastive_loss, f"diptych {getattr(diptych, '__version__', '')}".strip()


def resident_bytes() -> int:
    """Return what this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(which: str, size: int, threads: int) -> dict:
    """Run one forward + backward in this process; return seconds, peak above the inputs and the loss."""
    import torch
    from torch.nn import functional

    if threads:
        torch.set_num_threads(threads)
    compute, name = our_loss() if which == "ours" else clip_loss()
    generator = torch.Generator().manual_seed(0)
    rows = [functional.normalize(torch.randn(size, WIDTH, generator=generator), dim=1) for _ in range(2)]
    few = [row[:WARM_UP_SIZE].clone().requires_grad_() for row in rows]
    scale = torch.tensor(SCALE, requires_grad=True)
    compute(*few, scale).backward()
    leaves = [row.requires_grad_() for row in rows]
    before = resident_bytes()
    start, start_cpu = time.perf_counter(), time.process_time()
    loss = compute(*leaves, scale)
    loss.backward()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    norms = [leaf.grad.norm().item() for leaf in leaves]
    return {
        "name": name,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "megabytes": (peak - before) / 1e6,
        "loss": loss.item(),
        "gradient_norms": norms,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def in_process(python: str, which: str, size: int, threads: int) -> dict:
    """Measure in a fresh process of the given interpreter."""
    command = [python, __file__, "--worker", which, "--sizes", str(size), "--threads", str(threads)]
    return json.loads(run_child(command).splitlines()[-1])


def compare(pythons: dict[str, str], size: int, rounds: int, threads: int) -> dict:
    """Measure everything at one size, interleaved."""
    results: dict[str, list[dict]] = {which: [] for which in pythons}
    for _ in range(rounds):
        for which, python in pythons.items():
            results[which].append(in_process(python, which, size, threads))
    row: dict = {"pairs": size, "width": WIDTH}
    for which, found in results.items():
        row[which] = {
            **found[0],
            "seconds": statistics.median(one["seconds"] for one in found),
            "cpu_seconds": statistics.median(one["cpu_seconds"] for one in found),
            "megabytes": statistics.median(one["megabytes"] for one in found),
            "rounds": [one["seconds"] for one in found],
        }
    if "open_clip" in results:
        pairs = list(zip(results["ours"], results["open_clip"], strict=True))
        for unit in ("seconds", "cpu_seconds"):
            ratios = [theirs[unit] / ours[unit] for ours, theirs in pairs]
            row[f"speed_up_in_{unit}"] = statistics.median(ratios)
        row["memory_ratio"] = row["open_clip"]["megabytes"] / row["ours"]["megabytes"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python",
        default=os.environ.get("DIPTYCH_PEERS_PYTHON"),
        help="interpreter with open_clip 3.3",
    )
    parser.add_argument("--sizes", default="4096,16384")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    parser.add_argument("--json", help="file to write; standard output has it too")
    parser.add_argument("--worker", choices=("ours", "open_clip"), help=argparse.SUPPRESS)
    options = options_of(parser, sizes="2048", rounds=1)
    sizes = [int(size) for size in options.sizes.split(",")]
    if options.worker:
        print(json.dumps(measure(options.worker, sizes[0], options.threads)))
        return
    pythons, skipped = {"ours": sys.executable}, {}
    if reason := missing(options.peer_python, "open_clip"):
        skipped = skip("open_clip", reason)
    else:
        pythons["open_clip"] = options.peer_python
    rows, shown = [], Rows(len(sizes))
    for size in sizes:
        rows.append(compare(pythons, size, options.rounds, options.threads))
        shown.show(f"{size} pairs", rows[-1])
    write_result({"benchmark": "loss", "machine": machine(), "skipped": skipped, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
