"""Synthetic crawl: scenes with duplicates, wrong captions, boilerplate text and a skewed class distribution.

The field `noise` of a pair names what was done to it. It is for counting afterwards: no stage reads it.
"""

from collections.abc import Iterator
from dataclasses import replace

from diptych.core.records import Pair
from diptych.data.synthetic.dataset import SEEN, describe, scene_pair
from diptych.data.synthetic.vocabulary import Rng

DUPLICATES = 0.12  # pairs whose image occurred before, on another page
BOILERPLATE = 0.25  # pairs whose text says nothing of the image
MISMATCHES = 0.02  # pairs whose text belongs to another image
FAVORITE_SHARE = 0.1  # pairs that show one of the few most frequent objects
FAVORITES = (("heart", "red"), ("star", "yellow"), ("flower", "pink"), ("cloud", "white"))

_BOILERPLATE_TEXTS = (
    "IMG_{:04d}.JPG", "DSC{:05d}.jpg", "image {}", "untitled", "Click to enlarge", "photo {}",
    "thumbnail_{}_300x300.png", "loading...", "Image may contain: {} items", "stock photo #{}",
    "screenshot {}", "logo",
)  # fmt: skip


def crawled(index: int, *, seed: int, size: int = 64) -> Pair:
    """Return one pair of the crawl, with an image of `size` pixels a side: a function of its arguments alone.

    It has one caption and the fields `page` and `noise` (duplicate, boilerplate, mismatch or none).
    """
    rng = Rng(seed, "scenes", "crawl", index)
    kind, number = rng.between(0, 1), rng.below(100_000)
    double = index > 0 and kind < DUPLICATES
    pair = _shown(rng.below(index) if double else index, seed=seed, size=size)
    captions, noise = (rng.pick(pair.captions),), "duplicate" if double else "none"
    if not double and kind < DUPLICATES + BOILERPLATE:
        captions, noise = (rng.pick(_BOILERPLATE_TEXTS).format(number),), "boilerplate"
    elif not double and kind < DUPLICATES + BOILERPLATE + MISMATCHES:
        captions, noise = (rng.pick(describe(index, seed=seed + 1).captions),), "mismatch"
    page = f"https://site{rng.below(5000)}.example/page{number}"
    return replace(pair, key=f"crawl-{index:07d}", captions=captions, fields={"page": page, "noise": noise})


def sentences(count: int, *, seed: int) -> Iterator[str]:
    """Yield the captions of scenes without their images: the text from which queries are made."""
    for index in range(count):
        yield from describe(index, seed=seed).captions


def _shown(index: int, *, seed: int, size: int) -> Pair:
    rng = Rng(seed, "scenes", "shown", index)
    if not rng.chance(FAVORITE_SHARE):
        return scene_pair(index, seed=seed, size=size)
    turn = SEEN.index(rng.pick(FAVORITES))  # split "test" goes through the combinations in this order
    return scene_pair(turn + len(SEEN) * index, seed=seed, split="test", size=size)
