"""The protocol caption_choice: tell a right caption from wrong ones that differ by a word or an order.

Every score is a share of strict wins: a caption that scores as high as the right one, or an image that
cannot be read, is a miss. `tasks.readers.captions` reads the data sets.

Source: Hsieh et al. 2023 (SugarCrepe); Thrush et al. 2022, section 3.3 (Winoground's text, image and group
score); Yuksekgonul et al. 2023 (ARO; relations and pairs of attributes count alike).
"""

from typing import TYPE_CHECKING

import numpy as np

from diptych.core.checks import Bools, Doubles
from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.metrics.intervals import share
from diptych.evaluate.metrics.ranks import exact_scores
from diptych.evaluate.suite.scoring import ProtocolResult, TaskRunner
from diptych.evaluate.tasks.readers.captions import GROUP, PAIR
from diptych.models.encode import Precision, encode_texts

if TYPE_CHECKING:
    from diptych.models.model import Model


def caption_choice(runner: TaskRunner) -> ProtocolResult:
    """Tell right captions from wrong ones; of images in pairs, Winoground's three scores."""
    embedded, name = runner.embedded, runner.task.spec.name
    scores = caption_scores(runner.model, embedded, precision=runner.settings.precision)
    if runner.task.metric == "group_score":
        wins = quadruple_hits(quadruples(scores, embedded))
        hits = wins["group"]
        metrics = [share(name, f"{kind}_score", int(won.sum()), len(won)) for kind, won in wins.items()]
    else:
        hits = np.asarray(scores[:, 0] > scores[:, 1:].max(axis=1))
        groups = np.array([str(fields[GROUP]) for fields in embedded.fields])
        parts = {group: hits[groups == group] for group in dict.fromkeys(groups.tolist())}
        mean = float(np.mean([part.mean() for part in parts.values()])) if parts else float("nan")
        metrics = [
            share(name, "accuracy", int(hits.sum()), len(hits)),
            Metric(name, "mean_per_group", mean, None, len(hits)),
            *(
                share(name, f"accuracy[{key}]", int(parts[key].sum()), len(parts[key]))
                for key in sorted(parts)
            ),
        ]
    main = next(metric for metric in metrics if metric.metric == runner.task.metric)
    return ProtocolResult(main, runner.labels, tuple(metrics), arrays={"hits": hits})


def caption_scores(model: "Model", embedded: EmbeddedPairs, *, precision: Precision = "float32") -> Doubles:
    """Return the cosines (N, K) of images and their captions, the right one first.

    -inf if an image has fewer than K captions; NaN if it is unreadable.
    """
    captions = embedded.captions
    distinct = dict.fromkeys(text for row in captions for text in row)
    numbers = {text: number for number, text in enumerate(distinct)}
    texts = encode_texts(model, list(numbers), precision=precision)
    counts = np.array([len(row) for row in captions], dtype=np.int64)
    rows = np.repeat(np.arange(len(captions)), counts)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    owned = np.array([numbers[text] for row in captions for text in row], dtype=np.int64)
    scores = np.full((len(captions), max(counts, default=2)), -np.inf)
    scores[rows, columns] = exact_scores(embedded.image_embeds, texts, np.stack([rows, owned], axis=1))
    return scores


def quadruples(scores: Doubles, embedded: EmbeddedPairs) -> Doubles:
    """Return scores (N, 2), own caption first, of images in pairs as (N / 2, 2, 2), image by caption."""
    names = [fields.get(PAIR) for fields in embedded.fields]
    if names[::2] != names[1::2] or scores.shape[1] != 2:
        raise DataError("images do not come in pairs", found=f"{len(names)} images", expected="two a case")
    both = scores.reshape(-1, 2, 2).copy()
    both[:, 1] = both[:, 1, ::-1]
    return both


def quadruple_hits(scores: Doubles) -> dict[str, Bools]:
    """Return Winoground's three scores of (N, 2, 2) cosines, image by caption, row by row.

    text: both images prefer their own caption; image: both captions prefer their own image; group: both.

    >>> hits = quadruple_hits(np.array([[[0.9, 0.5], [0.6, 0.7]], [[0.9, 0.5], [0.95, 0.99]]]))
    >>> {name: won.tolist() for name, won in hits.items()}
    {'text': [True, True], 'image': [True, False], 'group': [True, False]}
    """
    own = scores[:, 0, 0], scores[:, 1, 1]
    text = (own[0] > scores[:, 0, 1]) & (own[1] > scores[:, 1, 0])
    image = (own[0] > scores[:, 1, 0]) & (own[1] > scores[:, 0, 1])
    return {"text": text, "image": image, "group": text & image}
