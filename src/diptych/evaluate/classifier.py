"""Classifiers made of words: one direction per class.

Each class is the mean of the unit embeddings of its prompts, scaled to unit length: the paper's ensemble in
embedding space, which costs no more than one prompt when images are scored. The ensemble in probability
space, which the paper compares it with, keeps the templates apart and averages their probabilities.

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

from diptych.core.checks import Doubles, Floats, Ints
from diptych.core.errors import IntegrityError, NonFiniteError, UsageError
from diptych.core.files.durable import save_array
from diptych.evaluate.prompts.templates import PHOTO, Templates, fill
from diptych.models.encode import TEXT_BATCH, Precision, encode_texts
from diptych.models.inputs import tokens_read

if TYPE_CHECKING:
    from diptych.models.model import Model

SHOWN = 80  # characters of a prompt in a message


def build_classifier(
    model: "Model",
    class_names: Sequence[str],
    templates: Templates = PHOTO,
    *,
    batch_size: int = TEXT_BATCH,
    precision: Precision = "float32",
    cache: str | Path | None = None,
) -> Floats:
    """Embed the prompts of all classes together and average them class by class.

    Args:
        model: the model whose text tower reads the prompts.
        class_names: C labels.
        templates: T templates, with cleaned names or without.
        batch_size: prompts per step.
        precision: what the text tower computes in.
        cache: folder of finished classifiers.

    Returns:
        (C, E) float32, unit length, row c for class_names[c].

    Raises:
        UsageError: there are no classes, or the tower reads two of them as the same: case and white space do
            not count, nor what is behind the context.
        NonFiniteError: the prompts of a class cancel out or are not finite.
        IntegrityError: a kept classifier is damaged.
    """
    prompts = fill(templates, class_names)
    tokens = _tokens(model, class_names, prompts, templates)
    if cache is not None:
        digest = hashlib.sha256(json.dumps([model.digest, precision, prompts]).encode()).hexdigest()[:32]
        cache = Path(cache) / f"{len(prompts)}-{digest}.npy"
        if cache.is_file():
            return _read(cache, (len(class_names), model.config.embed_dim))
    flat = [prompt for of_class in prompts for prompt in of_class]
    embeds = _embed_prompts(model, flat, tokens, batch_size, precision)
    rows = _mean_directions(embeds, np.array([len(of_class) for of_class in prompts]), class_names)
    if cache is not None:
        save_array(cache, rows)
    return rows


def build_template_classifiers(
    model: "Model",
    class_names: Sequence[str],
    templates: Templates,
    *,
    batch_size: int = TEXT_BATCH,
    precision: Precision = "float32",
) -> Floats:
    """Return one classifier per template, (T, C, E), for ensembles in probability space and for ablations.

    A class with several names is the mean of theirs; see `build_classifier`.
    """
    prompts = fill(templates, class_names)
    tokens = _tokens(model, class_names, prompts, templates)
    count = len(templates.templates)
    flat = [prompt for first in range(count) for of_class in prompts for prompt in of_class[first::count]]
    embeds = _embed_prompts(model, flat, tokens, batch_size, precision)
    sizes = np.array([len(of_class) // count for of_class in prompts] * count)
    rows = _mean_directions(embeds, sizes, list(class_names) * count)
    return rows.reshape(count, len(class_names), -1)


def class_probabilities(model: "Model", image_embeds: Floats, classifier: Floats) -> Doubles:
    """Return the probabilities (N, C) of image embeddings (N, E) by a classifier (C, E); NaN rows stay."""
    cosines = (image_embeds @ classifier.T).astype(np.float64)
    probabilities: Doubles = model.probabilities(model.scale * cosines + model.bias)
    return probabilities


def ensemble_probabilities(model: "Model", image_embeds: Floats, classifiers: Floats) -> Doubles:
    """Average the probabilities (N, C) of T classifiers (T, C, E): the ensemble in probability space."""
    total = np.zeros((len(image_embeds), classifiers.shape[1]))
    for classifier in classifiers:
        total += class_probabilities(model, image_embeds, classifier)
    return total / len(classifiers)


def _embed_prompts(
    model: "Model", prompts: Sequence[str], tokens: Mapping[str, Ints], batch_size: int, precision: Precision
) -> Floats:
    """Embed prompts, what their templates share only once if the model can do that."""
    encode_prompts = getattr(model, "encode_prompts", None)
    rows = encode_prompts(np.stack(list(tokens.values())), precision) if encode_prompts else None
    if rows is None:
        return encode_texts(model, prompts, batch_size=batch_size, precision=precision)
    numbers = {prompt: row for row, prompt in enumerate(tokens)}
    return np.asarray(rows[[numbers[prompt] for prompt in prompts]])


def _mean_directions(embeds: Floats, sizes: Ints, class_names: Sequence[str]) -> Floats:
    """Average runs of rows and scale the means to unit length."""
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


def _read(path: Path, shape: tuple[int, int]) -> Floats:
    fix = "remove this file"
    try:
        rows: Floats = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        what = "a kept classifier cannot be read"
        raise IntegrityError(what, where=path, found=str(error)[:100], fix=fix) from error
    if rows.shape != shape or rows.dtype != np.float32 or not np.isfinite(rows).all():
        what, expected = "a kept classifier is not what was written", f"finite float32 {shape}"
        raise IntegrityError(what, where=path, found=f"{rows.dtype} {rows.shape}", expected=expected, fix=fix)
    return rows


def _tokens(
    model: "Model", class_names: Sequence[str], prompts: Sequence[Sequence[str]], templates: Templates
) -> dict[str, Ints]:
    """Return the token ids of each distinct prompt; refuse classes that the text tower reads as the same."""
    where = templates.source or templates.name
    if not class_names:
        raise UsageError("there are no classes to choose from", where=where, fix="name at least one")
    distinct = list(dict.fromkeys(prompt for of_class in prompts for prompt in of_class))
    counts, before = model.tokenizer.counts, model.tokenizer.counts.truncated
    rows = model.tokenizer.tokens(distinct)
    cut, context = counts.truncated - before, model.tokenizer.context_length
    too_long = f"{cut} of {len(distinct)} prompts"
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
                + (f"; {too_long} are longer than {context} tokens" if cut else ""),
                expected="prompts that differ in what the model reads: no case, single spaces, "
                f"{context} tokens",
                fix="shorten the templates" if cut else "clean one of the two names, or merge the classes",
            )
        owners[tokens] = label
    if cut:
        text = f"{too_long} of {templates.name!r} are longer than {context} tokens and were cut"
        warnings.warn(text, stacklevel=3)
    return dict(zip(distinct, rows, strict=True))
