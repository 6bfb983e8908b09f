"""Captions that lose words: which, how many, and how often."""

import numpy as np
import pytest

from diptych.data.loader import drop_words

CAPTION = "puma men black running shoes size nine in a box of ten"


def drawn(share: float, count: int, caption: str = CAPTION) -> list[str]:
    rng = np.random.default_rng(3)
    return [drop_words(caption, share, rng) for _ in range(count)]


def test_words_keep_their_order_and_at_least_one_stays() -> None:
    words = CAPTION.split()
    for text in drawn(0.999, 2000):
        kept = iter(words)
        assert text
        assert all(word in kept for word in text.split())


def test_half_stays_whole_and_the_share_is_even_among_the_others() -> None:
    """S is 0 or even on (0, s), half and half; one word of n is exempt, the others go with probability S."""
    others = len(CAPTION.split()) - 1
    lost = np.array([others + 1 - len(text.split()) for text in drawn(0.8, 20_000)]) / others
    mean, square = 0.8 / 4, 0.8**2 / 6  # of S
    assert lost.mean() == pytest.approx(mean, abs=0.006)
    # Variance of Binomial(n, S) / n: Var S + E[S (1 - S)] / n.
    assert lost.var() == pytest.approx(square - mean**2 + (mean - square) / others, rel=0.05)
    # E[(1 - S)^n] for even S is (1 - (1 - s)^(n + 1)) / (s (n + 1)): some of the others stay whole by luck.
    lucky = (1 - 0.2 ** (others + 1)) / (0.8 * (others + 1))
    assert np.mean(lost == 0) == pytest.approx(0.5 + lucky / 2, abs=0.01)


def test_every_word_goes_equally_often() -> None:
    words = CAPTION.split()
    assert len(set(words)) == len(words)
    kept = [set(text.split()) for text in drawn(0.5, 20_000)]
    rates = np.array([np.mean([word in texts for texts in kept]) for word in words])
    assert rates.mean() < 0.95
    assert np.ptp(rates) < 0.02


def test_nothing_to_leave_out() -> None:
    assert drawn(0.0, 1) == [CAPTION]
    assert drawn(0.9, 50, "shoes") == ["shoes"] * 50
    assert drawn(0.9, 2, "") == ["", ""]
    assert set(drawn(1e-9, 5, "two  spaces")) == {"two  spaces"}
