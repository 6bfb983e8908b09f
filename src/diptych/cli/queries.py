"""Classify images and search images: which label fits an image, which images fit a text.

Reads: a checkpoint, image files or a source. Writes: an index beside the model, kept for the next query.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.cli.arguments import MAX_BAD_FRACTION, ImageOptions, ReadOptions, parse_columns
from diptych.cli.output import print_dropped
from diptych.core.errors import IntegrityError, UsageError
from diptych.core.progress import Progress
from diptych.core.records import Counts, Need

if TYPE_CHECKING:
    from diptych.data.sources.open import Columns
    from diptych.evaluate.metrics.calibration import Calibration
    from diptych.models.model import Model
    from diptych.search.query import Searcher

INDEXES = "indexes"
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


def search_source(
    model_ref: str,
    ref: str,
    query: str,
    *,
    k: int,
    folder: Path | None,
    read: ReadOptions = ReadOptions(),
    max_bad: float = MAX_BAD_FRACTION,
) -> dict[str, Any]:
    """Find the k images of a source that a text describes best; the index is built once and kept.

    Returns:
        The hits, best first, and how many of the source's samples the index could not take, by reason.
    """
    from diptych.data.sources.open import open_source

    if k < 1:
        raise UsageError("no result is asked for", where="-k", found=k, expected="1 or more images")
    if not query.strip():
        raise UsageError("the query is empty", where="QUERY", found=repr(query), expected="a text")
    columns = parse_columns(read.columns)
    open_source(ref, columns=columns, need=Need.IMAGE)  # before seconds go into the model
    searcher = open_searcher(read.load(model_ref), ref, home=Path(model_ref), folder=folder, columns=columns)
    counts = Counts.from_dict(searcher.index.manifest.counts)
    print_dropped(counts)
    counts.check(max_bad)
    return {"hits": ask(searcher, query, k=k), **counts.as_dict()}


def open_searcher(
    model: "Model", ref: str, *, home: Path, folder: Path | None = None, columns: "Columns | None" = None
) -> "Searcher":
    """Open the index of a source, built on first use; without a folder it is kept in the model's home."""
    from diptych.data.sources.open import Columns, open_source
    from diptych.search.index import Index
    from diptych.search.query import Searcher

    source = open_source(ref, columns=columns or Columns(), need=Need.IMAGE)
    if folder is None:
        home = home if home.is_dir() else Path()  # a file or a hub id has no folder of its own
        digest = hashlib.sha256(f"{model.digest} {source.name} {columns or ''}".encode()).hexdigest()[:16]
        folder = home / INDEXES / digest
    with Progress("searching") as progress:
        progress.log(f"index: {folder}")
        index = Index.build(model, source, folder)
    return Searcher(model, index)


def ask(searcher: "Searcher", query: str, *, k: int) -> list[dict[str, Any]]:
    """Return the k best hits as plain records, best first."""
    return [
        {"rank": rank, "key": hit.key, "path": hit.path or None, "score": round(float(hit.score), 6),
         "caption": hit.caption or None}
        for rank, hit in enumerate(searcher.text(query, k), start=1)
    ]  # fmt: skip
