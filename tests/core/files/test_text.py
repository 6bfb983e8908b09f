"""One rule for every text file of a user's: UTF-8, a byte order mark is no part of the text."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from diptych.cli.arguments import parse_names
from diptych.core.files.json_objects import read_json
from diptych.core.files.text import read_text
from diptych.core.settings import load_toml
from diptych.curate.candidates.filter import read_list
from diptych.curate.dedup import read_blocked_images
from diptych.data.shards.edit import read_keys
from diptych.data.tokenizers.siglip_engines import JsonEngine
from diptych.data.tokenizers.vocabulary import read_merges
from diptych.data.wordnet import read_wordnet
from diptych.evaluate.prompts.templates import load
from diptych.evaluate.tasks.readers import text_lines

DIGEST = "a" * 64
FILES: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "settings.toml": ("[data]\nsource = 'é'", "{'data': {'source': 'é'}}", load_toml),
    "settings.json": ('{"title": 1}', "{'title': 1}", read_json),
    "names.txt": ("crane\nheron\n", "['crane', 'heron']", lambda path: parse_names([str(path)], where="")),
    "lines.txt": ("crane\nheron\n", "['crane', 'heron']", text_lines),
    "keys.txt": ("k1\nk2", "['k1', 'k2']", read_keys),
    "list.txt": ("one\n# two\n", "('one',)", lambda path: read_list(str(path))),
    "blocked.txt": (DIGEST, DIGEST, lambda path: next(iter(read_blocked_images(path).sha256))),
    "templates.txt": ("a photo of {}.\n", "('a photo of {}.',)", lambda path: load(path).templates),
    "templates.json": ('["a {}."]', "('a {}.',)", lambda path: load(path).templates),
    "templates.toml": ('templates = ["a {}."]', "('a {}.',)", lambda path: load(path).templates),
    "words.tsv": (
        "synset\tlexfile\tpos\tmembers\tdefinition\n1-n\tnoun.animal\tn\tcrane\ta bird\n",
        "['1-n']",
        lambda path: list(read_wordnet(path).synsets),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str) -> None:
    text, expected, read = FILES[name]
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / name).write_text(text, encoding=encoding)
        assert str(read(tmp_path / name)) == expected, encoding


def test_a_vocabulary_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    merges = "#version: 0.2\n" + "\n".join(f"{letter} {letter}" for letter in "abcdefgh")
    for number, encoding in enumerate(("utf-8", "utf-8-sig")):
        (tmp_path / f"{number}.txt").write_text(merges, encoding=encoding)
    assert read_merges(tmp_path / "0.txt", size=522) == read_merges(tmp_path / "1.txt", size=522)


def test_a_tokenizer_with_a_byte_order_mark_is_read() -> None:
    vocabulary = Tokenizer(WordLevel({"a": 0, "dog": 1}, unk_token="a")).to_str().encode()
    plain, marked = (JsonEngine(mark + vocabulary, cleaning="none") for mark in (b"", codecs.BOM_UTF8))
    assert plain.id_of("dog") == marked.id_of("dog") == 1


def test_utf_16_is_named(tmp_path: Path) -> None:
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        (tmp_path / "x").write_bytes(mark + json.dumps({"a": 1}).encode(encoding))
        with pytest.raises(UnicodeDecodeError, match="UTF-16"):
            read_text(tmp_path / "x")
