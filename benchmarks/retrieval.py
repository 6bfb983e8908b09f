"""Time and memory of recall at 1, 5 and 10 both ways, beside CLIP_benchmark's.

Both are given the same unit rows, five captions per image, and have to agree on all six recalls. Every
measurement is a fresh process, so that its peak memory is its own; rounds alternate.

    python benchmarks/retrieval.py --peer-path FOLDER [--captions 25000] [--images 5000]
        [--quick] [--json FILE]

FOLDER holds clip_benchmark 1.6, e.g. after `pip install --no-deps --target FOLDER clip_benchmark`. Its own
`evaluate` runs, with towers that return their inputs. Without --peer-path only ours is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from contest import Rows, machine, options_of, ratio, run_child, skip, write_result

WIDTH = 512
DEPTHS = (1, 5, 10)
PEER_BATCH = 64


def rows(captions: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (N, E) and captions (M, E) float32 of unit length, and each caption's image."""
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(images, WIDTH))
    owners = np.repeat(np.arange(images), captions // images)
    texts = pictures[owners] + 6.5 * rng.normal(size=(len(owners), WIDTH))
    unit = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (pictures, texts))
    return (*(side.astype(np.float32) for side in unit), owners)


def ours(pictures: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> list[float]:
    """Return recall at each depth, text to image first."""
    from diptych.evaluate.metrics.ranks import paired_ranks

    pairs = np.stack([owners, np.arange(len(owners))], axis=1)
    image_ranks, text_ranks = paired_ranks(pictures, texts, pairs)
    return [float((ranks < k).mean()) for ranks in (text_ranks, image_ranks) for k in DEPTHS]


class Mirror:
    """Towers that return their inputs."""

    def encode_image(self, batch: Any) -> Any:
        """Return the batch."""
        return batch

    encode_text = encode_image


def theirs(pictures: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> list[float]:
    """Return the same from CLIP_benchmark's own evaluation."""
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    of_each = len(owners) // len(pictures)
    images, captions = torch.from_numpy(pictures), torch.from_numpy(texts).view(len(pictures), of_each, WIDTH)
    batches = [
        (images[start : start + PEER_BATCH], captions[start : start + PEER_BATCH])
        for start in range(0, len(images), PEER_BATCH)
    ]
    found = evaluate(Mirror(), batches, torch.stack, "cpu", amp=False, recall_k_list=list(DEPTHS))
    return [found[f"{way}_retrieval_recall@{k}"] for way in ("image", "text") for k in DEPTHS]


def measure(which: str, captions: int, images: int) -> dict[str, Any]:
    """Run one contestant in this process."""
    compute = {"ours": ours, "theirs": theirs}[which]
    given = rows(captions, images)
    compute(given[0][:10], given[1][: 10 * captions // images], given[2][: 10 * captions // images])
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize()
    start = time.perf_counter()
    recalls = compute(*given)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "megabytes_above_inputs": (peak - before) / 1e6, "recalls": recalls}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-path", help="folder that holds clip_benchmark")
    parser.add_argument("--captions", type=int, default=25_000)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file to write as well")
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = options_of(parser, rounds=1)
    if options.peer_path:
        sys.path.append(options.peer_path)
    if options.worker:
        print(json.dumps(measure(options.worker, options.captions, options.images)))
        return
    command = [sys.executable, __file__, "--captions", str(options.captions), "--images", str(options.images)]
    names = ["ours", *(["theirs"] if options.peer_path else [])]
    skipped = {} if options.peer_path else skip("theirs", "no --peer-path with clip_benchmark")
    shown = Rows(options.rounds * len(names))
    command += ["--peer-path", options.peer_path] if options.peer_path else []
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            found[name].append(json.loads(run_child([*command, "--worker", name]).splitlines()[-1]))
            shown.show(name, f"{found[name][-1]['seconds']:.2f} s")
    result: dict[str, Any] = {"benchmark": "retrieval", "machine": machine(), "numpy": np.__version__}
    result |= {"captions": options.captions, "images": options.images, "width": WIDTH, "skipped": skipped}
    for name, runs in found.items():
        result[name] = {
            "seconds": statistics.median(run["seconds"] for run in runs),
            "megabytes_above_inputs": max(run["megabytes_above_inputs"] for run in runs),
            "recalls": runs[0]["recalls"],
        }
    if "theirs" in found:
        times = ([run["seconds"] for run in found[name]] for name in ("theirs", "ours"))
        result["speed_up"] = ratio(*times)
        gaps = np.subtract(result["ours"]["recalls"], result["theirs"]["recalls"])
        result["largest_recall_gap"] = float(np.abs(gaps).max())
    write_result(result, options.json)


if __name__ == "__main__":
    main()
