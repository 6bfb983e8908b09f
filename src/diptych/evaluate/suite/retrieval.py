"""The protocol retrieval: find the text of an image and the images of a text.

Items are distinct: a caption that several images share (up to case and white space, which towers do not
read) is one text with several right images, and an image with several captions has several right texts. A
query is a hit at k when any right item is among its first k.

Where captions are shared, the score in which every caption is a query of its own stands beside that one, as
`caption_to_image` and `image_to_caption`: published figures are of this kind. There a caption has one right
image, its own; for an image a caption that is equal to one of its own is right as well.

Source: Radford et al. 2021, appendix E.1 (recall on Flickr30k and COCO); multiple positives as in
CLIP_benchmark.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.core import checks
from diptych.core.checks import Floats, Ints
from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.data.tokenizers.cleaning import clean
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.metrics.intervals import share
from diptych.evaluate.metrics.ranks import median_rank, paired_ranks
from diptych.evaluate.suite.scoring import ProtocolResult, TaskRunner, mean_of_shares
from diptych.models.encode import encode_texts

QUERIES, SHOWN_IMAGES, SHOWN_TEXTS = 5, 5, 4  # examples of a report: queries, and hits of each


def retrieval(runner: TaskRunner) -> ProtocolResult:
    """Find texts of images and images of texts; the value is the mean of recall at 1 both ways.

    Images without a caption, in a source with other tasks, are left out; unreadable ones are never retrieved.
    """
    name, embedded = runner.task.spec.name, runner.embedded
    texts, pairs = distinct_texts(embedded.captions)
    if not texts:
        what, fix = "retrieval has nothing to retrieve", "name the caption column, or evaluate another task"
        found, expected = f"{len(embedded.keys)} images and no captions", "at least one caption"
        raise DataError(what, where=runner.task.source.name, found=found, expected=expected, fix=fix)
    text_embeds = encode_texts(runner.model, texts, precision=runner.settings.precision)
    captioned = np.array([bool(of_image) for of_image in embedded.captions])
    image_embeds = np.where(captioned[:, None], embedded.image_embeds, np.float32(np.nan))
    image_ranks, text_ranks = paired_ranks(image_embeds, text_embeds, pairs)
    image_ranks = image_ranks[captioned]
    directions = {"image_to_text": image_ranks, "text_to_image": text_ranks}
    if len(pairs) > len(texts):  # two captions are equal
        per_caption = _caption_ranks(image_embeds, text_embeds, pairs)
        directions |= {"image_to_caption": per_caption[0][captioned], "caption_to_image": per_caption[1]}
    metrics = {
        f"{direction}_recall@{k}": share(name, f"{direction}_recall@{k}", int((ranks < k).sum()), len(ranks))
        for direction, ranks in directions.items()
        for k in (1, 5, 10)
    }
    both = metrics["image_to_text_recall@1"], metrics["text_to_image_recall@1"]
    unreadable = int(np.isnan(image_embeds[captioned, 0]).sum())
    counts = [
        Metric(name, "image_to_text_median_rank", median_rank(image_ranks), None, len(image_ranks)),
        Metric(name, "text_to_image_median_rank", median_rank(text_ranks), None, len(text_ranks)),
        Metric(name, "unreadable", float(unreadable), None, len(image_ranks)),
    ]
    if not captioned.all():
        counts.append(Metric(name, "uncaptioned", float((~captioned).sum()), None, len(captioned)))
    hits = image_ranks < 1
    extra = {"texts": len(texts), "captions": len(pairs), **_examples(texts, text_embeds, pairs, embedded)}
    return ProtocolResult(
        mean_of_shares(*both, task=name, name="recall"), runner.labels, (*metrics.values(), *counts),
        runner.slices(hits, np.flatnonzero(captioned)), extra, {"hits": hits, "text_hits": text_ranks < 1},
    )  # fmt: skip


def distinct_texts(captions: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], Ints]:
    """Return the distinct captions of images, and rows (image, text) (P, 2), one for each caption.

    >>> distinct_texts([["a", "b"], ["A "]])
    (('a', 'b'), array([[0, 0],
           [0, 1],
           [1, 0]]))
    """
    numbers: dict[str, int] = {}
    texts: list[str] = []
    rows = []
    for image, of_image in enumerate(captions):
        for caption in checks.texts(of_image, "captions of an image"):
            number = numbers.setdefault(clean(caption), len(numbers))
            texts += [caption] if number == len(texts) else []
            rows.append((image, number))
    return tuple(texts), np.array(rows, dtype=np.int64).reshape(-1, 2)


def _caption_ranks(image_embeds: Floats, text_embeds: Floats, pairs: Ints) -> tuple[Ints, Ints]:
    """Rank images and captions, every one of which is a query and an item of its own."""
    images, texts = pairs.T
    embeds, captions = text_embeds[texts], np.arange(len(pairs))
    # What is right for an image: every caption that is equal to one of its own.
    order = np.argsort(texts, kind="stable")  # captions of one text stand together
    starts = np.searchsorted(texts[order], np.arange(len(text_embeds) + 1))
    own = np.unique(pairs, axis=0)
    sizes = np.diff(starts)[own[:, 1]]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    equal = order[np.repeat(starts[own[:, 1]], sizes) + within]
    right = np.stack([np.repeat(own[:, 0], sizes), equal], axis=1)
    image_ranks, _ = paired_ranks(image_embeds, embeds, right, both=False)
    caption_ranks, _ = paired_ranks(embeds, image_embeds, np.stack([captions, images], axis=1), both=False)
    return image_ranks, caption_ranks


def _examples(
    texts: Sequence[str], text_embeds: Floats, pairs: Ints, embedded: EmbeddedPairs
) -> dict[str, Any]:
    """Draw texts and images as queries; return each with the nearest items, and whether they are right."""
    by_text, by_image = [], []
    right = set(map(tuple, pairs.tolist()))
    for text in draw_rows(np.arange(len(texts)), QUERIES, "texts"):
        rows = nearest(text_embeds[text], embedded.image_embeds, SHOWN_IMAGES).tolist()
        by_text.append({"text": texts[text], "found": [[row, (row, text) in right] for row in rows]})
    for row in draw_rows(readable_rows(embedded), QUERIES + 1, "pictures"):
        numbers = nearest(embedded.image_embeds[row], text_embeds, SHOWN_TEXTS).tolist()
        by_image.append({"row": row, "found": [[texts[text], (row, text) in right] for text in numbers]})
    return {"text_queries": by_text, "image_queries": by_image}


def nearest(query: Floats, items: Floats, count: int) -> Ints:
    """Return the rows of the `count` items nearest to a query, best first; NaN rows are never among them.

    >>> nearest(np.array([1, 0], dtype=np.float32), np.eye(2, dtype=np.float32)[[1, 0, 0]], 2)
    array([1, 2])
    """
    scores = np.nan_to_num(items @ query, nan=-np.inf)
    best = np.argsort(-scores, kind="stable")[:count]
    return np.asarray(best[np.isfinite(scores[best])], dtype=np.int64)


def readable_rows(embedded: EmbeddedPairs) -> Ints:
    """Return the rows whose image could be read."""
    return np.flatnonzero(~np.isnan(embedded.image_embeds[:, 0]))


def draw_rows(rows: Ints, count: int, name: str) -> list[int]:
    """Draw some rows without repeats, in the order of the draw."""
    return [int(row) for row in numpy_rng(0, "gallery", name).permutation(rows)[:count]]
