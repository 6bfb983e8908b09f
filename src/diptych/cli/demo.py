"""The demo: curate a noisy crawl of scenes, train on what is left, name things never seen together, search.

Writes: a run's folder (see `cli/run.py`) with the curation in `curated/` and, in `uncurated/`, a shorter
run on the crawl as it was. Everything it does can be done with the other commands; it prints them at the
end.
"""

import sys
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

from diptych.cli.output import print_metrics
from diptych.cli.recipe import Recipe, load_recipe
from diptych.cli.run import Outcome, run_recipe
from diptych.core.files.durable import write_text
from diptych.core.manifest import is_done
from diptych.core.records import Metric
from diptych.search.add import add
from diptych.search.index import Index
from diptych.search.query import Searcher
from diptych.train.metrics_log import evaluations

NEXT = """
Done in {minutes:.1f} minutes. Of images whose shape and color were never seen together, {top1:.1%} were
named right among 288 names. After {samples:,} pairs it was {curated:.1%} on curated and {crawled:.1%} on
raw pairs. What curation did: {card} The report with curves, mistakes and images: {report}

Try next
  diptych search {run}/images.index "a pink star" -k 5
  diptych index add photos.index YOUR_PHOTOS --model {run}
  diptych evaluate {run} "scenes:unseen?count=500&seed=9" --labels label --templates scenes
  diptych train recipes/fashion.toml          # real product photos
  diptych pack YOUR_FOLDER shards             # your own images with captions beside them
"""

INDEX = "images.index"
SENTENCES = 20_000  # scenes that the demo's corpus writes about

# Pairs of the run on the crawl as it was: a third of the schedule is enough to see a difference
UNCURATED_SAMPLES = 25_600

WITHOUT = (
    "The same model, schedule and number of pairs, trained on the crawl as it came and on what curation made "
    "of it. Both were asked after {samples} pairs, a third of the run."
)


def run_demo(folder: Path, *, seed: int = 0) -> int:
    """Run the demo in a folder, or go on with it, and return the exit code; a finished one only answers."""
    started = time.monotonic()
    curated = curate_crawl(folder)
    crawl = str(curated / "stages" / "candidates")  # the same pairs as they came, drawn already
    with resources.as_file(resources.files("diptych") / "recipes" / "demo.toml") as path:
        recipe = load_recipe(path, [f"train.seed={seed}"])
    batch = int(recipe.train["batch_size"])
    raw = _training(recipe, crawl, stop_after_samples=UNCURATED_SAMPLES)
    ours = _training(recipe, str(curated), evaluate_every_steps=UNCURATED_SAMPLES // batch)
    control = _go(raw, folder / "uncurated")
    if control.trained.stopped_by is not None:
        return control.trained.exit_code
    outcome = _go(ours, folder, control)
    if outcome.trained.stopped_by is not None:
        return outcome.trained.exit_code
    print_metrics(outcome.metrics)
    index = Index.create(folder / INDEX, outcome.model, str(folder.absolute()))
    add(index, outcome.model, [recipe.evaluate[-1].source])
    searcher = Searcher(outcome.model, index)
    for query in recipe.report.queries:
        hits = searcher.search(query, 3, by="images")
        shown = "; ".join(f"{hit.caption!r} ({hit.score:.2f})" for hit in hits)
        sys.stderr.write(f"{query!r} finds {shown}\n")
    sys.stderr.write(
        NEXT.format(
            minutes=(time.monotonic() - started) / 60,
            top1=_top1(outcome.metrics).value,
            curated=_top1(evaluations(folder / "metrics.jsonl", UNCURATED_SAMPLES // batch)).value,
            crawled=_top1(control.metrics).value,
            samples=UNCURATED_SAMPLES,
            card=curated / "datacard.html",
            run=folder,
            report=folder / "report.html",
        )
    )
    return 0


def curate_crawl(folder: Path) -> Path:
    """Write the demo's corpus and curate its crawl, once; return the folder of the curated set."""
    from diptych.curate.pipeline.recipe import load_curate_recipe
    from diptych.curate.pipeline.run import RECIPE_NAME, curate
    from diptych.data.synthetic.crawl import sentences
    from diptych.report.datacard import write_card

    corpus, curated = folder / "texts.txt", folder / "curated"
    if not corpus.exists():
        write_text(corpus, "\n".join(sentences(SENTENCES, seed=7)) + "\n")
    with resources.as_file(resources.files("diptych") / "recipes" / "curate" / "demo.toml") as path:
        recipe = load_curate_recipe(path, [f'queries.corpus=["{corpus}"]'])
    curate(recipe, curated, workers=2, resume=(curated / RECIPE_NAME).exists())
    write_card(curated)
    return curated


def _training(recipe: Recipe, source: str, **changes: int) -> Recipe:
    return replace(recipe, data=replace(recipe.data, source=source), train={**recipe.train, **changes})


def _go(recipe: Recipe, folder: Path, control: Outcome | None = None) -> Outcome:
    """Run a recipe, or go on with it; with a control, the report compares the two."""
    from diptych.report.data import PromptBar, PromptComparison, PromptTable, Report

    def add(report: Report) -> Report:
        if control is None:
            return report
        step = control.trained.steps
        bars = (
            PromptBar("the crawl as it came", _top1(control.metrics)),
            PromptBar("curated", _top1(evaluations(folder / "metrics.jsonl", step))),
        )
        words = WITHOUT.format(samples=f"{control.trained.samples_seen:,}")
        table = PromptTable(bars[0].metric.task, bars)
        return replace(report, comparisons=(PromptComparison("With and without curation", words, table),))

    held = (folder / "state").exists() or is_done(folder, "run")
    return run_recipe(recipe, folder, resume=held, command="diptych demo", add=add)


def _top1(metrics: tuple[Metric, ...]) -> Metric:
    return next(metric for metric in metrics if metric.metric == "top1")
