"""Captions that lose words: which, how many, and how often."""

import numpy as np
import pytest

from diptych.data.captions import drop_words

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


def test_share_is_even_from_nothing_to_the_largest() -> None:
    """A share drawn evenly up to s leaves out s / 2 of the words on average; one word of n is exempt."""
    words = CAPTION.split()
    lost = np.array([len(words) - len(text.split()) for text in drawn(0.4, 20_000)]) / (len(words) - 1)
    assert lost.mean() == pytest.approx(0.2, abs=0.005)
    # Variance of Binomial(n, S) / n for S even on (0, s): Var S + E[S (1 - S)] / n.
    expected = 0.4**2 / 12 + (0.2 - 0.4**2 / 3) / (len(words) - 1)
    assert lost.var() == pytest.approx(expected, rel=0.05)


def test_every_word_goes_equally_often() -> None:
    words = CAPTION.split()
    assert len(set(words)) == len(words)
    kept = [set(text.split()) for text in drawn(0.5, 20_000)]
    rates = np.array([np.mean([word in texts for texts in kept]) for word in words])
    assert np.ptp(rates) < 0.02


def test_nothing_to_leave_out() -> None:
    assert drawn(0.0, 1) == [CAPTION]
    assert drawn(0.9, 50, "shoes") == ["shoes"] * 50
    assert drawn(0.9, 2, "") == ["", ""]
    assert set(drawn(1e-9, 5, "two  spaces")) == {"two  spaces"}
