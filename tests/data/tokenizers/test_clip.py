"""Ids against an oracle of a page and against published ids; rows, training, saving, other libraries."""

import copy
import gzip
import json
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

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
def small() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, size=540, context_length=12)


@pytest.fixture(scope="module")
def merges_file(shared_data: Path) -> Path:
    return shared_data / "text" / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def published(merges_file: Path) -> Tokenizer:
    return Tokenizer.from_merges(merges_file)


def merges_of(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    return [(line.split()[0], line.split()[1]) for line in lines]


def test_published_ids(published):
    assert published.is_published
    # Ids that OpenAI's and Hugging Face's documentation print.
    assert (published.vocab_size, published.start_id, published.end_id) == (49408, 49406, 49407)
    assert published.encode("a diagram") == [320, 22697]
    assert published.encode("a dog") == [320, 1929]
    assert published.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert published.encode("!") == [256]  # "!" that ends a word; 0 is "!" inside one
    assert published.encode("") == []


def test_published_ids_equal_the_oracle_on_captions_and_fuzz(published, merges_file, shared_data):
    lines = gzip.decompress(merges_file.read_bytes()).decode().split("\n")[1:48895]
    oracle = Oracle([(line.split()[0], line.split()[1]) for line in lines])
    annotations = json.loads((shared_data / "text" / "captions_val2017.json").read_text())["annotations"]
    texts = [row["caption"] for row in annotations[::50]] + fuzzed(3000, seed=1)
    for text in texts:
        assert published.encode(text) == oracle.encode(text), repr(text)


def test_trained_ids_equal_the_oracle(small, tmp_path):
    small.save(tmp_path)
    oracle = Oracle(merges_of(tmp_path))
    for text in CAPTIONS + fuzzed(2000, seed=2):
        assert small.encode(text) == oracle.encode(text), repr(text)


def test_rows_are_start_ids_end_zeros(small):
    rows = small.tokens(["a bus", ""])
    ids = small.encode("a bus")
    assert rows.dtype == np.int64
    assert rows.shape == (2, 12)
    assert rows[0].tolist() == [small.start_id, *ids, small.end_id, *[0] * (10 - len(ids))]
    assert rows[1].tolist() == [small.start_id, small.end_id, *[0] * 10]
    assert small.tokens([]).shape == (0, 12)


def test_truncation_keeps_the_end_token_and_is_counted():
    tokenizer = Tokenizer.train(CAPTIONS, size=514, context_length=6)
    exact, longer = tokenizer.tokens(["abcd", "abcde"])
    assert exact[-1] == longer[-1] == tokenizer.end_id
    assert longer[1:5].tolist() == tokenizer.encode("abcde")[:4]
    assert tokenizer.counts.as_dict() == {"texts": 2, "truncated": 1, "capped": 0, "special": 0}


def test_typed_specials_and_capped_texts_are_counted():
    tokenizer = Tokenizer.train(CAPTIONS, size=514)
    rows = tokenizer.tokens(["a <|endoftext|> b <|endoftext|>", "<|STARTOFTEXT|>", "a", "x" * 5000])
    assert rows[0].tolist().count(tokenizer.end_id) == 3
    assert rows[1, 1] == tokenizer.start_id
    assert tokenizer.counts.as_dict() == {"texts": 4, "truncated": 1, "capped": 1, "special": 2}


def test_specials_beyond_the_cut_are_not_counted():
    tokenizer = Tokenizer.train(CAPTIONS, size=514, context_length=4)
    tokenizer.tokens(["abc <|endoftext|>"])
    assert tokenizer.counts.as_dict() == {"texts": 1, "truncated": 1, "capped": 0, "special": 0}


@pytest.mark.parametrize("wrong", ["a single string", [None], [b"bytes"], ["fine", 3]])
def test_anything_but_a_list_of_texts_is_refused(small, wrong):
    with pytest.raises(UsageError, match="list of texts"):
        small.tokens(wrong)


def test_decode_gives_the_cleaned_text_back(small):
    assert small.decode(small.tokens(["The  BUS in Café"])[0]) == "the bus in café"
    assert small.decode(small.encode("dog's 42!")) == "dog 's 4 2 !"
    assert small.decode([]) == ""
    with pytest.raises(UsageError, match="no such token id"):
        small.decode([10**6])


def test_training_gives_the_size_and_the_order_of_ids(small, tmp_path):
    assert small.vocab_size == 540
    assert (small.start_id, small.end_id) == (538, 539)
    small.save(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text())
    assert [ids["!"], ids["!</w>"], ids["a"], ids["a</w>"]] == [0, 256, 64, 320]
    assert len(merges_of(tmp_path)) == 540 - 514


def test_training_merges_the_most_frequent_pair_first(tmp_path):
    # by hand: in↔n</w> "in" 4×, then "th" 3×, then "th"+"e</w>" 3× ties "t h": "the" has th before the
    Tokenizer.train(["in in in in the the the ox ox"], size=518).save(tmp_path)
    assert merges_of(tmp_path)[0] == ("i", "n</w>")
    assert set(merges_of(tmp_path)[1:3]) in ({("t", "h"), ("th", "e</w>")}, {("h", "e</w>"), ("t", "he</w>")})
    assert merges_of(tmp_path)[3] == ("o", "x</w>")


def test_each_merge_is_the_most_frequent_pair_at_its_time(small, tmp_path):
    """Replay the training in plain Python: no other pair may ever be more frequent than the one merged."""
    small.save(tmp_path)
    merges = merges_of(tmp_path)
    oracle = Oracle([])
    names = {number: token for token, number in oracle.ids.items()}
    table = Counter(word for caption in CAPTIONS for word in module.chunks(caption))
    split = Counter()
    for chunk, count in table.items():
        for word in module.words(chunk):
            split[tuple(names[number] for number in oracle.word(word))] += count
    for merge in merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, count in split.items():
            for pair in pairwise(parts):
                pairs[pair] += count
        assert pairs[merge] == max(pairs.values())
        replay: Counter[tuple[str, ...]] = Counter()
        for parts, count in split.items():
            merged, place = [], 0
            while place < len(parts):
                both = parts[place : place + 2] == merge
                merged.append("".join(merge) if both else parts[place])
                place += 2 if both else 1
            replay[tuple(merged)] += count
        split = replay


def test_training_does_not_depend_on_order_or_process(small, tmp_path):
    small.save(tmp_path)
    (tmp_path / "again").mkdir()
    Tokenizer.train(reversed(CAPTIONS), size=540).save(tmp_path / "again")
    assert (tmp_path / "again" / "merges.txt").read_bytes() == (tmp_path / "merges.txt").read_bytes()
    script = f"""
from diptych.data.tokenizers.clip import Tokenizer
Tokenizer.train({CAPTIONS!r}, size=540).save({str(tmp_path / "again")!r})"""
    for _ in range(2):  # the engine's hash tables are seeded anew in each process
        subprocess.run([sys.executable, "-c", script], check=True)
        assert (tmp_path / "again" / "merges.txt").read_bytes() == (tmp_path / "merges.txt").read_bytes()


def test_training_ends_early_when_nothing_repeats():
    assert Tokenizer.train(["x"], size=5000).vocab_size == 514
    assert Tokenizer.train([], size=5000).vocab_size == 514


@pytest.mark.parametrize("size", [513, 10**7])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(UsageError):
        Tokenizer.train(CAPTIONS, size=size)


def test_a_context_without_room_is_refused():
    with pytest.raises(UsageError):
        Tokenizer.train(CAPTIONS, size=514, context_length=2)


def test_every_file_form_loads_to_the_same_tokenizer(small, tmp_path):
    small.save(tmp_path)
    texts = CAPTIONS + fuzzed(200, seed=4)
    loaded = [
        Tokenizer.load(tmp_path),
        Tokenizer.open(tmp_path / "tokenizer.json", context_length=12),
        Tokenizer.open(tmp_path / "vocab.json", context_length=12),
        Tokenizer.from_merges(tmp_path / "merges.txt", context_length=12),
        copy.deepcopy(small),  # as a loader's worker gets it
        *(
            Tokenizer.open(tmp_path / name, context_length=12)
            for name in (".", "tokenizer.json", "vocab.json", "merges.txt")
        ),
    ]
    assert not small.is_published
    for other in loaded:
        assert other.context_length == 12
        np.testing.assert_array_equal(other.tokens(texts), small.tokens(texts))
    (tmp_path / "tokenizer.json").unlink()
    np.testing.assert_array_equal(Tokenizer.load(tmp_path).tokens(texts), small.tokens(texts))


def test_saving_twice_gives_the_same_bytes(small, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    small.save(tmp_path / "one")
    Tokenizer.load(tmp_path / "one").save(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_transformers_loads_what_we_save_and_gives_the_same_ids(small, tmp_path):
    transformers = pytest.importorskip("transformers")
    small.save(tmp_path)
    texts = [*CAPTIONS, "a zebra's 12 stripes", "<|endoftext|> typed"]
    expected = [[small.start_id, *small.encode(text), small.end_id] for text in texts]
    for kind in (transformers.AutoTokenizer, transformers.CLIPTokenizerFast):
        theirs = kind.from_pretrained(tmp_path)
        assert theirs(texts)["input_ids"] == expected
        assert theirs.model_max_length == 12


def test_the_table_of_words_is_bounded_and_changes_no_id(monkeypatch, small):
    expected = [small.encode(caption) for caption in CAPTIONS]
    monkeypatch.setattr(module, "MAX_REMEMBERED", 5)
    fresh = copy.deepcopy(small)
    assert [fresh.encode(caption) for caption in CAPTIONS] == expected
    fresh.encode("z" * 1000)
    assert 0 < len(fresh._words) <= 5
    assert all(len(chunk) <= module.MAX_REMEMBERED_CHARACTERS for chunk in fresh._words)
