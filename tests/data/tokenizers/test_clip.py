"""Ids against an oracle of a page and against published ids; rows, training, saving, other libraries."""

import gzip
import json
import pickle
import random
import subprocess
import sys
from collections import Counter
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from tests.data.bpe_oracle import Oracle

from diptych.core.errors import UsageError
from diptych.data.tokenizers import clip as module
from diptych.data.tokenizers.clip import Tokenizer

CAPTIONS = [
    "A red bus on the street", "Two dogs run in the park", "the dogs' red ball", "A blue bus, a red bus!",
    "Café in the street, 2021", "the street and the park", "a dog's bone", "Bus 42 stops in the park",
] * 3  # fmt: skip

PIECES = (
    "a", "dog", "Dogs", "'s", "'RE", "2", "2021", "é", "café", "日本", "🐶", "ß", "İ", "ΑΣ", "ﬁ", "\u212a",
    "'\u017f", "&amp;", "&lt;", "&#39;", "&", ";", "<|endoftext|>", "<|StartOfText|>", "<|", "|>", "!?",
    "...", "\x1b[0m", "\x00", " ", "  ", "\n", "\t", "\x1c", "\x85", "\u2028", "\u3000", "\u200b", "\ufeff",
    "Ã©", "â€™", "’", "\ud83d", "\u0301",
)  # fmt: skip


