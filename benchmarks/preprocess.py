"""Images preprocessed a second, beside open_clip's transform, and how far off scaled decoding is.

    python benchmarks/preprocess.py --peer-python PEERS/bin/python [--data FOLDER]
        [--cases photos,large] [--threads 1,2] [--rounds 7] [--count 64] [--quick] [--json FILE]

What is timed goes from encoded files in memory to a normalized float32 batch (B, 3, 224, 224): open_clip with
its evaluation transform on `PIL.Image.open`, ours with `read_pixels` and `Preprocess.normalize`, exact and
with `scaled_jpeg` (which changes nothing for photos of 640×480). Each contestant is a process of its own with
the same number of threads that each take images; they take turns, and medians of the rounds and of the
rounds' ratios are reported. `cpu_seconds` says more than wall time on a machine that others use too.

`photos` are the COCO photos of 640×480 as they are (160 kB each, most of the time is then Huffman decoding),
`web` the same at Pillow's default quality of 75. `large` are 1920×1080, quality 75, four photos enlarged one
and a half times; `sharp` the same size at quality 90, nine photos at their own resolution.
Deviations are told in levels of 0..255, and as cosines of the embeddings of a ViT-B/32 with random weights:
plain, and less the mean over the images (plain ones flatter: random towers see all images as alike).

Reads: `inputs.py`; made photos lack the edges at which deviations show best. Writes: JSON to standard output,
and to the file of --json. The peers' interpreter (DIPTYCH_PEERS_PYTHON) needs open_clip 3.3; without it only
ours is measured.
"""

import argparse
import functools
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contest import (
    Contestant,
    Rows,
    answer_questions,
    machine,
    missing,
    options_of,
    ratio,
    skip,
    write_result,
)  # fmt: skip
from inputs import PHOTO, add_data, described, photos

PEER = Path(__file__).with_name("preprocess_peer.py")
PEER_NEEDS = ("open_clip", "torchvision")
OURS = ("exact", "scaled")
LARGE = (1920, 1080)
DISTINCT = 64
BATCH = 32
WEB_QUALITY, SHARP_QUALITY = 75, 90
VISIBLE_LEVELS = 2


