"""What the experiments on the paper's claims are made with: a recipe with one more table, `[claims]`.

Reads: a TOML file, `recipes/claims.toml` of the package by default.
"""

from dataclasses import dataclass, field

from diptych.cli.recipe import Recipe


@dataclass(frozen=True, slots=True)
class ShotsPart:
    """Zero-shot beside a probe on few labeled images.

    Attributes:
        train: a source of labeled images to take shots and validation images from, in its order.
        test: a source of labeled images to name.
        shots: labeled images per class.
        validation: images per class that choose the probe's penalty; neither shots nor test.
    """

    train: str
    test: str
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    validation: int = 4


@dataclass(frozen=True, slots=True)
class ClaimsPart:
    """How large the experiments are.

    Attributes:
        samples: pairs that the models of figure 2 see.
        factor: their width, as a fraction of the preset's.
        watch: pairs seen after which models are examined.
        scaling: width and pairs of each scaling run, each with a schedule of its own, the largest last: its
            model is that of the other experiments.
        examined: test images per task at most.
        templates: the ensemble of the prompts experiment; the task's own where empty.
        shots: None leaves that experiment out.
    """

    samples: int
    factor: float
    scaling: tuple[tuple[float, int], ...]
    watch: tuple[int, ...] = ()
    examined: int = 1000
    templates: tuple[str, ...] = ()
    shots: ShotsPart | None = None


@dataclass(frozen=True, slots=True)
class ClaimsRecipe(Recipe):
    """A recipe whose zero-shot tasks are the eval_sets.

    All runs share `[train]` but for their length, and their warm-up, which is a tenth of it.
    """

    claims: ClaimsPart = field(kw_only=True)
