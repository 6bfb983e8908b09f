"""How near an exported model comes to the one it was made from.

Embeddings of one model crowd in a narrow cone, so their plain cosines look fine long before answers change;
the cosine after taking the mean embedding away shows it. Both are stated, and where there are labels the
zero-shot accuracy of both too.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Floats
from diptych.core.errors import IntegrityError
from diptych.core.records import Counts, Need
from diptych.data.synthetic.dataset import scene_pairs
from diptych.evaluate.suite.plan import TaskSpec, open_own
from diptych.evaluate.suite.run import SourceEvaluator
from diptych.models.encode import encode_images, encode_texts
from diptych.models.verification import INPUTS

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model
    from diptych.models.runtimes.exported import ExportedModel

SCENES = 60  # drawn images and captions that every export is compared on, besides the reference inputs
SCENES_SEED = 2026
# Images of the user's own source that are compared: enough for the mean to mean something.
SOURCE_IMAGES = 256

# Cosine on the reference inputs below which an export is not published.
FLOORS = {"float32": 0.999999, "float16": 0.9999, "int8": 0.99}
# Of a float32 export's unit embeddings: what rounding in another order leaves of 24 layers is a tenth.
LARGEST_DIFFERENCE = 1e-5


def parity(exported: Floats, expected: Floats, *, stored: int) -> dict[str, float]:
    """Compare unit embeddings (N, E); the first `stored` rows are those of the reference inputs.

    Centered cosines are taken after the mean embedding is subtracted from both sides; those of the reference
    inputs are checked again on loading.

    >>> one = np.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]], np.float32)
    >>> parity(one, one, stored=2)["centered_cosine_min"]
    1.0
    """
    mean = expected.mean(axis=0, dtype=np.float64)
    cosines, centered = _cosines(exported, expected), _cosines(exported - mean, expected - mean)
    values = {
        "reference_cosine_min": cosines[:stored].min(),
        "cosine_min": cosines.min(),
        "cosine_mean": cosines.mean(),
        "centered_cosine_min": centered.min(),
        "centered_cosine_mean": centered.mean(),
    }
    difference = float(f"{np.abs(exported - expected).max():.2e}")
    rounded = {name: round(float(value), 7) for name, value in values.items()}
    return {"count": len(exported), **rounded, "largest_difference": difference}


def _cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(axis=1) / np.where(lengths > 0, lengths, 1))


class Probe(NamedTuple):
    """Encoded images and captions that both models embed."""

    images: tuple[bytes, ...]
    texts: tuple[str, ...]


def probe(source: "Source | None" = None, *, seed: int = SCENES_SEED, part: int = 0) -> Probe:
    """Gather scenes, and every second of the first pairs of a source, from `part` (0 or 1) on.

    Ranges of activations are measured on one part and compared on the other.
    """
    pairs = list(scene_pairs(SCENES, seed=seed, split="test"))
    if source is not None:
        pairs += islice(source.pairs(Counts()), part, 2 * SOURCE_IMAGES, 2)
    captions = tuple(pair.captions[0] for pair in pairs if pair.captions)
    return Probe(tuple(pair.image for pair in pairs), captions)


def compare(
    model: "Model", exported: "ExportedModel", stored: Mapping[str, NDArray[Any]], inputs: Probe
) -> dict[str, dict[str, float]]:
    """Embed the inputs with both, and the reference inputs `stored`; return the parity by tower."""
    both = exported, model
    images = [encode_images(one, inputs.images) for one in both]
    texts = [encode_texts(one, inputs.texts) for one in both]
    readable = np.isfinite(images[1][:, 0])
    images = [rows[readable] for rows in images]
    own = {tower: exported.encode_batch(stored[name]) for tower, name in INPUTS.items()}
    result = {}
    for tower, (rows, expected) in {"image": images, "text": texts}.items():
        reference = stored[f"{tower}_embeds"]
        ours, theirs = np.concatenate([own[tower], rows]), np.concatenate([reference, expected])
        result[tower] = parity(ours, theirs, stored=len(reference))
    return result


def require(parities: Mapping[str, Mapping[str, float]], precision: str, *, where: Path) -> None:
    """Refuse an export that is not what it should be."""
    for tower, measured in parities.items():
        cosine, difference = measured["reference_cosine_min"], measured["largest_difference"]
        floor, exact = FLOORS[precision], precision == "float32"
        if cosine >= floor and (not exact or difference <= LARGEST_DIFFERENCE):
            continue
        what = f"the exported {tower} tower does not give what the model gives"
        found = f"cosine {cosine:.6f}, difference {difference:.1e}"
        expected = f"cosine {floor:g} or more" + f", difference up to {LARGEST_DIFFERENCE:g}" * exact
        fix = "report this as a bug" if exact else "export with --precision float32"
        raise IntegrityError(what, where=where, found=found, expected=expected, fix=fix)


def zero_shot_change(
    model: "Model", exported: "ExportedModel", source: "Source", labels: str
) -> dict[str, Any]:
    """Score both on a labeled source: top-1 of both by prompt set, plain values."""
    task = open_own(TaskSpec(labels, source.name, labels=labels), source, Need.NOTHING)
    evaluator = SourceEvaluator(source, (task,))
    original, new = (
        {metric.metric: metric for metric in evaluator(one) if metric.metric.startswith("top1[")}
        for one in (model, cast("Model", exported))
    )
    return {
        "source": source.name,
        "labels": labels,
        "images": max((metric.n for metric in original.values()), default=0),
        "original": {name: metric.value for name, metric in original.items()},
        "exported": {name: metric.value for name, metric in new.items()},
    }
