"""The command, called in this process, and one tiny run that all tests of a session ask."""

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from diptych.cli.main import main

RECIPE = """
[data]
source = "scenes:train?count=200&seed=1"
workers = 0
[tokenizer]
size = 600
context_length = 32
[model]
preset = "vit-mini-16-64"
[loader]
workers = 0
[train]
steps = 6
batch_size = 16
warmup_steps = 2
save_every_steps = 3
log_every = 2
precision = "float32"
[[evaluate]]
name = "unseen"
source = "scenes:unseen?count=12&seed=2"
task = "zeroshot"
labels = "label"
[[evaluate]]
name = "retrieval"
source = "scenes:test?count=12&seed=3"
task = "retrieval"
[report]
queries = ["a red heart"]
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Run:
    folder: Path
    recipe: Path
    said: Said


def call(*words: object) -> Said:
    """Run the command and catch what it says."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Said(code, out.getvalue(), err.getvalue())


def done(*words: object) -> Said:
    """Run a command that has to succeed."""
    said = call(*words)
    assert said.code == 0, said.err
    return said


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of six steps on 200 scenes."""
    place = tmp_path_factory.mktemp("cli")
    recipe = place / "tiny.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    said = call("train", recipe, "--out", place / "run")
    assert said.code == 0, said.err
    return Run(place / "run", recipe, said)


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a Markdown page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.M | re.S)
