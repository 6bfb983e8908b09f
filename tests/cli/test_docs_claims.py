"""docs/claims.md is true: its code runs, its commands parse, its tables and figures are of its results."""

import functools
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Said

from diptych.cli import commands
from diptych.cli.claims_figures import figures_of, table_of
from diptych.core.settings import load_json

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "claims.md").read_text(encoding="utf-8")
RESULTS = sorted((DOCS / "claims").glob("*.json"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


@pytest.mark.parametrize("block", blocks("python"))
def test_the_code_of_the_page_runs(block: str) -> None:
    exec(compile(block, "claims.md", "exec"), {})


@pytest.mark.parametrize("line", "".join(blocks("sh")).splitlines())
def test_the_commands_of_the_page_are_understood(
    line: str, diptych: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def accepted(*words: Any, **options: Any) -> int:
            inspect.signature(function).bind(*words, **options)
            return 0

        return accepted

    taken = {name: parsed(function) for name, function in commands.COMMANDS.items()}
    monkeypatch.setattr(commands, "COMMANDS", taken)
    said = diptych(*shlex.split(line)[1:])
    assert said.code == 0, said.err


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_tables_and_figures_of_the_page_are_those_of_its_results(path: Path) -> None:
    result = load_json(path)
    assert table_of(path.stem, result) in PAGE
    for file, text in figures_of(path.stem, result).items():
        assert (DOCS / "pictures" / f"claims-{file}").read_text(encoding="utf-8") == text
        assert f"pictures/claims-{file}" in PAGE
