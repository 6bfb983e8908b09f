"""Fingerprints beside imagehash, and MinHash beside datasketch: items per second on one core.

imagehash takes one perceptual hash of a picture; we take six, the digests of bytes and pixels, and a stamp.
datasketch takes 64 permutations over the same runs of two words.

Usage: python benchmarks/dedup.py --data FOLDER --peer PYTHON [--rounds N] [--out FILE]
    FOLDER holds coco/ and fashion/; PYTHON has imagehash and datasketch (a venv of its own).
"""

import argparse
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from contest import Contestant, answer_questions, machine, ratio, write_result

HERE = Path(__file__).resolve()
CAPTIONS = 20_000
PRODUCTS = 2_000


def pictures(data: str, what: str) -> list[bytes]:
    if what == "coco":
        return [path.read_bytes() for path in sorted((Path(data) / "coco" / "images").glob("*.jpg"))]
    folder = Path(data) / "products"
    return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]


def captions(data: str) -> list[str]:
    told = json.loads((Path(data) / "text" / "captions_val2017.json").read_text(encoding="utf-8"))
    rows = told["annotations"] if isinstance(told, dict) else told
    return [row["caption"] if isinstance(row, dict) else row for row in rows][:CAPTIONS]


def peer_side() -> None:
    import io

    import datasketch
    import imagehash
    from PIL import Image

    def hashes(data: str, what: str) -> float:
        images = pictures(data, what)
        started = time.perf_counter()
        for image in images:
            imagehash.phash(Image.open(io.BytesIO(image)))
        return len(images) / (time.perf_counter() - started)

    def minhash(data: str) -> float:
        texts = captions(data)
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
    from diptych.curate.dedup_captions import caption_signatures
    from diptych.curate.fingerprints import fingerprint_partition

    def hashes(data: str, what: str) -> float:
        images = pa.array(pictures(data, what), pa.binary())
        started = time.perf_counter()
        fingerprint_partition(images)
        return len(images) / (time.perf_counter() - started)

    def minhash(data: str) -> float:
        texts = pa.array(captions(data))
        caption_signatures(texts[:10])  # compiled, or read from numba's cache, before the clock starts
        started = time.perf_counter()
        caption_signatures(texts)
        return len(texts) / (time.perf_counter() - started)

    answer_questions({"hashes": hashes, "minhash": minhash, "versions": lambda: {"diptych": created_by()}})


def unpack_products(data: str, place: Path) -> None:
    """Write product photos as files, which the peer's venv can read without pyarrow; text is linked."""
    import pyarrow.parquet as pq

    (place / "products").mkdir(parents=True)
    column = pq.read_table(f"{data}/fashion/train.parquet", columns=["image"]).column("image")
    for number, image in enumerate(column[:PRODUCTS].to_pylist()):
        (place / "products" / f"{number:05d}.jpg").write_bytes(image)
    for name in ("coco", "text"):
        (place / name).symlink_to(Path(data).resolve() / name)


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=("ours", "peer"))
    parser.add_argument("--data")
    parser.add_argument("--peer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out")
    given = parser.parse_args()
    if given.side:
        peer_side() if given.side == "peer" else our_side()
        return
    result: dict[str, Any] = {"machine": machine(), "unit": "items per second"}
    with tempfile.TemporaryDirectory() as place:
        unpack_products(given.data, Path(place) / "data")
        data = str(Path(place) / "data")
        ours = Contestant([sys.executable, str(HERE), "--side", "ours"])
        peer = Contestant([given.peer, str(HERE), "--side", "peer"])
        result["versions"] = {**ours.ask(do="versions"), **peer.ask(do="versions")}
        questions = {
            "fingerprints, photographs of 640 pixels": {"do": "hashes", "what": "coco"},
            "fingerprints, products of 60 x 80": {"do": "hashes", "what": "fashion"},
            "MinHash, captions": {"do": "minhash"},
        }
        for name, question in questions.items():
            rounds = [
                (ours.ask(data=data, **question), peer.ask(data=data, **question))
                for _ in range(given.rounds)
            ]
            mine, theirs = zip(*rounds, strict=True)
            result[name] = {
                "ours": round(median(mine)),
                "peer": round(median(theirs)),
                "times the peer": ratio(mine, theirs),
            }
        ours.close()
        peer.close()
    write_result(result, given.out)


if __name__ == "__main__":
    main()
