"""A small world to curate: an encyclopedia, its page views, a dictionary, pairs."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.curate import miniatures

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
