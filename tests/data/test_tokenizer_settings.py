"""A transformers tokenizer's own tokens and settings: honored as transformers does, or refused by name."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from diptych.data.tokenizer import Tokenizer

CAPTIONS = ["a photo of a red dog", "two blue squares above a circle", "singles and a single cat"] * 9
ADDED = ("<cat-toy>", "Big Dog", "na\u00efve", "<Raw>", "single", "cAse", "<s1>", "dog", "<cat", "\u00e9")
PIECES = (*ADDED, *(name.upper() for name in ADDED), "a", "photo", "of", "'s", "red", "big  dog", "s", "2",
          "!", " ", "  ", ",", "<", ">", "nai\u0308ve", "<|endoftext|>", "and")  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Tokenizer:
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


def texts() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(PIECES, k=rng.randint(1, 9))) for _ in range(400)]


def same_ids(ours: Tokenizer, theirs: Any) -> None:
    for text in texts():
        repaired = " ".join(text.split())  # what a clean-up without lower case leaves of these pieces
        expected = theirs(repaired, truncation=True, max_length=20).input_ids
        found = ours.tokens([text])[0]
        assert found[: len(expected)].tolist() == expected, text


def test_added_tokens_have_the_ids_of_transformers(small: Tokenizer, tmp_path: Path) -> None:
    theirs = with_added(small, tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    ours = Tokenizer.load(tmp_path / "saved")
    assert ours.vocab_size == len(theirs) and ours.end_id == theirs.eos_token_id
    same_ids(ours, theirs)
    assert not ours.is_published
    assert ours.decode(ours.encode("a <Raw> big dog")) == "a <Raw> Big Dog"


def test_added_tokens_survive_saving(small: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    theirs = with_added(small, tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    (tmp_path / "again").mkdir()
    Tokenizer.load(tmp_path / "saved").save(tmp_path / "again")
    same_ids(Tokenizer.load(tmp_path / "again"), theirs)
    same_ids(Tokenizer.load(tmp_path / "again"), AutoTokenizer.from_pretrained(tmp_path / "again"))
    (tmp_path / "again" / "tokenizer.json").unlink()
    same_ids(Tokenizer.load(tmp_path / "again"), theirs)


def test_added_tokens_of_slow_tokenizers_are_read(small: Tokenizer, tmp_path: Path) -> None:
    small.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<cat-toy>": small.vocab_size}))
    assert Tokenizer.load(tmp_path).encode("A <Cat-Toy>") == [*small.encode("a"), small.vocab_size]
