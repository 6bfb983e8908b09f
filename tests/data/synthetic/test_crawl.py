"""The crawl of scenes: as noisy as it says, and the same every time."""

from collections import Counter

from diptych.core.records import Counts
from diptych.data.sources.open import open_source
from diptych.data.synthetic.crawl import BOILERPLATE, DUPLICATES, MISMATCHES, crawl, crawled, sentences
from diptych.data.synthetic.dataset import UNSEEN

COUNT = 1500


def test_noise_comes_at_the_stated_rates() -> None:
    """Three standard deviations of a binomial count either way."""
    actual = Counter(pair.fields["noise"] for pair in crawl(COUNT, seed=1))
    for kind, rate in (("duplicate", DUPLICATES), ("boilerplate", BOILERPLATE), ("mismatch", MISMATCHES)):
        deviation = (COUNT * rate * (1 - rate)) ** 0.5
        assert abs(actual[kind] - COUNT * rate) <= 3 * deviation, kind


def test_a_duplicate_shows_an_image_that_was_there_before_or_would_have_been() -> None:
    pairs = list(crawl(COUNT, seed=1))
    first: dict[bytes, int] = {}
    for index, pair in enumerate(pairs):
        first.setdefault(pair.image, index)
    doubles = [i for i, pair in enumerate(pairs) if pair.fields["noise"] == "duplicate"]
    met_before = sum(first[pairs[i].image] < i for i in doubles)
    assert met_before > 0.8 * len(doubles)
    originals = [pair.image for pair in pairs if pair.fields["noise"] != "duplicate"]
    assert len(set(originals)) == len(originals)


def test_a_pair_is_a_function_of_its_index() -> None:
    assert crawled(77, seed=3) == list(crawl(78, seed=3))[77]
    assert crawled(77, seed=3) != crawled(77, seed=4)


def test_the_crawl_is_a_source_like_the_others() -> None:
    pairs = list(open_source("scenes:crawl?count=20&seed=2").pairs(Counts()))
    assert [pair.key for pair in pairs] == [f"crawl-{index:07d}" for index in range(20)]


def test_nobody_writes_about_or_photographs_what_is_held_back() -> None:
    """The demo's accuracy is about combinations that neither images nor texts show."""
    held = {f"{color} {shape}" for shape, color in UNSEEN}
    texts = [*sentences(500, seed=1), *(text for pair in crawl(500, seed=1) for text in pair.captions)]
    assert not any(name in text.lower() for text in texts for name in held)
