"""Vocabulary files: what is read, and that no malformed or hostile file is taken."""

import gzip
import json
from pathlib import Path

import pytest

from diptych.core.errors import DataError, DiptychError, IntegrityError
from diptych.data.tokenizers import vocabulary
from diptych.data.tokenizers.clip import Tokenizer
from diptych.data.tokenizers.vocabulary import from_merges, read_file, read_merges


@pytest.fixture
def saved(tmp_path):
    Tokenizer.train(["the theory of the thing"] * 3, size=520).save(tmp_path)
    return tmp_path


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_tokens_that_two_merges_build_have_one_id():
    built = from_merges([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("abc", "d</w>")])
    assert sorted(built.ids.values()) == list(range(len(built.ids)))
    assert built.ids["abc"] == 514
    assert built.ids["abcd</w>"] == 515


def test_published_merges_stop_at_the_size_and_skip_the_first_line(tmp_path):
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(gzip.compress(b'"bpe_simple_vocab_16e6.txt#version: 0.2\nt h\nth e</w>\na b\n'))
    assert read_merges(path, size=516).merges == (("t", "h"), ("th", "e</w>"))
    assert len(read_merges(path, size=49_408).merges) == 3
    path.write_bytes(b"t h\r\nth e</w>\r\n")
    assert read_merges(path, size=49_408).merges == (("t", "h"), ("th", "e</w>"))


def test_older_tokenizer_json_with_merges_in_one_string_is_read(saved):
    expected = read_file(saved / "tokenizer.json")

    def old(document):
        document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
        for name in ("<|startoftext|>", "<|endoftext|>"):
            del document["model"]["vocab"][name]  # then they stand among the added tokens only

    edit(saved / "tokenizer.json", old)
    assert read_file(saved / "tokenizer.json") == expected


BREAKS = {
    "another model": lambda d: d["model"].update(type="WordPiece"),
    "no suffix": lambda d: d["model"].update(end_of_word_suffix=None),
    "no merges": lambda d: d["model"].pop("merges"),
    "vocab is a list": lambda d: d["model"].update(vocab=[]),
    "a missing byte": lambda d: d["model"]["vocab"].pop("!"),
    "an id twice": lambda d: d["model"]["vocab"].update(a=5, b=5),
    "an id that is text": lambda d: d["model"]["vocab"].update(a="5"),
    "an id that is true": lambda d: d["model"]["vocab"].update({'"': True}),
    "a far id": lambda d: d["model"]["vocab"].update(a=10**12),
    "a list as id": lambda d: d["model"]["vocab"].update(a=[]),
    "a merge of unknown tokens": lambda d: d["model"]["merges"].append(["qq", "zz"]),
    "a merge of three": lambda d: d["model"]["merges"].append(["a", "b", "c"]),
    "a merge of numbers": lambda d: d["model"]["merges"].append([1, 2]),
    "added token without content": lambda d: d["added_tokens"].append({"id": 7}),
    "added token with a foreign id": lambda d: d["added_tokens"].append({"id": "x", "content": "<new>"}),
    "added tokens are text": lambda d: d.update(added_tokens="none"),
    "too many merges": lambda d: d["model"].update(merges=[["a", "b"]] * (vocabulary.MAX_SIZE + 1)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_malformed_tokenizer_json_is_refused(saved, name):
    edit(saved / "tokenizer.json", BREAKS[name])
    with pytest.raises(IntegrityError, match="not a CLIP vocabulary"):
        Tokenizer.load(saved)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[1]", b"null", b"[" * 200_000, b"1" * 5000, b"\xff\xfe\x00", b'{"model": null}', b"{}",
        b'{"model": {"type": "BPE"}}', b"NaN", b"\x1f\x8b broken",
    ],
)  # fmt: skip
def test_bytes_that_are_no_vocabulary_are_refused(tmp_path, data):
    for name in ("tokenizer.json", "vocab.json"):
        path = tmp_path / name
        path.write_bytes(data)
        (tmp_path / "merges.txt").write_bytes(data)
        for wrong in (path, tmp_path):
            with pytest.raises(IntegrityError) as caught:
                Tokenizer.load(wrong)
            assert str(tmp_path) in str(caught.value)
        path.unlink()


@pytest.mark.parametrize(
    "data", [b"one\n", b"a b c\n", b"q\xff w\n", b"a qq\n", gzip.compress(b"t h\n", mtime=0)[:-6]]
)
def test_bytes_that_are_no_merges_are_refused(tmp_path, data):
    path = tmp_path / "merges.txt"
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        read_merges(path, size=49_408)


def test_files_and_unpacked_files_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "MAX_FILE_BYTES", 10_000)
    plain, packed = tmp_path / "tokenizer.json", tmp_path / "merges.txt.gz"
    plain.write_bytes(b" " * 10_001)
    packed.write_bytes(gzip.compress(b"a b\n" * 1_000_000))
    assert packed.stat().st_size < 10_000
    with pytest.raises(IntegrityError, match="more than 10,000 bytes"):
        read_file(plain)
    with pytest.raises(IntegrityError, match="at most 10,000 bytes"):
        read_merges(packed, size=49_408)


def test_missing_files_say_how_to_make_one(tmp_path):
    for name in (".", "none.txt.gz", "none.json"):
        with pytest.raises(DataError, match="diptych tokenizer"):
            Tokenizer.load(tmp_path / name)
    (tmp_path / "merges.txt").mkdir()
    with pytest.raises(DiptychError, match="vocabulary"):
        Tokenizer.from_merges(tmp_path / "merges.txt")


@pytest.mark.parametrize(
    ("stated", "read"), [(24, 24), (1e30, 77), (10**30, 77), ("x", 77), (None, 77), (-5, 77)]
)
def test_the_context_length_comes_from_the_config_if_it_is_sane(saved, stated, read):
    edit(saved / "tokenizer_config.json", lambda config: config.update(model_max_length=stated))
    assert Tokenizer.load(saved).context_length == read
    assert Tokenizer.load(saved, context_length=16).context_length == 16
    (saved / "tokenizer_config.json").unlink()
    assert Tokenizer.load(saved).context_length == 77
