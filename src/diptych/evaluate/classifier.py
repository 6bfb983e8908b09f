"""Build a classifier out of words: one direction per class.

Each class is the mean of the unit embeddings of its prompts, brought back to unit length: the paper's
ensemble in embedding space, which costs no more than one prompt when images are scored. The ensemble in
probability space, which the paper compares it with, keeps the templates apart and averages what each
would have answered.

Reads and writes: with `cache`, finished classifiers as `CLASSES-DIGEST.npy`, named after the model and
the prompts.
Source: Radford et al. 2021, section 3.1.4.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import IntegrityError, NonFiniteError, UsageError
from diptych.core.files.arrays import save_array
from diptych.evaluate.prompts.templates import PHOTO, Templates, fill
from diptych.models.encode import TEXT_BATCH, Precision, encode_texts, tokens_read

if TYPE_CHECKING:
    from diptych.models.model import Model

SHOWN = 80
"""Characters of a prompt in a message."""


def build_classifier(
    model: "Model",
    class_names: Sequence[str],
    templates: Templates = PHOTO,
    *,
    batch_size: int = TEXT_BATCH,
    precision: Precision = "float32",
    cache: str | Path | None = None,
) -> NDArray[np.float32]:
    """Embed the prompts of all classes together and average them class by class.

    Args:
        model: the model whose text tower reads the prompts.
        class_names: C labels.
        templates: T templates, with cleaned names or without.
        batch_size: prompts per step.
        precision: what the text tower computes in.
        cache: folder that keeps finished classifiers for next time.

    Returns:
        (C, E) float32, unit length, row c for class_names[c].

    Raises:
        UsageError: there are no classes, or the tower reads two of them as the same: case and white space do
            not count, nor what is behind the context.
        NonFiniteError: the prompts of a class cancel out or are not finite.
        IntegrityError: a kept classifier is damaged.
    """
    prompts = fill(templates, class_names)
    tokens = _checked(model, class_names, prompts, templates)
    flat = [prompt for of_class in prompts for prompt in of_class]
    kept = None if cache is None else Path(cache) / f"{_digest(model, prompts, precision)}.npy"
    if kept is not None and kept.is_file():
        return _kept(kept, (len(class_names), model.config.embed_dim))
    embeds = _embed_prompts(model, flat, tokens, batch_size, precision)
    sizes = np.array([len(of_class) for of_class in prompts])
    rows = _mean_directions(embeds, sizes, class_names)
    if kept is not None:
        save_array(kept, rows)
    return rows


def build_template_classifiers(
    model: "Model",
    class_names: Sequence[str],
    templates: Templates,
    *,
    batch_size: int = TEXT_BATCH,
    precision: Precision = "float32",
) -> NDArray[np.float32]:
    """Build one classifier per template, for ensembles in probability space and for ablations.

    Returns:
        (T, C, E) float32, unit length; a class with several names is the mean of theirs.

    Raises:
        UsageError, NonFiniteError: as `build_classifier`.
    """
    prompts = fill(templates, class_names)
    tokens = _checked(model, class_names, prompts, templates)
    count = len(templates.templates)
    flat = [prompt for place in range(count) for of_class in prompts for prompt in of_class[place::count]]
    embeds = _embed_prompts(model, flat, tokens, batch_size, precision)
    sizes = np.array([len(of_class) // count for of_class in prompts] * count)
    rows = _mean_directions(embeds, sizes, list(class_names) * count)
    return rows.reshape(count, len(class_names), -1)


def class_probabilities(
    model: "Model", image_embeds: NDArray[np.float32], classifier: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return (N, C) float64, what `Model.probabilities` makes of the logits.

    Args:
        model: made both; its scale, bias and loss decide.
        image_embeds: (N, E) unit length; a row of NaN gives one.
        classifier: (C, E), see `build_classifier`.
    """
    cosines = (image_embeds @ classifier.T).astype(np.float64)
    found: NDArray[np.float64] = model.probabilities(model.scale * cosines + model.bias)
    return found


