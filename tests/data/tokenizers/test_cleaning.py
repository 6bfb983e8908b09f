"""Clean-up: what is kept, what is repaired, and that the short way round never changes a text."""

import html
import random
import string

import pytest

from diptych.data.tokenizers.cleaning import (
    MAX_CHARACTERS,
    byte_symbols,
    chunks,
    clean,
    to_symbols,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Two\t dogs \n", "two dogs"),
        ("A &amp; B", "a & b"),
        ("A &amp;amp; B", "a & b"),
        ("&lt;b&gt; bold", "<b> bold"),
        ("l’Ã©tÃ©", "l'été"),  # mojibake repaired, quotes straightened
        ("red\x1b[31m car", "red car"),  # terminal colours removed
        ("bell\x07", "bell"),
        ("ＦＵＬＬ　ＷＩＤＴＨ", "full width"),
        ("ΑΣ ΟΔΟΣ", "ας οδος"),  # a final sigma is lower-cased by its place in the word
        ("", ""),
        (" \n\t ", ""),
    ],
)
def test_text_is_repaired_unescaped_lowered_and_spaced(text, expected):
    assert clean(text) == expected


def test_the_short_way_for_plain_ascii_changes_nothing():
    import ftfy

    rng = random.Random(3)
    plain = string.printable.replace("&", "")
    for _ in range(20_000):
        text = "".join(rng.choice(plain) for _ in range(rng.randint(0, 40)))
        if rng.random() < 0.5:
            text = "".join(rng.choice("<>;#x0 lamtguo'\"\\u\n\t") for _ in range(rng.randint(0, 30)))
        assert chunks(text) == html.unescape(html.unescape(ftfy.fix_text(text))).strip().lower().split()


def test_text_is_capped_before_any_work():
    hostile = "&" + "amp;" * 200_000
    assert len(clean(hostile)) <= MAX_CHARACTERS
    assert chunks("a" * 1_000_000) == ["a" * MAX_CHARACTERS]


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        ("dog's", ["dog", "'s"]),
        ("i'd've", ["i", "'d", "'ve"]),
        ("2021", ["2", "0", "2", "1"]),
        ("a1b", ["a", "1", "b"]),
        ("wow!!!", ["wow", "!!!"]),
        ("été—fin", ["été", "—", "fin"]),
        ("'ſ", ["'ſ"]),  # the long s folds to s
        ("<|startoftext|>x", ["<|startoftext|>", "x"]),
        ("<|endoftext", ["<|", "endoftext"]),
    ],
)
def test_words_are_letters_in_runs_single_digits_and_the_rest(chunk, expected):
    assert words(chunk) == expected


def test_every_byte_has_a_printable_symbol_of_its_own():
    table = byte_symbols()
    assert len(set(table)) == 256
    assert not any(symbol.isspace() for symbol in table)
    assert to_symbols("\ud800") == "?"  # a lone surrogate has no bytes
