"""Do the experiments of `docs/prompts.md` and `docs/scores.md` again, and write their tables and figures.

    python -m experiments.scores MODEL DATA

MODEL is a run of recipes/fashion.toml; DATA the folder that holds `fashion/`. Takes minutes on two cores.

Writes: what stands between the marks in both pages, and in `images/` `prompts_sizes.svg`,
`scores_match.svg`, `scores_softmax.svg` and `scores_reject.svg`.
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.cli.prompts import run_lab
from diptych.core import checks
from diptych.core.files.durable import write_text
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.data.sources.open import Columns, open_source
from diptych.embed.features import EmbeddedPairs, embed_pairs
from diptych.evaluate.classifier import build_classifier
from diptych.evaluate.metrics.calibration import calibrate
from diptych.evaluate.metrics.classification import Reliability, reliability
from diptych.evaluate.prompts.ablation import Ablation
from diptych.evaluate.prompts.templates import load as load_prompts
from diptych.models.encode import encode_texts
from diptych.models.load import load
from diptych.models.model import Model
from experiments.figures import Line, draw

DOCS = Path(__file__).resolve().parents[1] / "docs"
TYPES = DOCS.parent / "recipes" / "fashion_types.toml"
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
LEVELS = np.arange(1, 51) / 100
SEARCH_STEPS = 50
"""Of the golden-section search for a temperature."""
SPLITS = 20
"""Random halves that the reject option is measured on: one half's background is a few hundred photos."""

BANKS = {"photos of the other types": "unknown", "all photos": "all"}


def main() -> None:
    """Run all of it."""
    model, data = load(sys.argv[1]), Path(sys.argv[2])
    source = str(data / "fashion" / "test.parquet")
    lab = run_lab(model, [source], labels="article_type", templates=str(TYPES), columns=Columns())
    fill("prompts.md", "lab", _lab_table(lab))
    write_text(DOCS / "images" / "prompts_sizes.svg", _sizes(lab))
    pairs = embed_pairs(model, open_source(source))
    halves = np.array_split(numpy_rng(0, "halves").permutation(len(pairs.keys)), 2)
    texts = encode_texts(model, [captions[0] for captions in pairs.captions])
    fill("scores.md", "match", _matches(pairs, texts, halves))
    fill("scores.md", "softmax", _softmax(model, pairs, halves))
    fill("scores.md", "reject", _reject(model, pairs, texts))


def fill(page: str, mark: str, text: str) -> None:
    """Put text between the marks of a page."""
    path = DOCS / page
    pattern = rf"(<!-- {mark} -->\n).*?(<!-- end -->)"
    changed, count = re.subn(
        pattern, lambda found: found[1] + text + found[2], path.read_text("utf-8"), flags=re.S
    )
    assert count == 1, f"{page} has no place for {mark}"
    write_text(path, changed)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _share(metric: Metric | None, *, signed: bool = False) -> str:
    if metric is None:
        return ""
    low, high = metric.ci95 or (np.nan, np.nan)
    form = "+.1f" if signed else ".1f"
    return f"{100 * metric.value:{form}} ({100 * low:{form}} to {100 * high:{form}})"


def _lab_table(lab: Ablation) -> str:
    rows = [
        [
            row.name,
            _share(row.accuracy),
            _share(row.over_bare, signed=True),
            _share(row.over_all, signed=True),
        ]
        for row in lab.sets
    ]
    told = f"Chosen on {lab.validation:,} images, scored on {lab.test:,} others.\n\n"
    first, last = lab.templates[0], lab.templates[-1]
    ends = (
        f"\nOne template alone: from {_share(last.accuracy)} with `{last.name}` "
        f"to {_share(first.accuracy)} with `{first.name}`.\n"
    )
    return told + table(["prompts", "top-1, %", "over bare names", "over all templates"], rows) + ends


def _sizes(lab: Ablation) -> str:
    x = [float(size.templates) for size in lab.sizes]
    bare = 100 * lab.sets[0].accuracy.value
    ensembles = Line(
        "random ensembles, middle 95 %", x, [100 * size.mean for size in lab.sizes],
        ([100 * size.spread[0] for size in lab.sizes], [100 * size.spread[1] for size in lab.sizes]),
    )  # fmt: skip
    lines = [ensembles, Line("bare names", [x[0], x[-1]], [bare, bare], dashed=True)]
    return draw(lines, x_name="templates", y_name="article type right, %")


def _diagram(found: Reliability, name: str) -> str:
    kept = np.flatnonzero(found.counts)
    sizes = np.sqrt(found.counts[kept] / found.counts.max())
    dots = Line(name, found.confidences[kept].tolist(), found.accuracies[kept].tolist(), sizes=sizes.tolist())
    kept_word = Line("as sure as right", [0.0, 1.0], [0.0, 1.0], dashed=True)
    return draw([dots, kept_word], x_name="how sure", y_name="how often right", zero=True)


