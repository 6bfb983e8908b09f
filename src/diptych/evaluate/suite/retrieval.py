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
    """Everything that a report or a table needs about one retrieval task.

    Attributes:
        task: the task's name.
        texts: M distinct captions, in order of first appearance.
        text_embeds: (M, E) float32, unit length.
        pairs: (P, 2) int64, rows (image, text) that belong together.
        image_ranks: (N,) int64, wrong texts before the best right one, per image that has a caption.
        text_ranks: (M,) int64, wrong images before the best right one, per text.
        unreadable: images that could not be decoded; they count as wrong, and are never retrieved.
        uncaptioned: images without a caption, in a source that other tasks share; they are no part of N.
        caption_ranks: (N,) of images and (Q,) of captions where every one of the Q captions is a query and an
            item by itself; None where all are distinct, for these are the ranks above then.
    """

    task: str
    texts: tuple[str, ...]
    text_embeds: Floats
    pairs: Ints
    image_ranks: Ints
    text_ranks: Ints
    unreadable: int
    uncaptioned: int = 0
    caption_ranks: tuple[Ints, Ints] | None = None

    def metrics(self) -> list[Metric]:
        """List recall at 1, 5 and 10 and the median rank both ways, and what was unreadable.

        Recalls are in [0, 1] with 95 % intervals; ranks count from 1.
        """
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
    """Find texts of images and images of texts; the value is the mean of recall at 1 both ways.

    Raises:
        DataError: the source has no captions.
    """
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
    """List distinct captions and who has them.

    Args:
        captions: the captions of each of N images.

    Returns:
        M texts in order of first appearance, and (P, 2) int64 rows (image, text), one for each caption.

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
    """Rank with every caption as a query and an item of its own; None where no two are equal.

    Args:
        image_embeds: (N, E).
        text_embeds: (M, E) of the distinct texts.
        pairs: (Q, 2) rows (image, text), one for each caption.
        captioned: (N,) bool.
    """
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
