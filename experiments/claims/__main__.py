"""Repeat the paper's claims: `python -m experiments.claims OUT [--recipe FILE] [--only NAME] [--seed N]`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from diptych.cli.recipe import load_recipe_as
from diptych.core.machine import keep_freed_memory
from experiments.claims.recipe import ClaimsRecipe
from experiments.claims.run import run_claims

RECIPE = Path(__file__).with_name("claims.toml")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiments that the words name, and print their results as JSON."""
    parser = argparse.ArgumentParser(description="The paper's claims as experiments.")
    parser.add_argument("out", type=Path, help="folder of results; what is there is not trained again")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="a TOML file with a [claims] table")
    parser.add_argument("--only", action="append", default=[], help="an experiment; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    recipe = load_recipe_as(ClaimsRecipe, options.recipe)
    results = run_claims(recipe, options.out, only=options.only, seed=options.seed)
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
