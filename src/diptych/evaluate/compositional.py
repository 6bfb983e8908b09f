"""Does a model know who does what: captions that differ by a word, an order, a relation.

Every score is a share of strict wins: a caption that scores as high as the right one, or an image that
cannot be read, is a miss.

Reads and writes: nothing; `readers.choices` reads the data sets.
Source: Hsieh et al. 2023 (SugarCrepe); Thrush et al. 2022, section 3.3 (Winoground's text, image and group
score); Yuksekgonul et al. 2023 (ARO; relations and pairs of attributes count alike).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diptych.core.checks import Bools, Doubles
from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.metrics.intervals import share
from diptych.evaluate.metrics.ranks import exact_scores
from diptych.evaluate.tasks.readers.choices import PAIR
from diptych.models.encode import Precision, encode_texts

if TYPE_CHECKING:
    from diptych.models.model import Model


def caption_scores(model: "Model", embedded: EmbeddedPairs, *, precision: Precision = "float32") -> Doubles:
    """Return the cosines (N, K) of N images and their captions, the right one first.

    -inf where an image has fewer than K captions; NaN where it is unreadable.
    """
    captions = embedded.captions
    places = {
        text: place for place, text in enumerate(dict.fromkeys(text for row in captions for text in row))
    }
    texts = encode_texts(model, list(places), precision=precision)
    counts = np.array([len(row) for row in captions], dtype=np.int64)
    rows = np.repeat(np.arange(len(captions)), counts)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    owned = np.array([places[text] for row in captions for text in row], dtype=np.int64)
    scores = np.full((len(captions), max(counts, default=2)), -np.inf)
    scores[rows, columns] = exact_scores(embedded.image_embeds, texts, np.stack([rows, owned], axis=1))
    return scores


def choice_hits(scores: Doubles) -> Bools:
    """Say where the first caption scores more than every other.

    Args:
        scores: (N, K); -inf where a row has fewer captions, NaN where the image is unreadable.

    >>> choice_hits(np.array([[0.3, 0.2], [0.3, 0.3], [np.nan, np.nan]]))
    array([ True, False, False])
    """
    return np.asarray(scores[:, 0] > scores[:, 1:].max(axis=1))


def quadruples(scores: Doubles, embedded: EmbeddedPairs) -> Doubles:
    """Return (N / 2, 2, 2), image by caption, of images that follow each other as pairs.

    Args:
        scores: (N, 2), an image's own caption first.
        embedded: the pictures, with the field `pair`.

    Raises:
        DataError: an image has no partner behind it.
    """
    names = [fields.get(PAIR) for fields in embedded.fields]
    if names[::2] != names[1::2] or scores.shape[1] != 2:
        raise DataError(
            "pictures do not come in pairs", found=f"{len(names)} pictures", expected="two a case"
        )
    own, other = scores[:, 0].reshape(-1, 2), scores[:, 1].reshape(-1, 2)
    first = np.stack([own[:, 0], other[:, 0]], axis=1)
    return np.stack([first, np.stack([other[:, 1], own[:, 1]], axis=1)], axis=1)


def quadruple_hits(scores: Doubles) -> dict[str, Bools]:
    """Return Winoground's three scores row by row.

    Args:
        scores: (N, 2, 2), image by caption.

    Returns:
        text: both images prefer their own caption; image: both captions prefer their own image; group:
        both. (N,) bool each.

    >>> hits = quadruple_hits(np.array([[[0.9, 0.5], [0.6, 0.7]], [[0.9, 0.5], [0.95, 0.99]]]))
    >>> {name: found.tolist() for name, found in hits.items()}
    {'text': [True, True], 'image': [True, False], 'group': [True, False]}
    """
    own = scores[:, 0, 0], scores[:, 1, 1]
    text = (own[0] > scores[:, 0, 1]) & (own[1] > scores[:, 1, 0])
    image = (own[0] > scores[:, 1, 0]) & (own[1] > scores[:, 0, 1])
    return {"text": text, "image": image, "group": text & image}


def choice_metrics(groups: Sequence[str], hits: Bools, *, task: str) -> list[Metric]:
    """List the accuracy over all cases, the mean of the groups, and the accuracy of each.

    Args:
        groups: what each of N cases is about.
        hits: (N,) bool.
        task: the name the metrics carry.
    """
    found: dict[str, list[bool]] = {}
    for group, hit in zip(groups, hits.tolist(), strict=True):
        found.setdefault(group, []).append(hit)
    mean = float(np.mean([np.mean(of) for of in found.values()])) if found else float("nan")
    return [
        share(task, "accuracy", int(hits.sum()), len(hits)),
        Metric(task, "mean_per_group", mean, None, len(hits)),
        *(share(task, f"accuracy[{name}]", sum(of), len(of)) for name, of in sorted(found.items())),
    ]


def quadruple_metrics(hits: dict[str, Bools], *, task: str) -> list[Metric]:
    """List the text, image and group score with 95 % intervals."""
    return [share(task, f"{name}_score", int(found.sum()), len(found)) for name, found in hits.items()]
