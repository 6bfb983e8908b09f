"""Fingerprints beside imagehash, and MinHash beside datasketch: items per second on one core.

imagehash takes one perceptual hash of an image; we take six, digests of bytes and pixels, and a thumbnail.
datasketch takes 64 permutations over the same runs of two words.

    python benchmarks/dedup.py --peer-python PYTHON [--data FOLDER] [--rounds 5] [--quick] [--json FILE]

The peer's interpreter needs imagehash and datasketch; without them only ours is measured.
Reads: `inputs.py`. Writes: JSON to standard output, and to the file of --json.
"""

import argparse
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
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
)
from inputs import add_data, captions, described, photos, products

HERE = Path(__file__).resolve()
CAPTIONS = 20_000
PRODUCTS, PHOTOS = 2_000, 64


def images_of(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]


def peer_side() -> None:
    import io

    import datasketch
    import imagehash
    from PIL import Image

    def hashes(folder: str) -> float:
        images = images_of(folder)
        started = time.perf_counter()
        for image in images:
            imagehash.phash(Image.open(io.BytesIO(image)))
        return len(images) / (time.perf_counter() - started)

    def minhash(texts: list[str]) -> float:
        started = time.perf_counter()
        runs = []
        for text in texts:
            runs.append([f"{a} {b}".encode() for a, b in pairwise(text.lower().split())])
        datasketch.MinHash.bulk(runs, num_perm=64, seed=1)  # its fast way: the permutations are made once
        return len(texts) / (time.perf_counter() - started)

    def versions() -> dict[str, str]:
        return {"imagehash": imagehash.__version__, "datasketch": datasketch.__version__}

    answer_questions({"hashes": hashes, "minhash": minhash, "versions": versions})


def our_side() -> None:
    import pyarrow as pa

    from diptych.core.manifest import created_by
    from diptych.curate.dedup import caption_signatures
    from diptych.data.near_copies.fingerprints import fingerprint_partition

    def hashes(folder: str) -> float:
        images = pa.array(images_of(folder), pa.binary())
        started = time.perf_counter()
        fingerprint_partition(images)
        return len(images) / (time.perf_counter() - started)

    def minhash(texts: list[str]) -> float:
        texts = pa.array(texts)
        caption_signatures(texts[:10])  # compiled, or read from numba's cache, before the clock starts
        started = time.perf_counter()
        caption_signatures(texts)
        return len(texts) / (time.perf_counter() - started)

    answer_questions({"hashes": hashes, "minhash": minhash, "versions": lambda: {"diptych": created_by()}})


def write_images(folder: Path, images: list[bytes]) -> str:
    """Write images as files, which the peer's venv can read without pyarrow."""
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:05d}.jpg").write_bytes(image)
    return str(folder)


def alternated(sides: dict[str, Contestant], question: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Ask the sides in turn; return their rates."""
    rates = {side: list[float]() for side in sides}
    for _ in range(rounds):
        for side, contestant in sides.items():
            rates[side].append(contestant.ask(**question))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write besides standard output")
    given = options_of(parser, rounds=1)
    if given.side:
        peer_side() if given.side == "peer" else our_side()
        return
    reason = missing(given.peer_python, "imagehash", "datasketch")
    pythons = {"ours": sys.executable} | ({} if reason else {"peer": given.peer_python})
    result: dict[str, Any] = {"benchmark": "dedup", "machine": machine(), "unit": "items per second"}
    result |= {"measured_on": described(given.data), "versions": {}}
    result["skipped"] = skip("imagehash and datasketch", reason) if reason else {}
    with tempfile.TemporaryDirectory() as place:
        large = write_images(Path(place) / "photos", photos(given.data, PHOTOS))
        small = write_images(Path(place) / "products", products(given.data, PRODUCTS)[0])
        questions = {
            "fingerprints, photographs of 640 pixels": {"do": "hashes", "folder": large},
            "fingerprints, products": {"do": "hashes", "folder": small},
            "MinHash, captions": {"do": "minhash", "texts": captions(given.data, CAPTIONS)},
        }
        sides = {name: Contestant([python, str(HERE), "--side", name]) for name, python in pythons.items()}
        for side in sides.values():
            result["versions"] |= side.ask(do="versions")
        shown = Rows(len(questions))
        for name, question in questions.items():
            rates = alternated(sides, question, given.rounds)
            result[name] = {side: round(median(found)) for side, found in rates.items()}
            if "peer" in rates:
                result[name]["times the peer"] = ratio(rates["ours"], rates["peer"])
            shown.show(name, result[name])
        for side in sides.values():
            side.close()
    write_result(result, given.json)


if __name__ == "__main__":
    main()
