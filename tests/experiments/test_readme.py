"""The README of the claims is true: its code runs, its tables and figures are those of its results."""

import re
from pathlib import Path

import pytest

from diptych.core.files.reading import read_json
from experiments.claims.figures import README, figures_of, table_of

PAGE = README.read_text(encoding="utf-8")
RESULTS = sorted((README.parent / "results").glob("*.json"))


def test_there_are_results_of_every_experiment() -> None:
    assert [path.stem for path in RESULTS] == ["efficiency", "prompts", "scaling", "shots"]


@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S))
def test_the_code_of_the_page_runs(block: str) -> None:
    exec(compile(block, README.name, "exec"), {})


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_tables_and_figures_of_the_page_are_those_of_its_results(path: Path) -> None:
    result = read_json(path)
    assert table_of(path.stem, result) in PAGE
    for file, text in figures_of(path.stem, result).items():
        assert (path.parent / file).read_text(encoding="utf-8") == text
        assert f"results/{file}" in PAGE
