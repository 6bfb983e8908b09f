"""Files of others: text with or without a byte order mark, one JSON object of bounded size."""

import codecs
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from diptych.cli.arguments import parse_names
from diptych.core.errors import IntegrityError, UsageError
from diptych.core.files.reading import read_json, read_text
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
MERGES = "#version: 0.2\n" + "\n".join(f"{letter} {letter}" for letter in "abcdefgh")
WORDS = Tokenizer(WordLevel({"a": 0, "dog": 1}, unk_token="a")).to_str()
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
    "merges.txt": (MERGES, "('h', 'h')", lambda path: read_merges(path, size=522).merges[-1]),
    "tokenizer.json": (WORDS, "1", lambda path: JsonEngine(path.read_bytes(), cleaning="none").id_of("dog")),
}


@pytest.mark.parametrize("name", FILES)
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str) -> None:
    text, expected, read = FILES[name]
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / name).write_text(text, encoding=encoding)
        assert str(read(tmp_path / name)) == expected, encoding


def test_utf_16_is_named(tmp_path: Path) -> None:
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        (tmp_path / "x").write_bytes(mark + json.dumps({"a": 1}).encode(encoding))
        with pytest.raises(UnicodeDecodeError, match="UTF-16"):
            read_text(tmp_path / "x")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[1]", b"7", b"{", b"\xff\xff", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}", b'{"a":' * 100_000, b" " * 101 + b"{}",
    ],
)  # fmt: skip
def test_anything_but_one_json_object_is_damaged(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(data)
    limit = 100 if data.endswith(b" {}") else 2**20
    with pytest.raises(IntegrityError, match=r"bad\.json") as error:
        read_json(tmp_path / "bad.json", max_bytes=limit, fix="fetch it again")
    assert "to do: fetch it again" in str(error.value) and len(str(error.value)) < 500


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")  # opening it would wait for ever
    for name in ("missing.json", "pipe.json", "."):
        with pytest.raises(UsageError, match="no such file"):
            read_json(tmp_path / name)
