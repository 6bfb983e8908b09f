"""One rule for captions, whatever holds them: the same texts are kept, and lost for the same reasons."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.source_files import images, make_image, read, write_parquet, write_tar

from diptych.core.records import Counts, Need
from diptych.data.pack import PackSettings, pack
from diptych.data.shards.reader import ShardSet
from diptych.data.shards.writer import ShardSettings
from diptych.data.sources.open import Columns, open_source

pytest.importorskip("pyarrow")

# What a caption becomes in every source: the text, or the reason why there is none.
CAPTIONS: dict[str, tuple[str, str]] = {
    "plain": ("a dog", "a dog"),
    "white space": ("  a dog \t", "a dog"),
    "byte order mark": ("\ufeffa dog", "a dog"),
    "not ASCII": ("ein Hündchen 犬 🐕", "ein Hündchen 犬 🐕"),
    "empty": ("   ", "empty_caption"),
    "NUL": ("a \0 dog", "caption_not_text"),
    "too long": ("x" * 16_385, "caption_too_long"),
    "longest": ("x" * 16_384, "x" * 16_384),
}


def write(kind: str, folder: Path, text: str) -> Path:
    """A source of one image with one caption."""
    if kind.startswith(("folder", "tar")):
        row = json.dumps({"caption": text}) if kind.endswith("json") else text
        return beside_one(folder, {f"k.{kind.split()[1]}": row.encode()}, in_tar=kind.startswith("tar"))
    images(folder, "k.jpg")
    row = {"image": "k.jpg", "caption": text}
    if kind == "csv":
        with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([row, row.values()])
    elif kind == "jsonl":
        (folder / "t.jsonl").write_text(json.dumps(row), encoding="utf-8")
    else:
        write_parquet(folder / "t.parquet", image=[make_image()], caption=[text])
    return folder / f"t.{kind}"


def beside_one(folder: Path, beside: dict[str, bytes], *, in_tar: bool) -> Path:
    """One image and what lies beside it, in a folder or in a tar."""
    members = {"k.jpg": make_image(), **beside}
    if in_tar:
        return write_tar(folder / "t.tar", members.items())
    folder.mkdir(exist_ok=True)
    for name, data in members.items():
        (folder / name).write_bytes(data)
    return folder


KINDS = ("folder txt", "folder json", "tar txt", "tar json", "csv", "jsonl", "parquet")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_is_kept_or_dropped_alike_in_every_source(tmp_path, kind, name):
    text, expected = CAPTIONS[name]
    pairs, dropped = read(write(kind, tmp_path / "source", text))
    actual = pairs[0].captions[0] if pairs else next(iter(dropped))
    assert actual == expected


# What lies beside an image: the text, the record, and the captions that are meant.
BESIDE: dict[str, tuple[bytes | None, Any, tuple[str, ...] | str]] = {
    "five lines": (b"one\r\ntwo\nthree\n\n four \nfive", None, ("one", "two", "three", "four", "five")),
    "record without caption": (b"a dog\nan old dog", {"width": 3}, ("a dog", "an old dog")),
    "record whose caption is null": (b"a dog", {"caption": None}, ("a dog",)),
    "record whose caption is no text": (b"a dog", {"captions": 7}, ("a dog",)),
    "record with an empty list": (b"a dog", {"captions": []}, ("a dog",)),
    "img2dataset": (b"a dog", {"caption": "a dog", "url": "http://x", "status": "success"}, ("a dog",)),
    "a list beside its first": (b"one", {"captions": ["one", "two"]}, ("one", "two")),
    "lines beside the first of them": (b"one\ntwo", {"caption": "one"}, ("one", "two")),
    "record only": (None, {"caption": "a dog"}, ("a dog",)),
    "half a character": (None, {"caption": "\ud800 dog"}, "caption_not_text"),
    "half a character beside a text": (b"a dog", {"caption": "\ud800"}, ("a dog",)),
    "one good of three": (b"\0\n \na dog", None, ("a dog",)),
    "not UTF-8": (b"\xffa dog", None, "caption_not_text"),
    "UTF-16": ("a dog".encode("utf-16"), None, "caption_not_text"),
    "a page of text": (b"x\n" * 2**20, None, "caption_too_long"),
    "no JSON": (b"a dog", b"{", "bad_row"),
    "no object": (b"a dog", [1], "bad_row"),
    "nothing": (None, None, "missing_caption"),
    "only a number": (None, {"width": 3}, "missing_caption"),
}


@pytest.mark.parametrize("in_tar", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_an_image_is_read_alike_in_folders_and_tars(tmp_path, name, in_tar):
    text, record, expected = BESIDE[name]
    beside = {} if text is None else {"k.txt": text}
    if record is not None:
        beside["k.json"] = record if isinstance(record, bytes) else json.dumps(record).encode()
    source = beside_one(tmp_path / "source", beside, in_tar=in_tar)
    pairs, dropped = read(source)
    assert (pairs[0].captions if pairs else next(iter(dropped))) == expected
    (pair,) = open_source(source, need=Need.IMAGE).pairs(Counts())
    assert pair.captions == (expected if isinstance(expected, tuple) else ())


@pytest.mark.parametrize("in_tar", [False, True])
def test_a_named_column_is_the_caption_in_records_too(tmp_path, in_tar):
    record = json.dumps({"title": "a crane", "caption": "IMG_1", "label": "bird"}).encode()
    source = beside_one(tmp_path / "source", {"k.txt": b"x", "k.json": record}, in_tar=in_tar)
    pairs, _ = read(source, Columns(caption="title"))
    assert pairs[0].captions == ("a crane",) and pairs[0].fields == {"label": "bird"}


@pytest.mark.parametrize("kind", ["folder", "tar", "jsonl"])
def test_fields_with_half_a_character_or_no_number_are_packed(tmp_path, kind):
    record = {"caption": "a dog", "bro\udc00ken": "x\ud800y", "score": float("nan"), "ok": 1.5}
    beside = {"k.json": json.dumps(record).encode()}
    source = beside_one(tmp_path / "source", beside, in_tar=kind == "tar")
    if kind == "jsonl":
        source = source / "t.jsonl"
        source.write_text(json.dumps({"image": "k.jpg", **record}))
    settings = PackSettings(workers=0, shards=ShardSettings(max_bad_fraction=0.0))
    pack(open_source(source), tmp_path / "out", settings=settings)
    (pair,) = ShardSet.open(tmp_path / "out")
    assert pair.fields == {"bro\\udc00ken": "x\\ud800y", "score": None, "ok": 1.5}