def encoded(image: Any, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def web(data: Path | None, count: int) -> list[bytes]:
    """Return the same photos at the quality that Pillow writes."""
    from PIL import Image

    return [encoded(Image.open(io.BytesIO(file)), WEB_QUALITY) for file in photos(data, count)]


def collages(data: Path | None, count: int, *, across: int, quality: int) -> list[bytes]:
    """Return JPEGs of 1920×1080, each of `across`² photos side by side, enlarged until they fill it."""
    from PIL import Image

    parts = [Image.open(io.BytesIO(file)) for file in dict.fromkeys(photos(data, DISTINCT))]
    width, height = LARGE[0] // across, LARGE[0] * PHOTO[1] // PHOTO[0] // across
    made = []
    for number in range(count):
        sheet = Image.new("RGB", LARGE)
        for place in range(across * across):
            part = parts[(number * across * across + place) % len(parts)]
            part = part.resize((width, height), Image.Resampling.BICUBIC)
            sheet.paste(part, (place % across * width, place // across * height))
        made.append(encoded(sheet, quality))
    return made


CASES: dict[str, Callable[[Path | None, int], list[bytes]]] = {
    "photos": photos,
    "web": web,
    "large": functools.partial(collages, across=2, quality=WEB_QUALITY),
    "sharp": functools.partial(collages, across=3, quality=SHARP_QUALITY),
}


def deviations(files: list[bytes]) -> dict[str, Any]:
    """Compare scaled pixels with exact ones, and the embeddings that a random ViT-B/32 makes of both."""
    import numpy as np
    import torch

    from diptych.data.images.transforms import Preprocess, read_pixels
    from diptych.models.towers.clip import build
    from diptych.models.towers.presets import preset

    clip, preprocess, distinct = build(preset("ViT-B-32"), seed=0).eval(), Preprocess(), sorted(set(files))
    pixels = {
        mode: np.stack([read_pixels(file, Preprocess(scaled_jpeg=mode == "scaled")) for file in distinct])
        for mode in OURS
    }
    off = np.abs(pixels["exact"].astype(int) - pixels["scaled"])
    rows = {}
    for mode, array in pixels.items():
        batches = torch.from_numpy(array).permute(0, 3, 1, 2).split(BATCH)
        with torch.inference_mode():
            rows[mode] = torch.cat([clip.encode_image(preprocess.normalize(batch)) for batch in batches])
    mean = rows["exact"].mean(dim=0)
    exact, scaled = (rows[mode] for mode in OURS)
    cosine = torch.nn.functional.cosine_similarity
    others = cosine(exact - mean, exact.roll(1, 0) - mean)
    return {
        "pictures": len(distinct),
        "largest_levels": int(off.max()),
        "mean_levels": round(float(off.mean()), 4),
        f"share_beyond_{VISIBLE_LEVELS}_levels": round(float((off > VISIBLE_LEVELS).mean()), 6),
        "smallest_cosine": round(float(cosine(exact, scaled).min()), 7),
        "smallest_centered_cosine": round(float(cosine(exact - mean, scaled - mean).min()), 7),
        "centered_cosine_of_other_images": round(float(others.mean()), 4),
    }


def serve() -> None:
    """Be our contestant."""
    from diptych.core.machine import keep_freed_memory

    keep_freed_memory()  # as `diptych`'s commands do
    import numpy as np
    import torch

    from diptych.data.images.resize import shrinking_kernel
    from diptych.data.images.transforms import Preprocess, read_pixels

    shrinking_kernel()  # a process loads it by itself after its first images
    torch.set_num_threads(1)
    files: list[bytes] = []

    def load(paths: list[str]) -> int:
        files[:] = [Path(path).read_bytes() for path in paths]
        return len(files)

    def time_pass(name: str, threads: int) -> dict[str, float]:
        preprocess = Preprocess(scaled_jpeg=name == "scaled")
        with ThreadPoolExecutor(threads) as pool:
            begin, begin_cpu = time.perf_counter(), time.process_time()
            pixels = pool.map(lambda file: read_pixels(file, preprocess), files)
            rows = list(pixels)
            for first in range(0, len(rows), BATCH):
                stacked = torch.from_numpy(np.stack(rows[first : first + BATCH]))
                preprocess.normalize(stacked.permute(0, 3, 1, 2))
            return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}

    answer_questions({"load": load, "time": time_pass})


def measure(paths: list[str], python: str | None, *, threads: int, rounds: int) -> dict[str, Any]:
    """Let the contestants take turns; return rates and ratios."""
    contestants = {"diptych": Contestant([sys.executable, __file__, "--serve"])}
    names = {f"diptych {mode}": ("diptych", mode) for mode in OURS}
    if python:
        contestants["open_clip"] = Contestant([python, str(PEER)])
        names["open_clip"] = ("open_clip", "transform")
    for contestant in contestants.values():
        contestant.ask(do="load", paths=paths)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, (contestant, mode) in names.items():
            spent = contestants[contestant].ask(do="time", name=mode, threads=threads)
            if turn:  # the first round warms up
                times[name].append(spent)
    for contestant in contestants.values():
        contestant.close()
    result: dict[str, Any] = {"threads": threads}
    for clock in ("seconds", "cpu_seconds"):
        spent_by = {name: [spent[clock] for spent in spents] for name, spents in times.items()}
        rate = {name: round(len(paths) / statistics.median(spent)) for name, spent in spent_by.items()}
        result[f"pictures_per_{clock.removesuffix('s')}"] = rate
        if python:
            ratios = {name: ratio(spent_by["open_clip"], spent) for name, spent in spent_by.items()}
            result[f"times_open_clip_by_{clock}"] = ratios
    return result


def main() -> None:
    """Measure all cases and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data(parser)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--json")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = options_of(parser, cases="photos,large", threads="1", rounds=1, count=16)
    if options.serve:
        serve()
        return
    result: dict[str, Any] = {
        "benchmark": "preprocess",
        "machine": machine(),
        "measured_on": described(options.data),
        "versions": {name: version(name) for name in ("diptych", "torch", "pillow", "simplejpeg", "numpy")},
    }
    peer_python = None if (reason := missing(options.peer_python, *PEER_NEEDS)) else options.peer_python
    result["skipped"] = skip("open_clip", reason) if reason else {}
    if peer_python:
        peer = Contestant([peer_python, str(PEER)])
        result["peer_versions"] = peer.ask(do="versions")
        peer.close()
    cases, thread_counts = options.cases.split(","), list(map(int, options.threads.split(",")))
    shown = Rows(len(cases) * (1 + len(thread_counts)))
    for case in cases:
        files = CASES[case](options.data, options.count)
        size = round(statistics.mean(map(len, files)))
        result[case] = {"bytes_each": size, "deviation": deviations(files), "speed": []}
        shown.show(f"{case}, deviation", result[case]["deviation"])
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{number}.jpg") for number in range(len(files))]
            for path, file in zip(paths, files, strict=True):
                Path(path).write_bytes(file)
            for threads in thread_counts:
                measured = measure(paths, peer_python, threads=threads, rounds=options.rounds)
                result[case]["speed"].append(measured)
                shown.show(f"{case}, speed", measured)
    write_result(result, options.json)


if __name__ == "__main__":
    main()
