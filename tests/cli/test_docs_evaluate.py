"""docs/evaluate.md is true: its commands, suite and Python run on a few scenes; its tables are whole."""

import csv
import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.cli.conftest import Run, blocks, call, done
from tests.evaluate import miniatures

from diptych.core.records import Counts
from diptych.data.sources.open import open_source
from diptych.evaluate.suite.plan import ProtocolName, TaskSpec
from diptych.evaluate.tasks.registry import registry

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")


def table(first: str) -> list[str]:
    (rows,) = re.findall(rf"^\| {first} \|.*?\n\|---.*?\n(.*?)(?:\n\n|\Z)", PAGE, flags=re.M | re.S)
    return [name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]


@pytest.fixture(scope="module")
def place(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the page imagines it: two runs, scenes as a table, two digits."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "runs").mkdir()
    for name in ("mine", "other"):
        (folder / "runs" / name).symlink_to(run.folder)
    for name, seed in (("photos", 1), ("more", 2)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "caption", "colour", "shop"])
            for pair in open_source(f"scenes:test?count=24&seed={seed}").pairs(Counts()):
                (folder / f"{name}-{pair.key}.png").write_bytes(pair.image)
                colour = ("red", "green", "blue")[len(pair.captions[0]) % 3]
                rows.writerow([f"{name}-{pair.key}.png", pair.captions[0], colour, len(pair.key) % 2])
    for name, colour in (("cat", miniatures.A), ("dog", miniatures.B)):
        miniatures.put(folder / "animals" / name / "1.jpg", colour)
    miniatures.write("mnist", folder / "data" / "mnist")
    (suite,) = blocks(PAGE, "toml")
    (folder / "suite.toml").write_text(suite)
    return folder


def test_the_commands_run_and_write_what_the_page_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
    assert len(lines) == 9
    for line in lines:
        line = line.replace("ViT-B-32/openai", "runs/mine").replace("/data/clip", "data")
        line = line.replace("--suite paper27", "--suite mnist --out probed")
        done(*shlex.split(line, comments=True)[1:])
    written = {path.name for path in (place / "results").iterdir()}
    told = set(re.findall(r"^[├└]── ([\w.]+)", "\n".join(blocks(PAGE, "text")), flags=re.M))
    assert told <= written and "comparison.json" in written
    (entry, *_) = json.loads((place / "results" / "comparison.json").read_text())
    assert entry["gain"] == 0 and entry["p_value"] == 1
    (seen, *_) = json.loads((place / "seen" / "overlap.json").read_text())
    assert seen["n_overlap"] == seen["n"] == 24 and seen["clean_accuracy"] is None
    theirs = json.loads((place / "runs/evaluate/mnist/clip_benchmark/mnist_zeroshot.json").read_text())
    assert theirs["task"] == "zeroshot_classification" and theirs["dataset"] == "mnist"
    probed = json.loads((place / "probed" / "mnist.json").read_text())
    assert probed["not_run"] == {"probe": "no training images were found"}


def test_the_python_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (code,) = blocks(PAGE, "python")
    names: dict[str, Any] = {}
    exec(compile("import diptych\n" + code, "evaluate.md", "exec"), names)
    assert "'zeroshot'" in capsys.readouterr().out and len(names["outcome"].results) == 2


def test_the_tables_are_whole() -> None:
    assert sorted(table("entry")) == sorted(field.name for field in dataclasses.fields(TaskSpec))
    assert table("protocol") == list(get_args(ProtocolName))
    assert all(f"`{name}`" in PAGE for name in registry().suites)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("runs/mine",), "no source or suite is given"),
        (("runs/mine", "photos.csv", "--suite", "mnist"), "both a source and a suite are given"),
        (("runs/mine", "photos.csv", "--resume"), "belongs to --suite"),
        (("runs/mine", "--suite", "mnist", "--labels", "colour"), "belongs to a source"),
        (("runs/mine", "--suite", "mnits"), "did you mean 'mnist'"),
        (("runs/mine", "--suite", "mnist", "--protocols", "zero"), "unknown protocol 'zero'"),
        (("runs/mine", "--suite", "stl10"), "get the first one from https://"),
    ],
)
def test_mistakes_are_told(
    words: tuple[str, ...],
    told: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    said = call("evaluate", *words)
    assert said.code == 2 and told in said.err, said.err