def fuzzed(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = [rng.choice(PIECES) for _ in range(rng.randint(0, 12))]
        parts += [
            chr(rng.choice((rng.randint(0, 0x2FF), rng.randint(0, 0xFFFF)))) for _ in range(rng.randint(0, 4))
        ]
        parts += ["".join(rng.choices("etaoinshr", k=rng.randint(0, 20)))]
        rng.shuffle(parts)
        texts.append("".join(parts))
    return texts


@pytest.fixture(scope="module")
def small():
    return Tokenizer.train(CAPTIONS, size=540, context_length=12)


@pytest.fixture
def saved(small, tmp_path):
    small.save(tmp_path)
    return tmp_path


def merges_of(folder):
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    return [tuple(line.split()) for line in lines]


def test_published_ids_are_the_documented_ones_and_equal_the_oracle(shared_data):
    file = shared_data / "text" / "bpe_simple_vocab_16e6.txt.gz"
    published = Tokenizer.from_merges(file)
    assert published.is_published
    # Ids that OpenAI's and Hugging Face's documentation print.
    assert (published.vocab_size, published.start_id, published.end_id) == (49408, 49406, 49407)
    assert published.encode("a diagram") == [320, 22697]
    assert published.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert published.encode("!") == [256]  # "!" that ends a word; 0 is "!" inside one
    oracle = Oracle(
        [tuple(row.split()) for row in gzip.decompress(file.read_bytes()).decode().split("\n")[1:48895]]
    )
    annotations = json.loads((shared_data / "text" / "captions_val2017.json").read_text())["annotations"]
    for text in [row["caption"] for row in annotations[::50]] + fuzzed(3000, seed=1):
        assert published.encode(text) == oracle.encode(text), repr(text)


def test_trained_ids_equal_the_oracle(small, saved):
    oracle = Oracle(merges_of(saved))
    for text in ["", *CAPTIONS, *fuzzed(2000, seed=2)]:
        assert small.encode(text) == oracle.encode(text), repr(text)


def test_rows_are_start_ids_end_zeros(small):
    rows = small.tokens(["a bus", ""])
    ids = small.encode("a bus")
    assert rows.dtype == np.int64
    assert rows[0].tolist() == [small.start_id, *ids, small.end_id, *[0] * (10 - len(ids))]
    assert rows[1].tolist() == [small.start_id, small.end_id, *[0] * 10]
    assert small.tokens([]).shape == (0, 12)


@pytest.mark.parametrize(
    ("context", "texts", "counts"),  # texts, truncated, capped, special
    [
        (6, ["abcd", "abcde"], (2, 1, 0, 0)),
        (77, ["a <|endoftext|> b <|endoftext|>", "<|STARTOFTEXT|>", "a", "x" * 5000], (4, 1, 1, 2)),
        (4, ["abc <|endoftext|>"], (1, 1, 0, 0)),  # special tokens beyond the cut are not met
    ],
)
def test_truncation_keeps_the_end_token_and_is_counted_as_are_typed_specials(context, texts, counts):
    tokenizer = Tokenizer.train(CAPTIONS, size=514, context_length=context)
    for row, text in zip(tokenizer.tokens(texts), texts, strict=True):
        ids = tokenizer.encode(text)[: context - 2]
        assert row[: len(ids) + 2].tolist() == [tokenizer.start_id, *ids, tokenizer.end_id]
    assert astuple(tokenizer.counts) == counts


def test_mistakes_are_refused(small):
    for wrong in ("a single string", [None], [b"bytes"], ["fine", 3]):
        with pytest.raises(UsageError, match="list of texts"):
            small.tokens(wrong)
    for settings in ({"size": 513}, {"size": 10**7}, {"size": 514, "context_length": 2}):
        with pytest.raises(UsageError):
            Tokenizer.train(CAPTIONS, **settings)
    with pytest.raises(UsageError, match="no such token id"):
        small.decode([10**6])


def test_decode_gives_the_cleaned_text_back(small):
    assert small.decode(small.tokens(["The  BUS in Café"])[0]) == "the bus in café"
    assert small.decode(small.encode("dog's 42!")) == "dog 's 4 2 !"
    assert small.decode([]) == ""


def test_training_gives_the_size_and_the_order_of_ids(small, saved):
    assert (small.vocab_size, small.start_id, small.end_id) == (540, 538, 539)
    ids = json.loads((saved / "vocab.json").read_text())
    assert [ids["!"], ids["!</w>"], ids["a"], ids["a</w>"]] == [0, 256, 64, 320]
    assert len(merges_of(saved)) == 540 - 514
    for nothing_repeats in (["x"], []):
        assert Tokenizer.train(nothing_repeats, size=5000).vocab_size == 514


def test_each_merge_is_the_most_frequent_pair_at_its_time(saved):
    """Replay the training in plain Python: no other pair may ever be more frequent than the one merged."""
    oracle = Oracle([])
    names = {number: token for token, number in oracle.ids.items()}
    split = Counter()
    for chunk, count in Counter(word for caption in CAPTIONS for word in module.chunks(caption)).items():
        for word in module.words(chunk):
            split[tuple(names[number] for number in oracle.word(word))] += count
    for merge in merges_of(saved):
        pairs = Counter()
        for parts, count in split.items():
            for pair in pairwise(parts):
                pairs[pair] += count
        assert pairs[merge] == max(pairs.values())
        replay = Counter()
        for parts, count in split.items():
            merged, place = [], 0
            while place < len(parts):
                both = parts[place : place + 2] == merge
                merged.append("".join(merge) if both else parts[place])
                place += 2 if both else 1
            replay[tuple(merged)] += count
        split = replay


def test_training_does_not_depend_on_order_or_process(saved):
    expected = (saved / "merges.txt").read_bytes()
    again = saved / "again"
    again.mkdir()
    Tokenizer.train(reversed(CAPTIONS), size=540).save(again)
    assert (again / "merges.txt").read_bytes() == expected
    # The engine's hash tables are seeded anew in each process.
    script = f"""
from diptych.data.tokenizers.clip import Tokenizer
Tokenizer.train({CAPTIONS!r}, size=540).save({str(again)!r})"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (again / "merges.txt").read_bytes() == expected


def test_every_file_form_loads_to_the_same_tokenizer_and_is_saved_alike(small, saved):
    texts = CAPTIONS + fuzzed(200, seed=4)
    names = (".", "tokenizer.json", "vocab.json", "merges.txt")
    loaded = [Tokenizer.load(saved / name, context_length=12) for name in names]
    loaded += [Tokenizer.load(saved), Tokenizer.from_merges(saved / "merges.txt", context_length=12)]
    loaded += [pickle.loads(pickle.dumps(small))]  # as a loader's worker gets it
    assert not small.is_published
    for other in loaded:
        assert (other.context_length, other.digest) == (12, small.digest)
        np.testing.assert_array_equal(other.tokens(texts), small.tokens(texts))
    (saved / "two").mkdir()
    loaded[0].save(saved / "two")
    for file in (saved / "two").iterdir():
        assert file.read_bytes() == (saved / file.name).read_bytes()
    (saved / "tokenizer.json").unlink()
    np.testing.assert_array_equal(Tokenizer.load(saved).tokens(texts), small.tokens(texts))


def test_transformers_loads_what_we_save_and_gives_the_same_ids(small, saved):
    transformers = pytest.importorskip("transformers")
    texts = [*CAPTIONS, "a zebra's 12 stripes", "<|endoftext|> typed"]
    expected = [[small.start_id, *small.encode(text), small.end_id] for text in texts]
    for kind in (transformers.AutoTokenizer, transformers.CLIPTokenizerFast):
        theirs = kind.from_pretrained(saved)
        assert theirs(texts)["input_ids"] == expected
        assert theirs.model_max_length == 12


def test_the_table_of_words_is_bounded_and_changes_no_id(monkeypatch, small, saved):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 5)
    fresh = Tokenizer.load(saved)
    assert [fresh.encode(caption) for caption in CAPTIONS] == [small.encode(caption) for caption in CAPTIONS]
    fresh.encode("z" * 1000)
    assert 0 < len(fresh._words) <= 5
    assert all(len(chunk) <= module.MAX_REMEMBERED_CHARACTERS for chunk in fresh._words)
