"""The commands that build data sets."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from diptych.core.errors import UsageError

NEXT = """
pairs  {pairs}
set    {out}
card   {out}/datacard.html

Try next
  diptych train RECIPE --set data.source={out}
  diptych plan curate {out}
"""


def curate(
    words: Annotated[Positional[tuple[str, ...]], arg(metavar="[STAGE] RECIPE")],
    *,
    assignments: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="K=V")] = (),
    out: Path | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
    resume: bool = False,
) -> int:
    """Build a balanced data set: queries, candidates, filter, match, balance, fetch, dedup, shards, card.

    Args:
        words: a TOML file, such as recipes/wit.toml; before it the name of one stage to do only that.
        assignments: change one setting, for example --set balance.cap=100; may be repeated.
        out: folder for everything; data/NAME of the recipe by default.
        engine: local processes, or a Ray cluster that sees the folder under the same path.
        workers: local processes.
        resume: go on with a curation that was stopped.
    """
    from diptych.cli.answers import answer
    from diptych.curate.pipeline.recipe import load_curate_recipe
    from diptych.curate.pipeline.run import STAGES
    from diptych.curate.pipeline.run import curate as run
    from diptych.report.datacard import write_card

    if not 1 <= len(words) <= 2:
        raise UsageError(
            "a curation is a recipe, or the name of a stage and a recipe",
            found=" ".join(words),
            expected=f"[{'|'.join(STAGES)}] RECIPE",
        )
    recipe = Path(words[-1])
    folder = out or Path("data") / recipe.stem
    only = words[0] if len(words) == 2 else ""
    done = run(
        load_curate_recipe(recipe, assignments),
        folder,
        only=only,
        engine=engine,
        workers=workers,
        resume=resume,
    )
    if "card" in done:
        write_card(folder)
    if not only:
        sys.stderr.write(NEXT.format(pairs=f"{done['shards'].counts['out']:,}", out=folder))
    return answer({name: {"seconds": m.seconds, **m.counts} for name, m in done.items()})


def plan(
    what: Annotated[Positional[Literal["curate"]], arg(metavar="curate")],
    folder: Annotated[Positional[Path], arg(metavar="OUT")],
    *,
    cores: int = 16,
    dollars: float = 0.68,
    megabits: float = 2000.0,
) -> int:
    """Say how long a larger curation takes and what it costs, from the rates of one that was done.

    Args:
        what: curate.
        folder: a finished curation.
        cores: of one machine.
        dollars: for one machine and hour.
        megabits: that one machine can download a second.
    """
    from diptych.cli.answers import answer
    from diptych.curate.pipeline.estimate import PlanSettings
    from diptych.curate.pipeline.estimate import plan as plan_curation

    del what  # the one thing that can be planned yet; named so that a second one changes no command
    found = plan_curation(folder, PlanSettings(cores, dollars, megabits))
    sys.stderr.write(f"{'pairs':>16} {'machines':>9} {'hours':>12} {'dollars':>12}\n")
    for row in found["table"]:
        sys.stderr.write(
            f"{row['pairs']:>16,} {row['machines']:>9} {row['hours']:>12,.1f} {row['dollars']:>12,.0f}\n"
        )
    return answer(found)
