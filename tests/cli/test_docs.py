"""README and docs are true: their commands parse or run, their code runs, their tables are whole."""

import dataclasses
import functools
import inspect
import re
import shlex
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run, blocks, done

import diptych
from diptych.cli import commands
from diptych.cli.demo import NEXT
from diptych.cli.recipe import Recipe, load_recipe, load_recipe_as
from diptych.evaluate.prompts.templates import load as load_prompts
from diptych.evaluate.suite.plan import load_plan
from diptych.train.settings import TrainSettings
from experiments.claims.recipe import ClaimsRecipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command_lines() -> list[str]:
    """Return the lines of README's shell blocks that call diptych, and those that demo recommends."""
    numbers = defaultdict(float, run="runs/demo")
    suggested = (commands.NEXT + NEXT.format_map(numbers)).splitlines()
    lines = [*"\n".join(blocks(README, "sh")).splitlines(), *(line.strip() for line in suggested)]
    return sorted({line for line in lines if line.startswith("diptych ")})


@pytest.fixture
def demo(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder in which runs/demo is a tiny run."""
    demo = tmp_path / "runs" / "demo"
    demo.mkdir(parents=True)
    for path in run.folder.iterdir():
        (demo / path.name).symlink_to(path)
    (demo / "curated").symlink_to(run.folder / "data")
    monkeypatch.chdir(tmp_path)


def parsed(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def accepted(*words: Any, **options: Any) -> int:
        inspect.signature(function).bind(*words, **options)
        return 0

    return accepted


@pytest.mark.parametrize("line", command_lines())
def test_every_command_in_the_docs_is_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {name: parsed(function) for name, function in commands.COMMANDS.items()}
    monkeypatch.setattr(commands, "COMMANDS", taken)
    done(*shlex.split(line, comments=True)[1:])


def test_the_commands_after_the_demo_run(demo: None) -> None:
    for line in command_lines():
        if "runs/demo" in line and "scenes:" in line:
            done(*shlex.split(re.sub(r"count=\d+", "count=12", line), comments=True)[1:])


def test_the_python_of_the_readme_runs(demo: None, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(README, "python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape[0] == 50 and names["classifier"].shape[0] == 2
    assert set(re.findall(r"red heart|green star", capsys.readouterr().out)) <= set(names["names"])


def test_the_recipe_of_the_readme_is_one(tmp_path: Path) -> None:
    (text,) = blocks(README, "toml")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "mine.toml")
    assert recipe.data.source == str(tmp_path / "photos")
    settings = TrainSettings(**recipe.train)
    assert settings.total_steps(130) == 21  # the first photos that somebody tries it on: 20 x 130 / 128
    assert settings.batch_size <= 130


def recipes() -> list[Path]:
    """Return the recipes that ship; the prompts files beside them have no [train]."""
    folders = ("recipes", "src/diptych/recipes", "experiments/*")
    found = [path for folder in folders for path in ROOT.glob(f"{folder}/*.toml")]
    return sorted(path for path in found if "\n[train]" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", recipes(), ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid(path: Path) -> None:
    kind = ClaimsRecipe if "\n[claims]" in path.read_text(encoding="utf-8") else Recipe
    recipe = load_recipe_as(kind, path)
    TrainSettings(**recipe.train)
    assert all(Path(task.templates).is_file() for task in recipe.evaluate if task.templates)


def test_the_suite_that_ships_can_be_opened() -> None:
    plan = load_plan(str(ROOT / "recipes" / "fashion_suite.toml"))
    assert [spec.labels for spec in plan.specs] == ["article_type", "base_colour", "gender", "season"]
    assert all(len(load_prompts(spec.templates).templates) > 1 for spec in plan.specs)


def test_the_page_of_recipes_names_every_key_and_no_other() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    tables = dict(re.findall(r"^## `\[+(\w+)\]+`.*?\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S))
    parts = {part.name: part for part in dataclasses.fields(Recipe)}
    assert set(tables) == set(parts)
    recipe = load_recipe(ROOT / "src" / "diptych" / "recipes" / "demo.toml")
    for name, table in tables.items():
        written = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", table, flags=re.M)))
        held = getattr(recipe, name)
        kind = TrainSettings if name == "train" else type(held[0] if isinstance(held, tuple) else held)
        assert sorted(written) == sorted(field.name for field in dataclasses.fields(kind)), name


def test_the_page_of_commands_names_every_option() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for name, function in commands.COMMANDS.items():
        section = re.search(rf"^## diptych {name}\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S)
        assert section is not None, name
        renamed = {"assignments": "set"}
        for option in option_names(function):
            assert f"--{renamed.get(option, option).replace('_', '-')}" in section[1], option


def option_names(function: Callable[..., int]) -> list[str]:
    """Return the names of a command's options; a group of options is a dataclass."""
    found: list[str] = []
    for option in inspect.signature(function).parameters.values():
        if option.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        grouped = dataclasses.is_dataclass(option.annotation)
        found += [field.name for field in dataclasses.fields(option.annotation)] if grouped else [option.name]
    return found


def test_the_docs_hold_no_dead_links() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_site_has_every_page_and_every_public_name() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"(\w+\.md)$", site, flags=re.M)) == pages
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert re.findall(r"^::: .*\.(\w+)$", api, flags=re.M) == sorted(diptych.__all__)


def test_the_tour_is_short_and_every_block_runs() -> None:
    """It rebuilds CLIP in plain torch; its assertions compare with the package."""
    codes = blocks((ROOT / "docs" / "tour.md").read_text(encoding="utf-8"), "python")
    assert sum(len(code.splitlines()) for code in codes) <= 250
    names: dict[str, object] = {}
    for number, code in enumerate(codes):
        exec(compile(code, f"tour.md, block {number}", "exec"), names)
