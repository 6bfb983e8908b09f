"""The other side of `preprocess.py`: open_clip's evaluation transform on files in memory.

Runs in the peers' environment, which need not have diptych. Reads questions and writes answers, one JSON line
each.
"""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch
from contest import answer_questions
from PIL import Image
from training_peer import import_torchvision

BATCH = 32
OPERATORS = import_torchvision()


def main() -> None:
    from open_clip.transform import image_transform

    torch.set_num_threads(1)
    transform, files = image_transform(224, is_train=False), []

    def load(paths: list[str]) -> int:
        files[:] = [Path(path).read_bytes() for path in paths]
        return len(files)

    def time_pass(name: str, threads: int) -> dict[str, float]:
        assert name == "transform"
        with ThreadPoolExecutor(threads) as pool:
            begin, begin_cpu = time.perf_counter(), time.process_time()
            rows = list(pool.map(lambda file: transform(Image.open(io.BytesIO(file))), files))
            for first in range(0, len(rows), BATCH):
                torch.stack(rows[first : first + BATCH])
            return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}

    def versions() -> dict[str, str]:
        return {name: version(name) for name in ("open_clip_torch", "torchvision", "torch", "pillow")}

    answer_questions({"load": load, "time": time_pass, "versions": versions})


if __name__ == "__main__":
    main()