def ensemble_probabilities(
    model: "Model", image_embeds: NDArray[np.float32], classifiers: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Average over templates what each would answer: the ensemble in probability space.

    Args:
        model: made both.
        image_embeds: (N, E) unit length.
        classifiers: (T, C, E), see `build_template_classifiers`.

    Returns:
        (N, C) float64.
    """
    total = np.zeros((len(image_embeds), classifiers.shape[1]))
    for classifier in classifiers:
        total += class_probabilities(model, image_embeds, classifier)
    return total / len(classifiers)


def _embed_prompts(
    model: "Model",
    prompts: Sequence[str],
    tokens: Mapping[str, NDArray[np.int64]],
    batch_size: int,
    precision: Precision,
) -> NDArray[np.float32]:
    """Embed prompts, what their templates share only once where the model can do that."""
    share = getattr(model, "encode_prompts", None)
    rows = share(np.stack(list(tokens.values())), precision) if share is not None else None
    if rows is None:
        return encode_texts(model, prompts, batch_size=batch_size, precision=precision)
    place = {prompt: row for row, prompt in enumerate(tokens)}
    found: NDArray[np.float32] = rows[[place[prompt] for prompt in prompts]]
    return found


def _mean_directions(
    embeds: NDArray[np.float32], sizes: NDArray[np.int64], class_names: Sequence[str]
) -> NDArray[np.float32]:
    """Average runs of rows and bring the means to unit length."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    means = np.add.reduceat(embeds.astype(np.float64), starts, axis=0) / sizes[:, None]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    bad = np.flatnonzero(~(lengths[:, 0] > np.finfo(np.float32).tiny))
    if len(bad):
        raise NonFiniteError(
            "the prompts of a class have no direction",
            where=f"class {class_names[int(bad[0])]!r}",
            found=f"mean of length {lengths[bad[0], 0]}",
            expected="a finite length above 0",
            fix="check the model's weights with `diptych evaluate` on data it was trained on",
        )
    return np.asarray(means / lengths, dtype=np.float32)


def _digest(model: "Model", prompts: Sequence[Sequence[str]], precision: Precision) -> str:
    """Name a classifier after everything that decides about it."""
    told = json.dumps([model.digest, precision, prompts], ensure_ascii=True)
    return f"{len(prompts)}-{hashlib.sha256(told.encode()).hexdigest()[:32]}"


def _kept(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    try:
        rows: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityError(
            "a kept classifier cannot be read", where=path, found=str(error)[:100], fix="remove this file"
        ) from error
    if rows.shape != shape or rows.dtype != np.float32 or not np.isfinite(rows).all():
        raise IntegrityError(
            "a kept classifier is not what was written",
            where=path,
            found=f"{rows.dtype} {rows.shape}",
            expected=f"finite float32 {shape}",
            fix="remove this file",
        )
    return rows


def _checked(
    model: "Model", class_names: Sequence[str], prompts: Sequence[Sequence[str]], templates: Templates
) -> dict[str, NDArray[np.int64]]:
    """Return the token ids of each distinct prompt; refuse classes that the text tower reads as the same.

    Raises:
        UsageError: there are no classes, or two are the same after clean-up and the cut at the context.
    """
    where, name = templates.source or templates.name, templates.name
    if not class_names:
        raise UsageError("there are no classes to choose from", where=where, fix="name at least one")
    distinct = list(dict.fromkeys(prompt for of_class in prompts for prompt in of_class))
    counts, before = model.tokenizer.counts, model.tokenizer.counts.truncated
    rows = model.tokenizer.tokens(distinct)
    cut, context = counts.truncated - before, model.tokenizer.context_length
    ends = tokens_read(rows, model.config.text)
    seen = {prompt: row[:end].tobytes() for prompt, row, end in zip(distinct, rows, ends, strict=True)}
    owners: dict[tuple[bytes, ...], str] = {}
    for label, of_class in zip(class_names, prompts, strict=True):
        tokens = tuple(sorted(seen[prompt] for prompt in of_class))
        if tokens in owners:
            raise UsageError(
                "two classes have the same prompts and can never be told apart",
                where=where,
                found=f"{owners[tokens][:SHOWN]!r} and {label[:SHOWN]!r} -> {of_class[0][:SHOWN]!r}"
                + (f"; {cut} of {len(distinct)} prompts are longer than {context} tokens" if cut else ""),
                expected="prompts that differ in what the model reads: no case, single spaces, "
                f"{context} tokens",
                fix="shorten the templates" if cut else "clean one of the two names, or merge the classes",
            )
        owners[tokens] = label
    if cut:
        warnings.warn(
            f"{cut} of {len(distinct)} prompts of {name!r} are longer than {context} tokens and were cut",
            stacklevel=3,
        )
    return dict(zip(distinct, rows, strict=True))
