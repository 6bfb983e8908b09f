"""A small world to curate: an encyclopedia, its readers, a dictionary, a crawl, and a server of images."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tests.curate import crawl_files, miniatures

from diptych.core.settings import from_mapping
from diptych.curate.pipeline.recipe import CurateRecipe

ARTICLES = {
    "Dog": "The '''dog''' is a pet. A [[brown dog]] barks. See a brown dog, a brown dog and a black cat.",
    "Cat": "A '''cat''' sleeps on a red sofa. A [[black cat]] purrs. {{Box|cat=1}} A black cat runs.",
    "Mercury (planet)": "Mercury is a planet. Mercury is hot.<ref>A dog on Mercury</ref>",
}
"""After clean-up (by hand): dog 5 times, cat 5, brown 3, black 3, mercury 2; "brown dog" 3, "black cat" 3."""

VIEWS = [
    ("en", "Hot_dog", 90),
    ("en.m", "Hot_dog", 30),
    ("en", "Dog", 500),
    ("de", "Hund", 900),
    ("en", "Sofa", 10),
]

SYNSETS = [
    ("n", ["dog", "domestic dog"], "a member of the genus Canis", []),
    ("n", ["frying pan"], "a pan used for frying foods", []),
]

QUERIES = {
    "dog": "words", "cat": "words", "brown": "words", "black": "words", "a": "words", "is": "words",
    "brown dog": "bigrams", "black cat": "bigrams", "hot dog": "titles",
    "domestic dog": "wordnet", "frying pan": "wordnet",
}  # fmt: skip


def image(number: int, *, quality: int = 90) -> bytes:
    """A JPEG that looks like no other number's."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((48, 48), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def recipe(**parts: Any) -> CurateRecipe:
    """Settings that fit a small world."""
    plain: dict[str, Any] = {
        "queries": {
            "choose": {"min_word_count": 3, "min_pair_count": 3, "min_pmi": 1.0, "min_views": 70},
            "counting": {"memory_bytes": 1 << 20, "bytes_per_partition": 400},
        },
        "fetch": {"decoders": 0, "allow_networks": ["127.0.0.1/32"], "delay_seconds": 0.0, "retries": 0},
    }
    for name, part in parts.items():
        plain[name] = {**plain.get(name, {}), **part}
    return from_mapping(CurateRecipe, plain)


def write_sources(folder: Path) -> dict[str, Any]:
    """Write encyclopedia, page views and dictionary; returns the part of a recipe that names them."""
    return {
        "corpus": [str(miniatures.write_dump(folder / "enwiki-pages-articles.xml.bz2", ARTICLES))],
        "pageviews": [str(miniatures.write_pageviews(folder / "pageviews-20260101-000000.gz", VIEWS))],
        "wordnet": str(miniatures.write_wndb(folder / "dict", SYNSETS)),
    }


def write_pairs(path: Path, rows: list[tuple[str, bytes, str]], *, rows_per_group: int = 5) -> Path:
    """Write pairs with their images as Parquet: key, image, caption."""
    keys, images, captions = zip(*rows, strict=True)
    table = pa.table({"id": keys, "image": pa.array(images, pa.binary()), "caption": captions})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


@contextmanager
def served(images: dict[str, bytes]) -> Iterator[str]:
    """Serve files from this machine; yields the address that their names follow."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            data = images.get(name)
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()


def web_page(number: int, images: list[tuple[str, str]]) -> crawl_files.WebPage:
    """A page of the crawl with (address, alternative text) of its images."""
    return crawl_files.WebPage(f"http://site{number}.example/p", images=images)
