"""What is measured on: the real data under --data (DIPTYCH_SHARED_DATA), else what is made here.

Made captions are prompts of the packaged ImageNet set in pairs ("a photo of a tench beside a drawing of a
goose"), made photos smooth color fields with noise of 640×480, made products the scenes of the demo: always
the same. The published vocabulary comes from --data or from the peers' open_clip; else one is learnt.

Reads: `text/`, `coco/images` and `fashion/` under --data. Writes: nothing.
"""

import argparse
import io
import json
import os
import random
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contest import missing, run_child

if TYPE_CHECKING:
    from diptych.data.tokenizers.clip import Tokenizer

PHOTO = (640, 480)
LARGE_VOCABULARY = 49_408
MADE_CAPTIONS = 25_000
_JOINTS = ("beside", "above", "and", "in front of", "next to", "with")
_OPEN_CLIP = "import importlib.util as u; print(u.find_spec('open_clip').submodule_search_locations[0])"


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the data and the peers."""
    parser.add_argument("--peer-python", default=os.environ.get("DIPTYCH_PEERS_PYTHON"))
    parser.add_argument("--data", type=Path, default=os.environ.get("DIPTYCH_SHARED_DATA"))


def captions(data: Path | None, count: int) -> list[str]:
    """Return captions, from the first again where there are too few."""
    found = _real_captions(Path(data)) if data else _made_captions()
    return [found[number % len(found)] for number in range(count)]


@cache
def _real_captions(data: Path) -> list[str]:
    rows = json.loads((data / "text" / "captions_val2017.json").read_text(encoding="utf-8"))["annotations"]
    return [row["caption"] for row in rows]


@cache
def _made_captions() -> list[str]:
    from diptych.evaluate.prompts.sets import prompt_set

    rng, prompts = random.Random(0), prompt_set("imagenet")

    def prompt() -> str:
        name = rng.choice(rng.choice(prompts.class_names))
        return rng.choice(prompts.templates).format(name).rstrip(".")

    return [f"{prompt()} {rng.choice(_JOINTS)} {prompt()}." for _ in range(MADE_CAPTIONS)]


def photos(data: Path | None, count: int) -> list[bytes]:
    """Return JPEGs of 640×480, from the first again where there are too few."""
    if not data:
        return [photo(number, PHOTO, quality=90, noise=14) for number in range(count)]
    from PIL import Image

    files = [path.read_bytes() for path in sorted((Path(data) / "coco" / "images").glob("*.jpg"))]
    files = [file for file in files if Image.open(io.BytesIO(file)).size == PHOTO]
    return [files[number % len(files)] for number in range(count)]


def photo(number: int, size: tuple[int, int], *, quality: int, noise: int) -> bytes:
    """Draw a JPEG that costs what a photo costs: smooth fields of color with some noise."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-noise, noise, smooth.shape)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def products(data: Path | None, count: int) -> tuple[list[bytes], list[str]]:
    """Return small images with their titles: product photos, or drawn scenes."""
    if not data:
        from diptych.data.synthetic.dataset import scene_pairs

        pairs = list(scene_pairs(count, seed=0))
        return [pair.image for pair in pairs], [pair.captions[0] for pair in pairs]
    import pyarrow.parquet as pq

    table = pq.read_table(Path(data) / "fashion" / "train.parquet", columns=["image", "caption"])
    return table["image"].slice(0, count).to_pylist(), table["caption"].to_pylist()[:count]


def merges(data: Path | None, peer_python: str | None) -> Path | None:
    """Return the file of the published merges; None if neither --data nor the peers have it."""
    name = "bpe_simple_vocab_16e6.txt.gz"
    if data:
        return Path(data) / "text" / name
    if not peer_python or missing(peer_python, "open_clip"):
        return None
    return Path(run_child([peer_python, "-c", _OPEN_CLIP]).strip()) / name


def vocabulary(options: Any, context_length: int = 77) -> "Tokenizer":
    """Return the published vocabulary, or one that is learnt from the captions."""
    from diptych.data.tokenizers.clip import Tokenizer

    if published := merges(options.data, options.peer_python):
        return Tokenizer.from_merges(published, context_length=context_length)
    texts = captions(options.data, MADE_CAPTIONS)
    return Tokenizer.train(texts, size=LARGE_VOCABULARY, context_length=context_length)


def described(data: Path | None) -> str:
    """Say what was measured on."""
    return "real data" if data else "made data"
