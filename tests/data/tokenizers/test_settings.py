"""A transformers tokenizer's own tokens and settings: honored as transformers does, or refused by name."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from diptych.core.errors import UsageError
from diptych.data.tokenizers.clip import Tokenizer

CAPTIONS = ["a photo of a red dog", "two blue squares above a circle", "singles and a single cat"] * 9
ADDED = ("<cat-toy>", "Big Dog", "na\u00efve", "<Raw>", "single", "cAse", "<s1>", "dog", "<cat", "\u00e9")
PIECES = (*ADDED, *(name.upper() for name in ADDED), "a", "photo", "of", "'s", "red", "big  dog", "s", "2",
          "!", " ", "  ", ",", "<", ">", "nai\u0308ve", "<|endoftext|>", "and")  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return Tokenizer.train(CAPTIONS, size=560, context_length=20)


def with_added(small: Tokenizer, folder: Path) -> Any:
    """Return transformers' tokenizer with tokens of every kind added."""
    from transformers import AddedToken, CLIPTokenizer

    small.save(folder)
    theirs = CLIPTokenizer.from_pretrained(folder)
    theirs.add_tokens([*ADDED[:3], AddedToken("<Raw>", normalized=False)])
    theirs.add_tokens(
        [AddedToken("single", single_word=True), AddedToken("dog", normalized=False), *ADDED[5:]]
    )
    theirs.add_special_tokens({"extra_special_tokens": ["<S2>"]})
    return theirs


def same_ids(ours: Tokenizer, theirs: Any) -> None:
    rng = random.Random(0)
    for _ in range(400):
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 9)))
        repaired = " ".join(text.split())  # what a clean-up without lower case leaves of these pieces
        expected = theirs(repaired, truncation=True, max_length=20).input_ids
        assert ours.tokens([text])[0][: len(expected)].tolist() == expected, text


def test_added_tokens_have_the_ids_of_transformers_and_survive_saving(small, tmp_path):
    from transformers import AutoTokenizer

    theirs = with_added(small, tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    ours = Tokenizer.load(tmp_path / "saved")
    assert ours.vocab_size == len(theirs) and ours.end_id == theirs.eos_token_id
    same_ids(ours, theirs)
    assert not ours.is_published
    assert ours.decode(ours.encode("a <Raw> big dog")) == "a <Raw> Big Dog"
    again = tmp_path / "again"
    again.mkdir()
    ours.save(again)
    same_ids(Tokenizer.load(again), AutoTokenizer.from_pretrained(again))
    assert Tokenizer.load(again).digest == ours.digest
    (again / "tokenizer.json").unlink()
    same_ids(Tokenizer.load(again), theirs)


def test_added_tokens_of_slow_tokenizers_are_read(small, tmp_path):
    small.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<cat-toy>": small.vocab_size}))
    assert Tokenizer.load(tmp_path).encode("A <Cat-Toy>") == [*small.encode("a"), small.vocab_size]


def change(folder: Path, small: Tokenizer, config: dict[str, Any], document: dict[str, Any]) -> Path:
    """Save a tokenizer with other settings; dots in names lead into tables."""
    small.save(folder)
    for name, changes in (("tokenizer_config.json", config), ("tokenizer.json", document)):
        actual = json.loads((folder / name).read_text())
        for dotted, value in changes.items():
            *above, last = dotted.split(".")
            table = actual
            for part in above:
                table = table[part]
            table[last] = value
        (folder / name).write_text(json.dumps(actual))
    return folder


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
LEFT = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
PAD = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
       "pad_type_id": 0, "pad_token": "!"}  # fmt: skip
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"padding_side": "left"}, {}, "padding_side"),
    ({"truncation_side": "left"}, {}, "truncation_side"),
    ({"split_special_tokens": True}, {}, "split_special_tokens"),
    ({"bos_token": "<|endoftext|>"}, {}, "bos_token"),
    ({"eos_token": {"content": "!"}}, {}, "eos_token"),
    ({"tokenizer_class": "GPT2Tokenizer"}, {}, "tokenizer_class"),
    ({"extra_special_tokens": ["<q>"]}, {}, "special tokens"),
    ({"additional_special_tokens": [{"content": "<q>"}]}, {}, "special tokens"),
    ({"pad_token": "<pad>"}, {}, "special tokens"),
    ({}, {"padding": PAD}, "padding.direction"),
    ({}, {"truncation": LEFT}, "truncation.direction"),
    ({}, {"post_processor.cls": ["!", 0]}, "post_processor"),
    (FAST, {"normalizer": None}, "normalizer"),
    (FAST, {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"},
                                                                {"type": "Lowercase"}]}}, "normalizer"),
    (FAST, {"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer"),
    (FAST, {"model.dropout": 0.5}, "model.dropout"),
    (FAST, {"model.ignore_merges": True}, "model.ignore_merges"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "document", "stated"), REFUSED, ids=[row[2] for row in REFUSED])
def test_settings_that_change_ids_are_refused_by_name(config, document, stated, small, tmp_path):
    with pytest.raises(UsageError) as error:
        Tokenizer.load(change(tmp_path, small, config, document))
    assert stated in error.value.where and error.value.fix and error.value.expected


@pytest.mark.parametrize(
    ("config", "document"),
    [
        ({"do_lower_case": False}, {}),
        ({"strip_accents": True, "add_prefix_space": True, "unk_token": "!", "pad_token": "!"}, {}),
        ({}, {"normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None}),
        ({"tokenizer_class": "CLIPTokenizerFast"}, {"model.dropout": 0.5}),
        (FAST, {}),
    ],
)
def test_settings_that_transformers_does_not_use_here_change_nothing(config, document, small, tmp_path):
    from transformers import AutoTokenizer

    ours = Tokenizer.load(change(tmp_path, small, config, document))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("A photo of a red Dog's cafe", "Two 22 blue squares!"):
        expected = theirs(text).input_ids
        assert ours.tokens([text])[0][: len(expected)].tolist() == expected
