"""Build a classifier out of words: one direction per class.

Each class is the mean of the unit embeddings of its prompts, brought back to unit length: the paper's
ensemble in embedding space, which costs no more than one prompt when pictures are scored.

Source: Radford et al. 2021, section 3.1.4.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import NonFiniteError, UsageError
from diptych.embed.features import TEXT_BATCH, Precision, embed_texts
from diptych.evaluate.prompts import PHOTO, Templates, fill

if TYPE_CHECKING:
    from diptych.models.model import Model


def build_classifier(
    model: "Model",
    class_names: Sequence[str],
    templates: Templates = PHOTO,
    *,
    batch_size: int = TEXT_BATCH,
    precision: Precision = "float32",
) -> NDArray[np.float32]:
    """Embed the prompts of all classes together and average them class by class.

    Args:
        model: the model whose text tower reads the prompts.
        class_names: C labels.
        templates: T templates, with cleaned names or without.
        batch_size: prompts per step.
        precision: what the text tower computes in.

    Returns:
        (C, E) float32, unit length, row c for class_names[c].

    Raises:
        UsageError: there are no classes, or two of them get the same prompts and could never be told apart.
        NonFiniteError: the prompts of a class cancel out or are not finite.
    """
    prompts = fill(templates, class_names)
    _check_distinct(class_names, prompts, where=templates.source or templates.name)
    flat = [prompt for of_class in prompts for prompt in of_class]
    embeds = embed_texts(model, flat, batch_size=batch_size, precision=precision)
    sizes = np.array([len(of_class) for of_class in prompts])
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


def _check_distinct(class_names: Sequence[str], prompts: Sequence[Sequence[str]], *, where: str) -> None:
    """Refuse an empty list and classes that the text tower would read as the same."""
    if not class_names:
        raise UsageError("there are no classes to choose from", where=where, fix="name at least one")
    owners: dict[tuple[str, ...], str] = {}
    for name, of_class in zip(class_names, prompts, strict=True):
        read = tuple(prompt.lower().strip() for prompt in of_class)
        if read in owners:
            raise UsageError(
                "two classes have the same prompts and can never be told apart",
                where=where,
                found=f"{owners[read]!r} and {name!r} -> {of_class[0]!r}",
                expected="different names",
                fix="clean one of the two names, or merge the classes",
            )
        owners[read] = name
