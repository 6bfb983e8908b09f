"""Classify images: which label fits an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.cli.arguments import ImageOptions
from diptych.core.errors import IntegrityError, UsageError
from diptych.core.records import Counts

if TYPE_CHECKING:
    from diptych.evaluate.metrics.calibration import Calibration
    from diptych.models.model import Model

CALIBRATION = "calibration.npz"
NONE = "none of these"


@dataclass(frozen=True, slots=True)
class Reject:
    """When no label is given: a calibration, and the share of unrelated images that may pass."""

    calibration: "Calibration"
    rate: float


def image_files(given: Sequence[Path]) -> list[Path]:
    """List image files, those of a folder at any depth and in sorted order; there has to be one."""
    from diptych.data.sources.open import FolderSource

    if not given:
        raise UsageError("no image is given", where="IMAGE", expected="image files, or folders of them")
    files: list[Path] = []
    for path in given:
        if not path.is_dir() and not path.is_file():
            raise UsageError("there is no such image", where=path, fix="check the path")
        inside = [*FolderSource(path).images()] if path.is_dir() else [path]
        if not inside:
            raise UsageError("this folder holds no images", where=path, fix="check the path")
        files += inside
    return files


def classify_images(
    model_ref: str,
    images: Sequence[Path],
    names: Sequence[str],
    templates: str,
    *,
    held: Reject | None = None,
    read: ImageOptions = ImageOptions(),
) -> tuple[list[dict[str, Any]], Counts]:
    """Score every image against every name.

    Returns:
        One record per image with the labels' probabilities, best first, and the counts of those that could
        not be read, which have none. With a calibration each label also has its match probability, which does
        not depend on the other names, and an image the p-value of belonging to none.
    """
    from diptych.evaluate.classifier import build_classifier
    from diptych.evaluate.prompts.sets import open_templates
    from diptych.evaluate.prompts.templates import BARE
    from diptych.models.encode import encode_images

    known = open_templates(templates) if templates else BARE
    model = read.load(model_ref)
    if held is not None and held.calibration.model_digest != model.digest:
        what = "the calibration is of another model, or of images read in another way"
        actual, fix = (
            held.calibration.model_digest[:16],
            f"make it again: diptych calibrate {model_ref} SOURCE",
        )
        raise IntegrityError(what, where=model_ref, found=actual, expected=model.digest[:16], fix=fix)
    classifier = build_classifier(model, names, known)
    counts = Counts()
    embeds = encode_images(model, images, counts=counts)
    records = [
        {"image": str(path), **_record(model, embed, classifier, names, held)}
        for path, embed in zip(images, embeds, strict=True)
        if not np.isnan(embed[0])
    ]
    return records, counts


def _record(
    model: "Model",
    embed: NDArray[np.float32],
    classifier: NDArray[np.float32],
    names: Sequence[str],
    held: Reject | None,
) -> dict[str, Any]:
    """Return the record of one image: its label, and every label with its probability, best first."""
    probabilities = model.probabilities(model.scale * (classifier @ embed) + model.bias)
    labels: list[dict[str, Any]] = [
        {"label": name, "probability": round(float(probability), 6)}
        for name, probability in zip(names, probabilities, strict=True)
    ]
    order = np.argsort(-probabilities).tolist()
    record: dict[str, Any] = {"label": names[order[0]]}
    if held is not None and held.calibration.has_pairs:
        matches = held.calibration.probabilities(embed[None], classifier)[0]
        for label, match in zip(labels, matches, strict=True):
            label["match"] = round(float(match), 6)
    if held is not None:
        p_value = float(held.calibration.p_values(embed[None], classifier)[0])
        record = {"label": record["label"] if p_value <= held.rate else NONE, "p_value": round(p_value, 6)}
    return {**record, "labels": [labels[index] for index in order]}


def calibration_path(model_ref: str) -> Path:
    """Say where a model's calibration lies: beside it; under its name where the model is no folder."""
    home = Path(model_ref)
    return home / CALIBRATION if home.is_dir() else Path(f"{home.name}.{CALIBRATION}")


def open_calibration(model_ref: str, path: Path | None, rate: float) -> Reject:
    """Read the calibration that a reject option needs."""
    from diptych.evaluate.metrics.calibration import Calibration

    if not 0 < rate < 1:
        raise UsageError("a rate is a share", where="--reject", found=rate, expected="such as 0.05")
    path = path or calibration_path(model_ref)
    if not path.is_file():
        fix = f"diptych calibrate {model_ref} SOURCE, with pairs that it did not learn from"
        raise UsageError("the model is not calibrated", where=path, fix=fix)
    return Reject(Calibration.load(path), rate)
