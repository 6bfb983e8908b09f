"""The benchmarks start anywhere: on data that they make, with what is installed, and say what is missing."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PARTS = {"contest", "inputs"}
SCRIPTS = sorted({path.stem for path in FOLDER.glob("*.py") if "_peer" not in path.stem} - PARTS)


@pytest.fixture
def contest() -> Any:
    return importlib.import_module("contest")


def test_every_script_knows_quick() -> None:
    assert [name for name in SCRIPTS if "options_of(" not in (FOLDER / f"{name}.py").read_text()] == []


def test_inputs_are_made_where_no_data_is_named() -> None:
    inputs = importlib.import_module("inputs")
    texts = inputs.captions(None, 40)
    assert texts == inputs.captions(None, 40) and len(set(texts)) == 40
    assert len(inputs.captions(None, 25_003)) == 25_003
    images, titles = inputs.products(None, 3)
    assert (len(images), len(titles)) == (3, 3)
    first, second = inputs.photos(None, 2)
    assert first != second and first == inputs.photos(None, 1)[0]
    assert 100_000 < len(first) < 250_000  # a COCO photo of this size has 160 kB
    assert inputs.merges(None, None) is None


def test_a_missing_peer_and_the_error_of_a_child_are_told(contest: Any) -> None:
    assert contest.missing(sys.executable, "json") == ""
    assert "make peers" in contest.missing(None, "json")
    assert contest.missing(sys.executable, "json", "no_such") == f"{sys.executable} has no ['no_such']"
    assert contest.missing("/no/python", "json") == "/no/python does not start: No such file or directory"
    with pytest.raises(SystemExit, match=r"code 1(.|\n)*ValueError: boom"):
        contest.run_child([sys.executable, "-c", "raise ValueError('boom')"])


def test_quick_exchanges_defaults_and_what_is_given_counts(
    contest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, expected in ((["--quick"], (1, 9)), (["--quick", "--rounds", "3"], (3, 9)), ([], (5, 70))):
        monkeypatch.setattr(sys, "argv", ["x.py", *words])
        parser = argparse.ArgumentParser()
        parser.add_argument("--rounds", type=int, default=5)
        parser.add_argument("--size", type=int, default=70)
        options = contest.options_of(parser, rounds=1, size=9)
        assert (options.rounds, options.size) == expected


@pytest.mark.deep
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs_quickly_without_data_and_peers(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["benchmark"] == name
