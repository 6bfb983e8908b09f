"""`diptych curate`: build a data set, or estimate what a larger one takes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.arguments import Assignments
from diptych.core.errors import UsageError

NEXT = """
pairs  {pairs}
set    {out}
card   {out}/datacard.html

Try next
  diptych train RECIPE --set data.source={out}
  diptych curate --estimate {out}
"""


@dataclass(frozen=True, slots=True)
class EstimateOptions:
    """Options for an estimate.

    Attributes:
        estimate: a finished curation: from its rates, print how long larger ones take and what they cost,
            and do nothing else.
        cores: of one machine.
        dollars: for one machine and hour.
        megabits: that one machine can download a second.
    """

    estimate: Path | None = None
    cores: int = 16
    dollars: float = 0.68
    megabits: float = 2000.0


def curate(
    words: Annotated[Positional[tuple[str, ...]], arg(metavar="[STAGE] RECIPE")] = (),
    *,
    assignments: Assignments = (),
    out: Path | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
    resume: bool = False,
    estimate_options: EstimateOptions = EstimateOptions(),
) -> int:
    """Build a balanced data set: queries, candidates, filter, match, balance, fetch, dedup, shards, card.

    Args:
        words: a TOML file, such as recipes/wit.toml; before it the name of one stage to do only that.
        assignments: change one setting, for example --set balance.cap=100; may be repeated.
        out: folder for everything; data/NAME of the recipe by default.
        engine: local processes, or a Ray cluster that sees the folder under the same path.
        workers: local processes.
        resume: go on with a curation that was stopped.
        estimate_options: only with --estimate.
    """
    from diptych.cli.output import print_json
    from diptych.curate.pipeline.recipe import load_curate_recipe
    from diptych.curate.pipeline.run import STAGES
    from diptych.curate.pipeline.run import curate as run
    from diptych.report.datacard import write_card

    if estimate_options.estimate is not None:
        return print_json(_estimate(estimate_options.estimate, estimate_options))
    if not 1 <= len(words) <= 2:
        what = "a curation is a recipe, or the name of a stage and a recipe"
        actual, wanted = " ".join(words) or "neither", f"[{'|'.join(STAGES)}] RECIPE"
        raise UsageError(what, found=actual, expected=wanted)
    recipe = Path(words[-1])
    folder = out or Path("data") / recipe.stem
    only = words[0] if len(words) == 2 else ""
    settings = load_curate_recipe(recipe, assignments)
    done = run(settings, folder, only=only, engine=engine, workers=workers, resume=resume)
    if "card" in done:
        write_card(folder)
    if not only:
        sys.stderr.write(NEXT.format(pairs=f"{done['shards'].counts['out']:,}", out=folder))
    return print_json({name: {"seconds": m.seconds, **m.counts} for name, m in done.items()})


def _estimate(folder: Path, options: EstimateOptions) -> dict[str, Any]:
    from diptych.curate.pipeline.estimate import EstimateSettings, estimate

    estimated = estimate(folder, EstimateSettings(options.cores, options.dollars, options.megabits))
    sys.stderr.write(f"{'pairs':>16} {'machines':>9} {'hours':>12} {'dollars':>12}\n")
    for row in estimated["table"]:
        sys.stderr.write(
            f"{row['pairs']:>16,} {row['machines']:>9} {row['hours']:>12,.1f} {row['dollars']:>12,.0f}\n"
        )
    return estimated