def _matches(pairs: EmbeddedPairs, texts: np.ndarray, halves: Sequence[np.ndarray]) -> str:
    """Calibrate on one half's pairs; on the other, hold each photo against its title and another photo's."""
    first, second = halves
    held = calibrate(pairs.image_embeds[first], texts[first])
    other = second[(np.arange(len(second)) + 1) % len(second)]
    different = (texts[second] != texts[other]).any(axis=1)
    rows = np.concatenate([second, second[different]])
    shown = np.concatenate([second, other[different]])
    right = np.concatenate([np.ones(len(second), bool), np.zeros(int(different.sum()), bool)])
    sure = np.array(
        [
            held.probabilities(pairs.image_embeds[[row]], texts[[text]])[0, 0]
            for row, text in zip(rows, shown, strict=True)
        ]
    )
    found = reliability(sure, right)
    write_text(DOCS / "images" / "scores_match.svg", _diagram(found, "pairs of photo and title"))
    facts = [
        ["pairs calibrated on", f"{len(first):,}"],
        ["photos with their own title, and with another's", f"{len(second):,} + {int(different.sum()):,}"],
        ["expected calibration error of the match probability", f"{found.error:.4f}"],
        ["right at a probability above one half", f"{((sure > 0.5) == right).mean():.1%}"],
    ]
    return table(["", ""], facts)


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the temperature that minimizes the negative log-likelihood of labeled examples.

    Args:
        logits: (N, C), such as scale x cosine.
        labels: (N,) true classes.

    Returns:
        What to divide logits by, found by golden-section search (Guo et al. 2017).

    Raises:
        ArrayError: there are none, some are NaN, or a label is no class.
    """
    logits = checks.rows(logits, "logits", least=1).astype(np.float64)
    labels = checks.classes(labels, "labels", logits.shape[1], length=len(logits))
    low, high = np.log(1e-3), np.log(1e3)
    ratio = (np.sqrt(5) - 1) / 2

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        picked = scaled[np.arange(len(labels)), labels]
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - picked))

    for _ in range(SEARCH_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def _softmax(model: Model, pairs: EmbeddedPairs, halves: Sequence[np.ndarray]) -> str:
    """Say how sure the softmax over article types is, before and after a temperature."""
    prompts = load_prompts(TYPES)
    told = [str(fields["article_type"]) for fields in pairs.fields]
    names = sorted({*told, *prompts.names})
    labels = np.array([names.index(name) for name in told])
    logits = model.scale * (pairs.image_embeds @ build_classifier(model, names, prompts).T).astype(np.float64)
    first, second = halves
    temperature = fit_temperature(logits[first], labels[first])
    rows = []
    for name, heat in (
        ("as it is", 1.0),
        (f"temperature {temperature:.2f}, from the other half", temperature),
    ):
        powers = np.exp((logits[second] - logits[second].max(axis=1, keepdims=True)) / heat)
        shares = powers / powers.sum(axis=1, keepdims=True)
        found = reliability(shares.max(axis=1), shares.argmax(axis=1) == labels[second])
        rows.append([name, f"{shares.max(axis=1).mean():.1%}", f"{found.error:.4f}"])
    write_text(DOCS / "images" / "scores_softmax.svg", _diagram(found, "article types, with the temperature"))
    return table([f"softmax over {len(names)} article types", "mean confidence", "calibration error"], rows)


def _reject(model: Model, pairs: EmbeddedPairs, texts: np.ndarray) -> str:
    """Name every second article type; photos of the others are unknown objects. Over many random halves."""
    prompts = load_prompts(TYPES)
    told = np.array([str(fields["article_type"]) for fields in pairs.fields])
    ranked = [name for name, _ in Counter(told.tolist()).most_common()]
    names = ranked[::2]
    known = np.isin(told, names)
    classifier = build_classifier(model, names, prompts)
    right = np.array(names)[(pairs.image_embeds @ classifier.T).argmax(axis=1)] == told
    rows, lines = [], []
    for bank_name, kept in BANKS.items():
        found = np.empty((SPLITS, 3, len(LEVELS)))
        for split in range(SPLITS):
            first, second = np.array_split(numpy_rng(split, "halves").permutation(len(told)), 2)
            bank = first if kept == "all" else first[~known[first]]
            held = calibrate(pairs.image_embeds[bank], texts[bank], seed=split)
            passed = held.p_values(pairs.image_embeds[second], classifier)[:, None] <= LEVELS
            unknown, familiar = passed[~known[second]], passed[known[second]]
            served = (familiar & right[second][known[second], None]).sum(axis=0)
            accepted = familiar.sum(axis=0)
            found[split] = unknown.mean(axis=0), familiar.mean(axis=0), served / np.maximum(1, accepted)
        mean, (low, high) = found.mean(axis=0), np.quantile(found[:, 0], [0.025, 0.975], axis=0)
        band = (low.tolist(), high.tolist())
        lines.append(Line(f"background: {bank_name}", LEVELS.tolist(), mean[0].tolist(), band))
        for rate in RATES:
            at = int(np.argmin(np.abs(LEVELS - rate)))
            spread = f"{100 * mean[0, at]:.1f} ({100 * low[at]:.1f} to {100 * high[at]:.1f})"
            rows.append([bank_name, f"{rate:.0%}", spread, *(f"{100 * mean[row, at]:.1f}" for row in (1, 2))])
    lines.append(Line("as stated", [0.0, LEVELS[-1]], [0.0, LEVELS[-1]], dashed=True))
    chart = draw(lines, x_name="stated rate", y_name="unknown objects that got a label", zero=True)
    write_text(DOCS / "images" / "scores_reject.svg", chart)
    counts = f"{len(names)} labels; {(~known).sum():,} photos of other types, {known.sum():,} of these.\n\n"
    head = [
        "background",
        "stated",
        "unknown that got a label, %",
        "known that got one, %",
        "right among these, %",
    ]
    return counts + table(head, rows)


if __name__ == "__main__":
    main()
