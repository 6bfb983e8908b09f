"""Scenes as a crawl of the web would bring them: doubled, mislabelled, with boilerplate, a few loved.

For curation to have something to do. What was done to a pair is told in its field `noise`, which is for
counting afterwards: no stage may look at it.
"""

from collections.abc import Iterator
from dataclasses import replace

from diptych.core.records import Pair
from diptych.data.synthetic.dataset import COLOURS, SHAPES, UNSEEN, describe, picture
from diptych.data.synthetic.vocabulary import Dice

DUPLICATES = 0.12
"""Pairs whose picture was met before, on another page."""

BOILERPLATE = 0.25
"""Pairs whose text says nothing of the picture."""

MISMATCHES = 0.02
"""Pairs whose text belongs to another picture."""

LOVED = 0.1
"""Pairs that show one of the few things that everybody photographs."""

FAVOURITES = (("heart", "red"), ("star", "yellow"), ("flower", "pink"), ("cloud", "white"))
_SEEN = [(shape, colour) for colour in COLOURS for shape in SHAPES if (shape, colour) not in UNSEEN]
"""Split "test" goes through the combinations in this order."""

_SAYINGS = (
    "IMG_{:04d}.JPG",
    "DSC{:05d}.jpg",
    "image {}",
    "untitled",
    "Click to enlarge",
    "photo {}",
    "thumbnail_{}_300x300.png",
    "loading...",
    "Image may contain: {} items",
    "stock photo #{}",
    "screenshot {}",
    "logo",
)


def crawled(index: int, *, seed: int, size: int = 64) -> Pair:
    """Return one pair of the crawl: a pure function of (index, seed, size).

    Args:
        index: position in the crawl, from 0.
        seed: another seed is another crawl.
        size: side of the picture in pixels.

    Returns:
        A pair with one caption and the fields `page` and `noise` (duplicate, boilerplate, mismatch or none).
    """
    dice = Dice(seed, "scenes", "crawl", index)
    kind, number = dice.between(0, 1), dice.below(100_000)
    double = index > 0 and kind < DUPLICATES
    pair = _shown(dice.below(index) if double else index, seed=seed, size=size)
    captions, noise = (dice.pick(pair.captions),), "duplicate" if double else "none"
    if not double and kind < DUPLICATES + BOILERPLATE:
        captions, noise = (dice.pick(_SAYINGS).format(number),), "boilerplate"
    elif not double and kind < DUPLICATES + BOILERPLATE + MISMATCHES:
        captions, noise = (dice.pick(describe(index, seed=seed + 1).captions),), "mismatch"
    page = f"https://site{dice.below(5000)}.example/page{number}"
    return replace(pair, key=f"crawl-{index:07d}", captions=captions, fields={"page": page, "noise": noise})


def crawl(count: int, *, seed: int, size: int = 64) -> Iterator[Pair]:
    """Yield the first `count` pairs of a crawl."""
    for index in range(count):
        yield crawled(index, seed=seed, size=size)


def sentences(count: int, *, seed: int) -> Iterator[str]:
    """Yield what people write about scenes, without any picture: the encyclopedia of that world."""
    for index in range(count):
        yield from describe(index, seed=seed).captions


def _shown(index: int, *, seed: int, size: int) -> Pair:
    dice = Dice(seed, "scenes", "shown", index)
    if not dice.chance(LOVED):
        return picture(index, seed=seed, size=size)
    turn = _SEEN.index(dice.pick(FAVOURITES))
    return picture(turn + len(_SEEN) * index, seed=seed, split="test", size=size)
