"""Every command once, with its default settings and the smallest input that makes sense."""

from pathlib import Path

import pytest
from PIL import Image
from tests.cli.conftest import Run, call
from tests.cli.test_prompts import WORDNET

from diptych.cli.commands import COMMANDS

RECIPE = """
[data]
source = "photos"
[model]
preset = "vit-mini-16-64"
[train]
epochs = 1
"""
CURATION = """
[queries]
list = "queries.txt"
[candidates]
sources = ["scenes:crawl?count=60"]
"""
LINES = {
    "demo": "",
    "curate": "PLACE/curation.toml --out PLACE/curated",
    "tokenizer": "PLACE/photos PLACE/vocabulary",
    "pack": "PLACE/photos PLACE/shards",
    "remove": "PLACE/set a",
    "train": "PLACE/short.toml --out PLACE/run",
    "evaluate": "RUN PLACE/photos",
    "classify": "RUN PLACE/photos/a.jpg --labels red,green",
    "calibrate": "RUN scenes:test?count=20",
    "prompts": "crane,heron --wordnet PLACE/wordnet.tsv",
    "ablate": "RUN scenes:unseen?count=12 --labels label --templates PLACE/templates.txt",
    "index": "add PLACE/photos.index PLACE/photos --model RUN",
    "search": "PLACE/photos.index red",
    "duplicates": "PLACE/photos.index",
    "convert": "RUN PLACE/converted --to open_clip",
    "export": "RUN PLACE/exported",
}
"""The words of each command; a command without an entry fails here."""
SLOW = ("demo",)
"""Draws, curates and trains twice: minutes."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smallest input of every command."""
    place = tmp_path_factory.mktemp("smoke")
    (place / "photos").mkdir()
    for name, color in {"a": "red", "b": "green"}.items():
        Image.new("RGB", (70, 66), color).save(place / "photos" / f"{name}.jpg")
        (place / "photos" / f"{name}.txt").write_text(f"a {color} square\n", encoding="utf-8")
    texts = {
        "short.toml": RECIPE,
        "curation.toml": CURATION,
        "queries.txt": "red\nblue\nstar\nheart\ncloud\n",
        "wordnet.tsv": WORDNET,
        "templates.txt": "a {}\na drawing of a {}\n",
    }
    for file, text in texts.items():
        (place / file).write_text(text, encoding="utf-8")
    return place


def marked(name: str) -> object:
    return pytest.param(name, marks=[pytest.mark.deep] if name in SLOW else [])


@pytest.mark.parametrize("name", [marked(name) for name in COMMANDS])
def test_command_works_with_its_default_settings(
    name: str, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    needed = {"remove": f"pack {place}/photos {place}/set"}
    for line in filter(None, (needed.get(name), f"{name} {LINES[name]}")):
        words = line.replace("PLACE", str(place)).replace("RUN", str(run.folder)).split()
        said = call(*words)
        assert said.code == 0 or (words[0] == "curate" and "--resume" in said.err), said.err
        assert "Traceback" not in said.err
