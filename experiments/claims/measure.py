"""The four experiments: what each of them measures.

Every experiment turns a workshop into plain values; tables and figures are made of these values alone, so
that results that were kept can be drawn again.
Source: Radford et al. 2021, figures 2, 6 and 9, and section 3.1.4.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diptych.core.errors import DataError, SettingsError
from diptych.data.sources.open import open_source
from diptych.embed.features import EmbeddedPairs, embed_pairs
from diptych.evaluate.classifier import build_classifier
from diptych.evaluate.metrics.classification import label_ranks
from diptych.evaluate.metrics.intervals import clopper_pearson, paired_gain
from diptych.evaluate.probe.linear_probe import LinearProbe, PenaltySearch, strength
from diptych.evaluate.prompts.templates import BARE, PHOTO, Templates
from diptych.evaluate.suite.zeroshot import classifiers
from experiments.claims.recipe import ShotsPart
from experiments.claims.run import OBJECTIVES, ExperimentContext
from experiments.claims.scaling import error_law, needed
from experiments.claims.training import EvalSet, embeds_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diptych.models.model import Model

Result = dict[str, Any]

PROBE_STEPS, PROBE_TOLERANCE = 100, 1e-3
"""Few images of many classes can be told apart perfectly: without a penalty to speak of, the last digits of
a loss near 0 take thousands of steps and change no answer."""


def measure_efficiency(context: ExperimentContext) -> Result:
    """Train one model per objective and compare the pairs they need."""
    part = context.recipe.claims
    runs = [context.run(objective, factor=part.factor, samples=part.samples) for objective in OBJECTIVES]
    eval_sets = {
        name: {run["objective"]: [_point(record, name) for record in run["curve"]] for run in runs}
        for name in runs[0]["curve"][0]["hits"]
    }
    ratios = {name: _ratios(curves) for name, curves in eval_sets.items()}
    return {"runs": [_facts(run) for run in runs], "eval_sets": eval_sets, "ratios": ratios}


def measure_prompts(context: ExperimentContext) -> Result:
    """Ask one model with bare names, single prompts and their ensemble."""
    model = context.best()
    eval_sets = {
        eval_set.name: _ask(model, eval_set, context.recipe.claims.templates)
        for eval_set in context.eval_sets(model)
    }
    return {"run": _facts(context.best_run()), "eval_sets": eval_sets}


def measure_scaling(context: ExperimentContext) -> Result:
    """Train models of several widths for several lengths, and fit their error to their compute."""
    runs = [context.run("contrastive", factor=f, samples=n) for f, n in context.recipe.claims.scaling]
    compute = [run["operations_per_pair"] * run["samples"] for run in runs]
    eval_sets: dict[str, Any] = {}
    for name in runs[0]["curve"][0]["hits"]:
        points = [_point(run["curve"][-1], name) for run in runs]
        law = error_law(compute, [point["hits"] for point in points], points[0]["count"], seed=context.seed)
        eval_sets[name] = {
            "points": points,
            "exponent": law.exponent,
            "factor": law.factor,
            "interval": law.interval,
            "r_squared": law.r_squared,
        }
    return {"runs": [_facts(run) for run in runs], "compute": compute, "eval_sets": eval_sets}


def measure_shots(context: ExperimentContext) -> Result:
    """Hold zero-shot against linear probes on few labeled images, on the same embeddings.

    Raises:
        SettingsError: the recipe has no `[claims.shots]`.
    """
    part, task = context.recipe.claims.shots, context.recipe.evaluate[0]
    if part is None:
        raise SettingsError("the recipe says nothing about shots", where="claims.shots", fix="add the table")
    model = context.best()
    train, test = (embed_pairs(model, open_source(ref)) for ref in (part.train, part.test))
    rows = rows_by_class(train, task.labels, part)
    names = tuple(sorted(rows))
    texts = [str(fields.get(task.labels)) for fields in test.fields]
    kept = [row for row, text in enumerate(texts) if text in rows]
    right = np.array([names.index(texts[row]) for row in kept])
    images = test.image_embeds[kept]
    prompts = Templates("ensemble", context.recipe.claims.templates or BARE.templates, context.names_of(task))
    zero = int((label_ranks(images, right, build_classifier(model, names, prompts)) < 1).sum())
    points = [
        {"shots": shots, **_probe(train.image_embeds, rows, (images, right), shots, part.validation)}
        for shots in part.shots
    ]
    found = needed(
        [point["shots"] for point in points], [point["value"] for point in points], zero / len(kept)
    )
    return {
        "run": _facts(context.best_run()),
        "classes": len(names),
        "zero_shot": _share(zero, len(kept)),
        "probes": points,
        "shots_to_match": found if np.isfinite(found) else None,
    }


EXPERIMENTS: dict[str, Callable[[ExperimentContext], Result]] = {
    "efficiency": measure_efficiency,
    "prompts": measure_prompts,
    "scaling": measure_scaling,
    "shots": measure_shots,
}


def rows_by_class(train: EmbeddedPairs, field: str, part: ShotsPart) -> dict[str, list[int]]:
    """Choose the rows of each class: first those of validation, then the shots, in the source's order.

    Args:
        train: labeled images.
        field: the column of the labels.
        part: how many are needed; classes with fewer readable images are left out.

    Returns:
        Label to rows, `validation` plus the largest number of shots each.

    Raises:
        DataError: fewer than two classes have enough.
    """
    wanted = part.validation + max(part.shots)
    rows: dict[str, list[int]] = {}
    for row, fields in enumerate(train.fields):
        held = rows.setdefault(str(fields.get(field) or ""), [])
        if len(held) < wanted and not np.isnan(train.image_embeds[row, 0]):
            held.append(row)
    full = {name: held for name, held in rows.items() if name and len(held) == wanted}
    if len(full) < 2:
        raise DataError(
            "too few labeled images for shots",
            where=part.train,
            found=f"{len(full)} classes with {wanted} images",
            expected="at least two",
        )
    return full


def _probe(
    embeds: "NDArray[np.float32]",
    rows: dict[str, list[int]],
    test: "tuple[NDArray[np.float32], NDArray[np.int64]]",
    shots: int,
    validation: int,
) -> dict[str, Any]:
    """Fit a probe on so many images a class; validation images choose the penalty and nothing else."""

    def taken(start: int, end: int) -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
        chosen = [(row, number) for number, name in enumerate(sorted(rows)) for row in rows[name][start:end]]
        return embeds[[row for row, _ in chosen]], np.array([number for _, number in chosen])

    train = taken(validation, validation + shots)
    fit = LinearProbe(max_iterations=PROBE_STEPS, tolerance=PROBE_TOLERANCE)
    search = PenaltySearch(*train, *taken(0, validation), fit)
    for step in search.steps():
        search.attempt(step)
    probe = LinearProbe(strength(search.best()), tolerance=PROBE_TOLERANCE).fit(*train)
    hits = int((probe.predict(test[0]) == test[1]).sum())
    return {"C": probe.C, **_share(hits, len(test[1]))}


def _ask(model: "Model", eval_set: EvalSet, templates: Sequence[str]) -> dict[str, Any]:
    names = {name: (prompt,) for name, prompt in zip(eval_set.class_names, eval_set.prompts, strict=True)}
    singles = [text for text in templates if text not in BARE.templates]
    whole = Templates(f"ensemble of {len(templates)}", tuple(templates), names)
    sets = [
        Templates(BARE.name, BARE.templates, names),
        Templates(PHOTO.name, PHOTO.templates, names),
        *(Templates(text, (text,), names) for text in singles if text not in PHOTO.templates),
        whole,
    ]
    with torch.inference_mode():
        embeds = embeds_of(model, eval_set).numpy()
    hits = {
        prompts.name: label_ranks(embeds, eval_set.labels, classifier) < 1
        for prompts, classifier in classifiers(model, eval_set.class_names, sets)
    }
    bare, photo, *_, last = hits
    gains = [(photo, bare), (last, photo), (last, bare)]
    return {
        "rows": [{"name": name, **_share(int(won.sum()), len(won))} for name, won in hits.items()],
        "gains": [
            {"of": after, "over": before, "value": value, "ci95": interval}
            for after, before in gains
            for value, interval in [paired_gain(hits[before], hits[after])]
        ],
    }


def _ratios(curves: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Compare models two by two at what the one that ends behind has reached by then."""
    found = []
    for pair in combinations(curves, 2):
        fast, slow = sorted(pair, key=lambda name: -curves[name][-1]["value"])
        level, best = curves[slow][-1], curves[fast][-1]
        x, y = ([point[key] for point in curves[fast]] for key in ("samples", "value"))
        ratio = level["samples"] / needed(x, y, level["value"]) if level["hits"] else None
        apart = best["ci95"][0] > level["ci95"][1]
        found.append({
            "fast": fast, "slow": slow, "level": level["value"], "ratio": ratio, "apart_at_end": apart,
        })  # fmt: skip
    return found


def _point(record: dict[str, Any], eval_set: str) -> dict[str, Any]:
    return {"samples": record["samples"], **_share(record["hits"][eval_set], record["count"][eval_set])}


def _share(hits: int, count: int) -> dict[str, Any]:
    return {"hits": hits, "count": count, "value": hits / count, "ci95": clopper_pearson(hits, count)}


def _facts(run: Result) -> Result:
    return {name: value for name, value in run.items() if name != "curve"} | {
        "seconds": run["curve"][-1]["seconds"]
    }
