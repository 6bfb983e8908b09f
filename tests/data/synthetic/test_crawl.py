"""The crawl of scenes: as noisy as it says, and the same every time."""

from collections import Counter

import pytest

from diptych.core.records import Counts, Pair
from diptych.data.sources.open import open_source
from diptych.data.synthetic.crawl import BOILERPLATE, DUPLICATES, MISMATCHES, crawled, sentences
from diptych.data.synthetic.vocabulary import UNSEEN

COUNT = 1500


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [crawled(index, seed=1, size=32) for index in range(COUNT)]


def test_noise_comes_at_the_stated_rates(pairs: list[Pair]) -> None:
    """Three standard deviations of a binomial count either way."""
    actual = Counter(pair.fields["noise"] for pair in pairs)
    for kind, rate in (("duplicate", DUPLICATES), ("boilerplate", BOILERPLATE), ("mismatch", MISMATCHES)):
        deviation = (COUNT * rate * (1 - rate)) ** 0.5
        assert abs(actual[kind] - COUNT * rate) <= 3 * deviation, kind


def test_a_duplicate_shows_an_image_that_was_there_before_or_would_have_been(pairs: list[Pair]) -> None:
    first: dict[bytes, int] = {}
    for index, pair in enumerate(pairs):
        first.setdefault(pair.image, index)
    doubles = [i for i, pair in enumerate(pairs) if pair.fields["noise"] == "duplicate"]
    met_before = sum(first[pairs[i].image] < i for i in doubles)
    assert met_before > 0.8 * len(doubles)
    originals = [pair.image for pair in pairs if pair.fields["noise"] != "duplicate"]
    assert len(set(originals)) == len(originals)


def test_the_crawl_is_a_source_like_the_others_and_a_function_of_the_index(pairs: list[Pair]) -> None:
    read = list(open_source("scenes:crawl?count=20&seed=1&size=32").pairs(Counts()))
    assert [pair.key for pair in read] == [f"crawl-{index:07d}" for index in range(20)]
    assert read == pairs[:20] and read[7] != crawled(7, seed=4, size=32)


def test_no_text_or_image_shows_what_is_held_back(pairs: list[Pair]) -> None:
    """The demo's accuracy is about combinations that neither images nor texts show."""
    held = {f"{color} {shape}" for shape, color in UNSEEN}
    texts = [*sentences(500, seed=1), *(text for pair in pairs for text in pair.captions)]
    assert not any(name in text.lower() for text in texts for name in held)
