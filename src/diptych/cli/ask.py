"""Ask a model: which label fits a picture, which pictures fit a text.

Reads: a checkpoint, picture files or a source. Writes: an index beside the model, kept for the next question.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.core.errors import UsageError
from diptych.core.progress import Progress

if TYPE_CHECKING:
    from diptych.models.model import Model
    from diptych.search.searcher import Searcher

INDEXES = "indexes"


def classify_images(
    model_ref: str, images: Sequence[Path], names: Sequence[str], templates: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Score every picture against every name.

    Returns:
        One record per picture with the labels' probabilities, best first, and the pictures that could not be
        read. Probabilities are the softmax over the given names: they say which name fits better, not whether
        any fits. Of a SigLIP they are the sigmoid: each name by itself, and they need not sum to one.
    """
    from diptych.embed.features import embed_images
    from diptych.evaluate.classifier import build_classifier
    from diptych.evaluate.prompts import BARE
    from diptych.evaluate.prompts import load as load_templates
    from diptych.models.opening import load

    missing = [str(path) for path in images if not path.is_file()]
    if missing:
        raise UsageError("there is no such picture", where=", ".join(missing[:3]), fix="check the path")
    model = load(model_ref)
    classifier = build_classifier(model, names, load_templates(templates) if templates else BARE)
    embeds = embed_images(model, (path.read_bytes() for path in images))
    found, unreadable = [], []
    for path, embed in zip(images, embeds, strict=True):
        if np.isnan(embed[0]):
            unreadable.append(str(path))
            continue
        shares = model.probabilities(model.scale * (classifier @ embed) + model.bias)
        labels = [
            {"label": names[place], "probability": round(float(shares[place]), 6)}
            for place in np.argsort(-shares)
        ]
        found.append({"image": str(path), "label": labels[0]["label"], "labels": labels})
    return found, unreadable


def search_source(
    model_ref: str, ref: str, query: str, *, k: int, folder: Path | None
) -> list[dict[str, Any]]:
    """Return the k pictures of a source that a text describes best; the index is built once and kept."""
    from diptych.models.opening import load

    if k < 1:
        raise UsageError("nothing would be found", where="-k", found=k, expected="1 or more pictures")
    if not query.strip():
        raise UsageError("there is nothing to look for", where="QUERY", found=repr(query), expected="a text")
    searcher = open_searcher(load(model_ref), ref, home=Path(model_ref), folder=folder)
    return ask(searcher, query, k=k)


def open_searcher(model: "Model", ref: str, *, home: Path, folder: Path | None = None) -> "Searcher":
    """Open the index of a source, built on first use; without a folder it is kept in the model's home."""
    from diptych.data.sources import open_source
    from diptych.search.index import Index
    from diptych.search.searcher import Searcher

    source = open_source(ref)
    if folder is None:
        home = home if home.is_dir() else Path()  # a file or a hub id has no folder of its own
        digest = hashlib.sha256(f"{model.digest} {source.name}".encode()).hexdigest()[:16]
        folder = home / INDEXES / digest
    with Progress("searching") as progress:
        progress.log(f"index: {folder}")
        index = Index.build(model, source, folder)
    return Searcher(model, index)


def ask(searcher: "Searcher", query: str, *, k: int) -> list[dict[str, Any]]:
    """Return the k best hits as plain records, best first."""
    return [
        {"rank": rank, "key": hit.key, "score": round(float(hit.score), 6), "caption": hit.caption}
        for rank, hit in enumerate(searcher.text(query, k), start=1)
    ]
