"""The page about curation and the recipes that ship: valid, complete, and run where they can be."""

import json
import re
from pathlib import Path

import pytest

from diptych.cli.main import main
from diptych.curate.pipeline.recipe import load_curate_recipe
from diptych.curate.pipeline.run import STAGES
from diptych.data.shards.reader import ShardSet

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "curate.md").read_text(encoding="utf-8")
RECIPES = sorted([*ROOT.glob("recipes/curate/*.toml"), *ROOT.glob("src/diptych/recipes/curate/*.toml")])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid(path: Path) -> None:
    recipe = load_curate_recipe(path)
    assert recipe.candidates.sources
    assert recipe.card.title


def test_the_page_has_a_row_for_every_stage() -> None:
    section = PAGE.partition("## The stages")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ", section, flags=re.M)
    assert [row for row in rows if row in STAGES] == list(STAGES)


def test_paths_of_a_recipe_belong_to_its_folder_and_those_of_set_do_not(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[candidates]\nsources = ["a.wat.gz", "scenes:crawl"]\n')
    recipe = load_curate_recipe(tmp_path / "mine.toml", ["queries.list=own.txt"])
    assert recipe.candidates.sources == (str(tmp_path / "a.wat.gz"), "scenes:crawl")
    assert recipe.queries.list == "own.txt"


def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Curate, go on, one stage, estimate, remove: on a few drawn scenes."""
    (tmp_path / "own.txt").write_text("red\nblue\nstar\nheart\nyellow\nwhite\ncloud\ngreen\n")
    parts = ('[queries]\nlist = "own.txt"', '[candidates]\nsources = ["scenes:crawl?count=60"]')
    (tmp_path / "mine.toml").write_text("\n".join((*parts, "[dedup]\nnear = false\n")))
    out = tmp_path / "out"
    words = ["curate", str(tmp_path / "mine.toml"), "--out", str(out), "--workers", "1"]
    assert main(words) == 0
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert main(["curate", "match", *words[1:]]) == 0
    capsys.readouterr()
    assert main(["curate", "--estimate", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["machines"] for row in told["table"]] == [1, 16, 128] * 4
    shards = ShardSet.open(out)
    key, count = shards.key(0), len(shards)
    assert main(["remove", str(out), key]) == 2
    assert main(["remove", str(out), key, "--drop-others", "--reason", "asked"]) == 0
    assert len(ShardSet.open(out)) == count - 1
    assert not (out / "stages").exists()


def test_a_stage_of_another_name_is_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text('[candidates]\nsources = ["scenes:crawl?count=6"]\n')
    assert main(["curate", "macth", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")]) == 2
    assert "match" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
