"""The paper's claims as experiments: one folder of results and figures from one recipe.

- `efficiency`: contrastive learning beside guessing words and guessing the text (figure 2).
- `prompts`: what a prompt gains over a bare name, and an ensemble over a prompt (section 3.1.4).
- `scaling`: zero-shot error against compute (figure 9).
- `shots`: zero-shot beside a linear probe on few labeled images (figure 6).

Writes, in the folder: `data/` and `tokenizer/` (once), `runs/` (one file per trained model: what is there
is not trained again). The experiments are in `claims_results.py`, their figures in `claims_figures.py`.
Source: Radford et al. 2021.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.cli.recipe import TaskPart
from diptych.cli.run import build_model, pack_once, vocabulary_once
from diptych.core.errors import unknown_name
from diptych.core.files.durable import make_folder, write_json
from diptych.core.files.reading import read_json
from diptych.core.machine import processor
from diptych.core.settings import from_mapping
from diptych.data.loader import Loader, LoaderSettings
from diptych.data.sources.open import open_source
from diptych.evaluate.prompts.templates import BARE, load
from diptych.models import checkpoint
from diptych.train.settings import TrainSettings
from diptych.train.state import machine_facts
from experiments.claims.recipe import ClaimsRecipe
from experiments.claims.training import (
    EvalSet,
    Objective,
    learn,
    narrowed,
    new_model,
    operations_per_pair,
    read_eval_set,
)

if TYPE_CHECKING:
    from diptych.data.shards.reader import ShardSet
    from diptych.models.model import Model

OBJECTIVES: tuple[Objective, ...] = ("contrastive", "bag of words", "caption")
WARMUP_SHARE = 10
"""A tenth of a run is warm-up: runs of every length get the same share."""


class ExperimentContext:
    """What all experiments of one folder share, made when it is first needed.

    Args:
        recipe: of the experiments.
        folder: for everything they write.
        seed: of weights and order.
    """

    def __init__(self, recipe: ClaimsRecipe, folder: Path, *, seed: int = 0) -> None:
        self.recipe, self.folder, self.seed = recipe, make_folder(folder), seed
        self._eval_sets: tuple[EvalSet, ...] = ()
        self._shards: ShardSet | None = None

    @property
    def shards(self) -> "ShardSet":
        """The packed pairs to learn from."""
        self._shards = self._shards or pack_once(self.recipe, self.folder)
        return self._shards

    def blank(self) -> "Model":
        """Return an untrained model as the recipe says."""
        tokenizer = vocabulary_once(self.recipe, self.shards, self.folder)
        return build_model(self.recipe, tokenizer, seed=self.seed)

    def eval_sets(self, model: "Model") -> tuple[EvalSet, ...]:
        """Return the test images of every zero-shot task of the recipe."""
        self._eval_sets = self._eval_sets or tuple(
            read_eval_set(
                task.name,
                open_source(task.source),
                task.labels,
                load(task.templates) if task.templates else BARE,
                model.preprocess,
                most=self.recipe.claims.examined,
            )
            for task in self.recipe.evaluate
        )
        return self._eval_sets

    def run(self, objective: Objective, *, factor: float, samples: int) -> dict[str, Any]:
        """Train one model, or recall what it did.

        Args:
            objective: what it learns by.
            factor: its width, as a fraction of the preset's.
            samples: pairs it sees.

        Returns:
            The run's facts and, under `curve`, what `learn` returns.
        """
        part = self.recipe.claims
        name = self._name(objective, factor, samples)
        path = self.folder / "runs" / f"{name}.json"
        if path.exists():
            return read_json(path)
        blank = self.blank()
        config = narrowed(blank.config, factor) if factor != 1.0 else blank.config
        model = new_model(objective, config, blank.tokenizer, blank.preprocess, seed=self.seed)
        settings = self._settings(samples)
        facts = {
            "objective": objective, "factor": factor, "samples": samples, "seed": self.seed,
            "batch_size": settings.batch_size, "learning_rate": settings.learning_rate,
            "parameters": sum(tensor.numel() for tensor in model.clip.parameters()),
            "operations_per_pair": self._operations(model, settings) if objective == "contrastive" else None,
            "machine": {"processor": processor(), **machine_facts(settings.resolved_device())},
        }  # fmt: skip
        curve = learn(
            model, objective, self.shards, settings, eval_sets=self.eval_sets(model), watch=part.watch
        )
        if objective == "contrastive":
            checkpoint.save(self.folder / "runs" / name, model, replace=True)
        write_json(path, {**facts, "curve": curve})
        return read_json(path)

    def best(self) -> "Model":
        """Return the trained model of the last scaling run, which is the largest."""
        self.best_run()
        factor, samples = self.recipe.claims.scaling[-1]
        return checkpoint.load(self.folder / "runs" / self._name("contrastive", factor, samples))

    def best_run(self) -> dict[str, Any]:
        """Return the facts of the run that `best` comes from."""
        factor, samples = self.recipe.claims.scaling[-1]
        return self.run("contrastive", factor=factor, samples=samples)

    def names_of(self, task: TaskPart) -> Mapping[str, tuple[str, ...]]:
        """Return the cleaned names of a task's classes."""
        return load(task.templates).names if task.templates else {}

    def _name(self, objective: Objective, factor: float, samples: int) -> str:
        return f"{objective.replace(' ', '-')}-{factor:g}-{samples}-{self.seed}"

    def _settings(self, samples: int) -> TrainSettings:
        whole = from_mapping(TrainSettings, self.recipe.train, where="train")
        warmup = max(1, samples // whole.batch_size // WARMUP_SHARE)
        # On the CPU, wherever it runs: curves of several machines are to be one.
        return dataclasses.replace(
            whole, device="cpu", samples=samples, steps=None, epochs=None, warmup_steps=warmup, seed=self.seed
        )

    def _operations(self, model: "Model", settings: TrainSettings) -> float:
        loading = LoaderSettings(settings.batch_size, workers=0, seed=self.seed)
        return operations_per_pair(
            model, next(Loader(self.shards, model.tokenizer, model.preprocess, loading).batches())
        )


def run_claims(
    recipe: ClaimsRecipe, folder: Path, *, only: Sequence[str] = (), seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Carry out experiments and write their results, tables and figures.

    Args:
        recipe: of the experiments.
        folder: for everything; what was trained there already is not trained again.
        only: names of experiments; all that the recipe says something about if empty.
        seed: of weights and order.

    Returns:
        What each experiment measured.

    Raises:
        UnknownNameError: no experiment is called that.
    """
    from experiments.claims.figures import write_results
    from experiments.claims.measure import EXPERIMENTS

    for name in only:
        if name not in EXPERIMENTS:
            raise unknown_name("experiment", name, EXPERIMENTS)
    wanted = only or [name for name in EXPERIMENTS if name != "shots" or recipe.claims.shots is not None]
    context = ExperimentContext(recipe, folder, seed=seed)
    results: dict[str, dict[str, Any]] = {}
    for name in wanted:
        results[name] = EXPERIMENTS[name](context)
        write_results(folder, results)  # what is measured stays if the next one is stopped
    return results
