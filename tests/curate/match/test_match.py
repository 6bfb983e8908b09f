"""Every query that a caption contains is found, and no other: beside brute force that knows no index."""

import csv
import functools
import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import IntegrityError
from diptych.curate.match.match import ARRAYS, Matches, MatchSettings, QueryIndex, Rule

UNSPACED = [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF),
            (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x3134F)]  # fmt: skip
LETTERS = "abB éÉß日本の語ーカไทยភမ한д5 "
WORDS = ["a", "A", "b", "dog", "Dog", "hot", "hotdog", "café", "ＤＯＧ", "日本", "本", "t恤", "恤", "iphone",
         "ไทย", "ß", "dog,", "(dog)", "hot.dog", "`", "", "straße", "№", "한국", "ー", "cat's"]  # fmt: skip


def ids_of(queries: list[str], captions: list[str | None], rule: Rule = "words") -> list[list[int]]:
    index = QueryIndex.build(queries, MatchSettings(rule))
    found = index.match(pa.array(captions, pa.string())).to_arrow().to_pylist()
    assert isinstance(found, list)
    return found


@functools.cache
def folded(text: str) -> str:
    """Words by Unicode category, one character at a time."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in plain)
    return " ".join("".join(kept).split())


def is_unspaced(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in UNSPACED)


@functools.cache
def spelled(text: str) -> str:
    """Words, with a space wherever writing without spaces meets any other; marks stay with their letter."""
    out, before = "", " "
    for char in folded(text):
        if unicodedata.category(char)[0] == "M" and before != " " and not is_unspaced(char):
            out += char
            continue
        border = " " not in (char, before) and is_unspaced(char) != is_unspaced(before)
        out += f" {char}" if border else char
        before = char
    return out


def by_words(query: str, caption: str) -> bool:
    words, text = spelled(query), spelled(caption)
    if not words:
        return False
    if not any(map(is_unspaced, words)):
        split, inside = words.split(), text.split()
        return any(inside[place : place + len(split)] == split for place in range(len(inside)))
    left = "" if is_unspaced(words[0]) else r"(?<![^ ])"
    right = "" if is_unspaced(words[-1]) else r"(?![^ ])"
    return regex.search(left + regex.escape(words) + right, text) is not None


def anywhere(query: str, caption: str) -> bool:
    return bool(folded(query)) and folded(query) in folded(caption)


def by_metaclip(query: str, caption: str) -> bool:
    """The rule as published: spaces at both ends and around seven marks, three blanks become spaces."""
    text = regex.sub(r"([,.;:?!`])", r" \1 ", f" {caption} ")
    return bool(query) and f" {query} " in regex.sub(r"[\t\n\r]", " ", text)


ORACLES = {"words": by_words, "anywhere": anywhere, "metaclip": by_metaclip}


def brute_force(queries: list[str], captions: list[str | None], rule: Rule) -> list[list[int]]:
    holds = ORACLES[rule]
    return [
        [] if caption is None else [row for row, query in enumerate(queries) if holds(query, caption)]
        for caption in captions
    ]


@pytest.mark.parametrize(
    ("query", "caption", "rules"),
    [
        ("dog", "A (Dog), barking", "words anywhere"),
        ("dog", "hotdog", "anywhere"),
        ("dog", "a dog, barking", "words anywhere metaclip"),
        ("Dog", "a dog", "words anywhere"),
        ("hot dog", "HOT-dog!", "words anywhere"),
        ("hot dog", "hot. dog", "words anywhere"),
        ("hot dog", "hot  dog", "words anywhere"),
        ("hot dog", "hot\tdog", "words anywhere metaclip"),
        ("hot dog", "hot dogs", "anywhere"),
        ("a.b", "a.b", "words anywhere"),
        ("a . b", "a.b", "words anywhere metaclip"),
        (" a", ". a", "words anywhere metaclip"),
        ("", "anything  at all", ""),
        ("?!", "what ?! now", ""),
        ("!", "what?!", "metaclip"),
        ("cafe\u0301", "a CAFÉ", "words anywhere"),
        ("ｄｏｇ", "dog", "words anywhere"),
        ("strasse", "Straße", "words anywhere"),
        ("本", "日本語の本", "words anywhere"),
        ("日本", "日 本", ""),
        ("iphone", "新款iPhone手机", "words anywhere"),
        ("t恤", "黑色T恤衫", "words anywhere"),
        ("t恤", "best恤", "anywhere"),
        ("ตา", "ตากลม", "words anywhere"),
        ("ラーメン", "ﾗｰﾒﾝを食べる", "words anywhere"),
        ("개", "개집", "anywhere"),
    ],
)
def test_each_rule_finds_what_it_says(query: str, caption: str, rules: str) -> None:
    expected = set(rules.split())
    assert {rule for rule in ORACLES if ids_of([query], [caption], rule) == [[0]]} == expected
    assert {rule for rule in ORACLES if ORACLES[rule](query, caption)} == expected


@pytest.mark.parametrize("rule", ORACLES)
def test_matches_equal_brute_force_on_thousands_of_made_up_captions(rule: Rule) -> None:
    rng = random.Random(1)
    blanks = [" ", " ", " ", "  ", ", ", "", "-", "\n", ".", "\t"]

    def text(most: int) -> str:
        return "".join(rng.choice(WORDS) + rng.choice(blanks) for _ in range(rng.randrange(most)))

    queries = [text(5) for _ in range(300)] + ["".join(rng.choices(LETTERS, k=3)) for _ in range(100)]
    captions: list[str | None] = [text(12) for _ in range(300)]
    captions += ["".join(rng.choices(LETTERS, k=rng.randrange(25))) for _ in range(300)] + [None, ""]
    expected = brute_force(queries, captions, rule)
    assert sum(map(len, expected)) > 500
    assert ids_of(queries, captions, rule) == expected


@pytest.mark.parametrize("rule", ORACLES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_matches_equal_brute_force_on_whatever_text(rule: Rule, data: st.DataObject) -> None:
    letters = st.text(st.sampled_from(LETTERS + ".,!\t`-Aß"), max_size=12)
    queries = data.draw(st.lists(letters, max_size=6))
    captions: list[str | None] = data.draw(st.lists(st.none() | letters, max_size=6))
    assert ids_of(queries, captions, rule) == brute_force(queries, captions, rule)


@pytest.fixture(scope="module")
def real_queries(shared_data: Path) -> list[str]:
    synsets = (shared_data / "text" / "oewn_synsets.tsv").read_text(encoding="utf-8").splitlines()
    members = synsets[0].split("\t").index("members")
    queries = [
        lemma.replace("_", " ") for line in synsets[1:] for lemma in line.split("\t")[members].split(",")
    ]
    for name in ("1grams_english.csv", "2grams_english.csv"):
        with (shared_data / "text" / name).open(encoding="utf-8") as file:
            queries += [row["ngram"] for row in csv.DictReader(file)]
    return queries


@pytest.fixture(scope="module")
def real_captions(shared_data: Path) -> list[str]:
    coco = json.loads((shared_data / "text" / "captions_val2017.json").read_text(encoding="utf-8"))
    captions = [entry["caption"] for entry in coco["annotations"]]
    return captions + pq.read_table(shared_data / "fashion" / "test.parquet")["caption"].to_pylist()


def test_matches_equal_brute_force_on_real_captions_and_wordnet(
    real_queries: list[str], real_captions: list[str]
) -> None:
    """Duplicates among the queries stay in: each of them has its own id."""
    captions = random.Random(2).sample(real_captions, 2_000)
    known: dict[tuple[str, ...], list[int]] = {}
    for row, query in enumerate(real_queries):
        known.setdefault(tuple(folded(query).split()), []).append(row)
    longest, expected = max(map(len, known)), []
    for words in (folded(caption).split() for caption in captions):
        runs = {tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)}
        expected.append(sorted(row for run in runs for row in known.get(run, [])))
    assert len(known) < len(real_queries) and sum(map(len, expected)) > 15_000
    assert ids_of(real_queries, list(captions)) == expected


def test_metaclips_rule_equals_brute_force_on_real_captions(
    real_queries: list[str], real_captions: list[str]
) -> None:
    queries, captions = real_queries[::600], real_captions[::37]
    expected = brute_force(queries, list(captions), "metaclip")
    assert sum(map(len, expected)) > 10
    assert ids_of(queries, list(captions), "metaclip") == expected


def test_a_caption_of_a_megabyte() -> None:
    words = " ".join(random.Random(0).choices(["dog", "hot", "cat", "red"], k=250_000))
    assert ids_of(["dog hot cat red dog", "dog", "bird", "(red)"], [words, "dog"]) == [[0, 1, 3], [1]]
    assert ids_of(["日本", "本語"], ["日" * 300_000, "本" * 300_000 + "語"]) == [[], [1]]
    assert ids_of(["dog"], ["-" * 1_000_000 + "dog", "x" * 1_000_000]) == [[0], []]


@pytest.mark.parametrize("rule", ORACLES)
def test_no_queries_no_captions_slices_and_chunks_of_columns(rule: Rule) -> None:
    assert ids_of([], ["dog", None], rule) == [[], []]
    assert ids_of(["dog"], [], rule) == []
    captions = [None, "a dog", "the 日本 dog", "", "hot dog", "cat"] * 50
    whole = ids_of(["dog", "日本", "hot dog"], captions, rule)
    index = QueryIndex.build(pa.array(["x", "dog", "日本", "hot dog"]).slice(1), MatchSettings(rule))
    for kind in (pa.string(), pa.large_string()):
        column = pa.array(captions, kind)
        chunks = pa.chunked_array([column[:3], column[3:3], column[3:]])
        assert index.match(column.slice(7, 100)).to_arrow().to_pylist() == whole[7:107]
        assert index.match(chunks).to_arrow().to_pylist() == whole
        assert index.match(chunks.slice(2, 9)).to_arrow().to_pylist() == whole[2:11]


def test_matches_are_flat_arrays() -> None:
    matches = QueryIndex.build(["dog", "cat"], MatchSettings()).match(pa.array(["cat dog", "", "cat"]))
    column = matches.to_arrow()
    for same in (matches, Matches.from_arrow(pa.chunked_array([column[:1], column[1:]]))):
        assert (same.offsets.dtype, same.ids.dtype) == (np.int64, np.int32)
        assert same.offsets.tolist() == [0, 2, 2, 3] and same.ids.tolist() == [0, 1, 1]


@pytest.mark.parametrize("rule", ORACLES)
def test_a_saved_index_finds_the_same_is_the_same_bytes_and_refused_unless_whole(
    tmp_path: Path, rule: Rule
) -> None:
    captions = pa.array(["Hot dog", "日本のT恤", None])
    for folder in ("one", "two"):
        index = QueryIndex.build(["dog", "hot dog", "日本", "t恤", "Dog", ""], MatchSettings(rule))
        index.save(tmp_path / folder)
    opened = QueryIndex.open(tmp_path / "one")
    assert opened.settings == index.settings
    assert opened.match(captions).to_arrow() == index.match(captions).to_arrow()
    for path in (tmp_path / "one").iterdir():
        whole = path.read_bytes()
        assert whole == (tmp_path / "two" / path.name).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(IntegrityError, match="cannot be read"):
            QueryIndex.open(tmp_path / "one")
        path.unlink()
        with pytest.raises(IntegrityError, match="cannot be read"):
            QueryIndex.open(tmp_path / "one")
        path.write_bytes(whole)


def test_500_000_queries_take_less_than_250_megabytes() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(50_000, size=(500_000, 4)).tolist()
    lengths = rng.integers(1, 5, size=500_000).tolist()
    queries = [" ".join(map(str, row[:size])) for row, size in zip(words, lengths, strict=True)]
    index = QueryIndex.build(queries, MatchSettings())
    assert sum(getattr(index, name).nbytes for name in ARRAYS) < 250e6
