"""The demo: draw scenes, pack them, train, name things never seen together, answer texts with pictures.

Writes: a run's folder (see `cli/run.py`), and nothing else. Everything it does can be done with the other
commands; it prints them at the end.
"""

import sys
import time
from importlib import resources
from pathlib import Path

from diptych.cli.ask import ask, open_searcher
from diptych.cli.commands import show
from diptych.cli.recipe import load_recipe
from diptych.cli.run import run_recipe
from diptych.core.manifest import is_done

NEXT = """
Done in {minutes:.1f} minutes. Of pictures whose shape and colour were never seen together, {top1:.1%} were
named right among 288 names. The report with curves, mistakes and pictures: {report}

Try next
  diptych search {run} "scenes:test?count=2000" "a pink star" -k 5
  diptych evaluate {run} "scenes:unseen?count=500&seed=9" --task zeroshot --labels label
  diptych train recipes/fashion.toml          # real product photos
  diptych pack YOUR_FOLDER shards             # your own pictures with captions beside them
"""


def run_demo(folder: Path, *, seed: int = 0) -> int:
    """Run the demo in a folder; a demo that was stopped goes on, one that is done only answers.

    Args:
        folder: of the run.
        seed: of weights and order.

    Returns:
        The exit code.
    """
    started = time.monotonic()
    with resources.as_file(resources.files("diptych") / "recipes" / "demo.toml") as path:
        recipe = load_recipe(path, [f"train.seed={seed}"])
    held = (folder / "state").exists() or is_done(folder, "run")
    outcome = run_recipe(recipe, folder, resume=held, command="diptych demo")
    if outcome.trained.stopped_by is not None:
        return outcome.trained.exit_code
    show(outcome.metrics)
    searcher = open_searcher(outcome.model, recipe.evaluate[-1].source, home=folder)
    for query in recipe.report.queries:
        hits = ask(searcher, query, k=3)
        found = "; ".join(f"{hit['caption']!r} ({hit['score']:.2f})" for hit in hits)
        sys.stderr.write(f"{query!r} finds {found}\n")
    (top1,) = (metric.value for metric in outcome.metrics if metric.metric == "top1")
    minutes = (time.monotonic() - started) / 60
    sys.stderr.write(NEXT.format(minutes=minutes, top1=top1, run=folder, report=folder / "report.html"))
    return 0
