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
from dataclasses import dataclass

import numpy as np

from diptych.core import checks
from diptych.core.checks import Bools, Floats, Ints
from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.core.seeds import numpy_rng
from diptych.data.tokenizers.cleaning import clean
from diptych.embed.features import EmbeddedPairs
from diptych.evaluate.metrics.intervals import share
from diptych.evaluate.metrics.ranks import median_rank, paired_ranks
from diptych.evaluate.suite.runner import ProtocolResult, TaskRunner
from diptych.evaluate.suite.scoring import mean_of_shares
from diptych.models.encode import encode_texts

QUERIES, FOUND_IMAGES, FOUND_TEXTS = 5, 5, 4  # examples of a report: queries, and hits of each


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    """What a report or a table needs about one retrieval task: N images with a caption, M texts."""

    task: str
    texts: tuple[str, ...]  # distinct captions, in order of first appearance
    text_embeds: Floats  # (M, E), unit length
    pairs: Ints  # (P, 2), rows (image, text) that belong together
    image_ranks: Ints  # (N,), wrong texts before the best right one
    text_ranks: Ints  # (M,), wrong images before the best right one
    unreadable: int  # images that could not be decoded; they count as wrong, and are never retrieved
    uncaptioned: int  # images without a caption, in a source with other tasks; they are no part of N
    # (N,) of images and (Q,) of captions, every one of which is a query and an item by itself; None if all
    # are distinct, for these are the ranks above then.
    caption_ranks: tuple[Ints, Ints] | None

    def metrics(self) -> list[Metric]:
        """List recall at 1, 5 and 10 and the median rank (from 1) both ways, and what was left out."""
        images, texts, task = self.image_ranks, self.text_ranks, self.task
        directions = {"image_to_text": images, "text_to_image": texts}
        if self.caption_ranks is not None:
            directions |= dict(zip(("image_to_caption", "caption_to_image"), self.caption_ranks, strict=True))
        metrics = [
            share(task, f"{direction}_recall@{k}", int((ranks < k).sum()), len(ranks))
            for direction, ranks in directions.items()
            for k in (1, 5, 10)
        ]
        metrics += [
            Metric(task, "image_to_text_median_rank", median_rank(images), None, len(images)),
            Metric(task, "text_to_image_median_rank", median_rank(texts), None, len(texts)),
            Metric(task, "unreadable", float(self.unreadable), None, len(images)),
        ]
        if self.uncaptioned:
            total = len(images) + self.uncaptioned
            metrics.append(Metric(task, "uncaptioned", float(self.uncaptioned), None, total))
        return metrics


def retrieval(runner: TaskRunner) -> ProtocolResult:
    """Find texts of images and images of texts; the value is the mean of recall at 1 both ways."""
    name, embedded = runner.task.spec.name, runner.embedded
    texts, pairs = distinct_texts(embedded.captions)
    if not texts:
        raise DataError(
            "retrieval has nothing to retrieve",
            where=runner.task.source.name,
            found=f"{len(embedded.keys)} images and no captions",
            expected="at least one caption",
            fix="name the caption column, or evaluate another task",
        )
    text_embeds = encode_texts(runner.model, texts, precision=runner.settings.precision)
    captioned = np.array([bool(of_image) for of_image in embedded.captions])
    image_embeds = np.where(captioned[:, None], embedded.image_embeds, np.float32(np.nan))
    image_ranks, text_ranks = paired_ranks(image_embeds, text_embeds, pairs)
    result = RetrievalResult(
        name, texts, text_embeds, pairs, image_ranks[captioned], text_ranks,
        unreadable=int(np.isnan(image_embeds[captioned, 0]).sum()),
        uncaptioned=int((~captioned).sum()),
        caption_ranks=_caption_ranks(image_embeds, text_embeds, pairs, captioned),
    )  # fmt: skip
    metrics = {metric.metric: metric for metric in result.metrics()}
    both = metrics["image_to_text_recall@1"], metrics["text_to_image_recall@1"]
    hits = result.image_ranks < 1
    extra = {
        "texts": len(texts),
        "captions": len(pairs),
        "text_queries": [
            {"text": text, "found": [list(pair) for pair in nearest_images]}
            for text, nearest_images in text_queries(result, embedded, 0)
        ],
        "image_queries": [
            {"row": row, "found": [list(pair) for pair in nearest_texts]}
            for row, nearest_texts in image_queries(result, embedded, 0)
        ],
    }
    return ProtocolResult(
        mean_of_shares(*both, task=name, name="recall"), tuple(metrics.values()),
        runner.slices(hits, np.flatnonzero(captioned)), extra,
        {"hits": hits, "text_hits": text_ranks < 1}, result,
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


def _caption_ranks(
    image_embeds: Floats, text_embeds: Floats, pairs: Ints, captioned: Bools
) -> tuple[Ints, Ints] | None:
    """Rank with every caption as a query and an item of its own; None if no two are equal."""
    if len(pairs) == len(text_embeds):
        return None
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
    return image_ranks[captioned], caption_ranks


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


def draw_rows(rows: Ints, count: int, seed: int, name: str) -> list[int]:
    """Draw some rows without repeats, in the order of the draw."""
    return [int(row) for row in numpy_rng(seed, "gallery", name).permutation(rows)[:count]]


def text_queries(
    result: RetrievalResult, embedded: EmbeddedPairs, seed: int
) -> list[tuple[str, list[tuple[int, bool]]]]:
    """Draw texts of a retrieval task; return each with the rows of the nearest images, right or wrong."""
    queries = []
    for text in draw_rows(np.arange(len(result.texts)), QUERIES, seed, "texts"):
        right = set(result.pairs[result.pairs[:, 1] == text, 0].tolist())
        rows = nearest(result.text_embeds[text], embedded.image_embeds, FOUND_IMAGES)
        queries.append((result.texts[text], [(int(row), int(row) in right) for row in rows]))
    return queries


def image_queries(
    result: RetrievalResult, embedded: EmbeddedPairs, seed: int
) -> list[tuple[int, tuple[tuple[str, bool], ...]]]:
    """Draw images of a retrieval task; return each row with the nearest texts, right or wrong."""
    queries = []
    for row in draw_rows(readable_rows(embedded), QUERIES + 1, seed, "pictures"):
        right = set(result.pairs[result.pairs[:, 0] == row, 1].tolist())
        texts = nearest(embedded.image_embeds[row], result.text_embeds, FOUND_TEXTS)
        queries.append((row, tuple((result.texts[text], int(text) in right) for text in texts)))
    return queries
