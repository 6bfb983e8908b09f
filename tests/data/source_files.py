"""Makers of small sources, and a reader that counts."""

import io
import json
from pathlib import Path

from PIL import Image

from diptych.core.records import Counts, Need, Pair
from diptych.data.sources.open import Columns, open_source

DEFAULT = Columns()


def make_image(number: int = 0, format_: str = "JPEG", *, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number * 7 % 256, 90, 200)).save(buffer, format_)
    return buffer.getvalue()


def read(
    ref: str | Path, columns: Columns = DEFAULT, need: Need = Need.PAIR
) -> tuple[list[Pair], dict[str, int]]:
    """All pairs of a source and its drops by reason."""
    counts = Counts()
    pairs = []
    for pair in open_source(ref, columns=columns, need=need).pairs(counts):
        counts.keep()
        pairs.append(pair)
    counts.check(1.0)
    json.dumps(counts.as_dict(), ensure_ascii=False).encode()  # what a manifest will do with the examples
    return pairs, counts.as_dict()["dropped"]


def images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_image(number))
