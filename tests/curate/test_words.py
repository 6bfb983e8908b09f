"""Words of a column are the words of its texts, whatever Unicode comes."""

import random

import pyarrow as pa

from diptych.curate.words import normalized, normalized_column

ODD = " \t\n\0 abcDEF09_-.,'()éÉßİıǅﬁΣςσ№ｄｏｇ한글日本語\u0301\u200d\u1112\u1161—😀"


def by_text(column: pa.Array | pa.ChunkedArray) -> list[str]:
    data, offsets = normalized_column(column)
    raw = bytes(data)
    return [raw[offsets[row] : offsets[row + 1]].decode() for row in range(len(column))]


def test_words_are_letters_marks_and_digits_with_their_case_folded() -> None:
    words = {
        "(Dog),": "dog", "T-Shirt": "t shirt", "the dog's bone": "the dog s bone", "ｄｏｇ ﬁsh": "dog fish",
        "STRASSE straße": "strasse strasse", "cafe\u0301 café CAFÉ": "café café café", "１２ ①": "12 1",
        "日本語の本": "日本語の本", "—!?": "", "": ""
    }  # fmt: skip
    assert {text: normalized(text) for text in words} == words
    assert by_text(pa.array(words)) == list(words.values())
    between = [f"a {word} b".replace("  ", " ") for word in words.values()]
    assert by_text(pa.array([f"a {text} b" for text in words])) == between


def test_a_column_has_the_words_of_its_texts() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choice(ODD) for _ in range(rng.randrange(30))) for _ in range(5_000)]
    expected = [normalized(text) for text in texts]
    assert by_text(pa.array(texts)) == expected
    assert by_text(pa.array(texts, pa.large_string()).slice(7, 1_000)) == expected[7:1_007]
    assert by_text(pa.chunked_array([texts[:9], [], texts[9:]])) == expected


def test_nulls_and_nothing_have_no_words() -> None:
    assert by_text(pa.array([None, "a", None])) == ["", "a", ""]
    assert by_text(pa.array([], pa.string())) == []
    assert by_text(pa.array([None, None], pa.string())) == ["", ""]
