"""Turn pictures and texts into rows of unit length.

Pictures are decoded and cut to the evaluation size in a few threads while the model works; texts are
de-duplicated and bucketed by length, so that a thousand prompts are a handful of batches and no padding is
computed.

An unreadable picture keeps its place as a row of NaN and is counted by reason: whoever computes a share later
cannot lose it from the denominator by accident.

Reads: the model's own preprocessing and tokenizer. Writes: nothing.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import BadSampleError
from diptych.core.records import Counts, Field
from diptych.data.images import Preprocess, evaluation_pixels, read_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

    from diptych.data.sources import Source
    from diptych.models.model import Model

Floats = NDArray[np.float32]
Precision = Literal["float32", "bfloat16"]

IMAGE_BATCH = 128
TEXT_BATCH = 512
"""Rows per step: large enough that the matrices are busy, small enough for a laptop at 224 px."""

BATCHES_AHEAD = 2
"""Batches that are decoded while one is computed: more only costs memory."""


@dataclass(frozen=True, slots=True)
class EmbeddedPairs:
    """A source after its pictures went through the image tower, in the source's order.

    Attributes:
        keys: N sample keys.
        image_embeds: (N, E) float32, unit length; a row of NaN is an unreadable picture.
        captions: the captions of each of the N pairs.
        fields: the other columns of each of the N pairs.
        counts: what was kept and dropped; an unreadable picture is dropped here, yet keeps its row.
    """

    keys: tuple[str, ...]
    image_embeds: Floats
    captions: tuple[tuple[str, ...], ...]
    fields: tuple[Mapping[str, Field], ...]
    counts: Counts


def embed_images(
    model: "Model",
    images: "Iterable[Image | bytes]",
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int = 2,
    precision: Precision = "float32",
    counts: Counts | None = None,
) -> Floats:
    """Embed pictures with the evaluation transform.

    Args:
        model: the model; its mode (training or not) is left as it is.
        images: N decoded pictures or encoded files, read once and in order.
        batch_size: pictures per step.
        workers: decoding threads.
        precision: what the tower computes in; rows are normalised in float32 either way.
        counts: receives one kept or dropped sample per picture.

    Returns:
        (N, E) float32, unit length, in the order given; a row of NaN where a picture is unreadable.
    """
    batches = image_batches(
        model, images, batch_size=batch_size, workers=workers, precision=precision, counts=counts
    )
    empty = np.empty((0, model.config.embed_dim), dtype=np.float32)
    return np.concatenate([empty, *batches])


def image_batches(
    model: "Model",
    images: "Iterable[Image | bytes]",
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int = 2,
    precision: Precision = "float32",
    counts: Counts | None = None,
) -> Iterator[Floats]:
    """Yield what `embed_images` returns, batch by batch: (batch_size, E) float32, the last one shorter."""
    counts = Counts() if counts is None else counts
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        decoded = _decoded(pool, images, model.preprocess, ahead=batch_size * BATCHES_AHEAD)
        start = 0
        while batch := list(islice(decoded, batch_size)):
            yield _embed_pixels(model, batch, start, precision, counts)
            start += len(batch)


def embed_texts(
    model: "Model", texts: Sequence[str], *, batch_size: int = TEXT_BATCH, precision: Precision = "float32"
) -> Floats:
    """Embed texts, each distinct one once, the short ones with the short ones.

    Args:
        model: the model; its mode (training or not) is left as it is.
        texts: N texts, repeats welcome.
        batch_size: texts per step.
        precision: what the tower computes in; rows are normalised in float32 either way.

    Returns:
        (N, E) float32, unit length, in the order given; equal texts have bit-equal rows.
    """
    distinct = list(dict.fromkeys(texts))
    embeds = np.empty((len(distinct), model.config.embed_dim), dtype=np.float32)
    if not distinct:
        return embeds
    tokens = model.tokenizer.tokens(distinct)
    lengths = (tokens == model.config.text.end_id).argmax(axis=1) + 1
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        embeds[rows] = model.text_rows(tokens[rows, : lengths[rows].max()], precision)
    place = {text: row for row, text in enumerate(distinct)}
    return embeds[[place[text] for text in texts]]


def embed_pairs(
    model: "Model",
    source: "Source",
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int = 2,
    precision: Precision = "float32",
) -> EmbeddedPairs:
    """Embed every picture of a source, and keep its keys, captions and columns beside the rows.

    Pictures pass through; only captions and columns stay in memory.
    """
    counts = Counts()
    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    fields: list[Mapping[str, Field]] = []

    def pictures() -> Iterator[bytes]:
        for pair in source.pairs(counts):
            keys.append(pair.key)
            captions.append(pair.captions)
            fields.append(pair.fields)
            yield pair.image

    image_embeds = embed_images(
        model, pictures(), batch_size=batch_size, workers=workers, precision=precision, counts=counts
    )
    return EmbeddedPairs(tuple(keys), image_embeds, tuple(captions), tuple(fields), counts)


def _decoded(
    pool: ThreadPoolExecutor, images: "Iterable[Image | bytes]", preprocess: Preprocess, *, ahead: int
) -> Iterator[NDArray[np.uint8] | BadSampleError]:
    """Yield pixels or the reason there are none, in order, with at most `ahead` pictures in flight."""
    waiting: deque[Future[NDArray[np.uint8] | BadSampleError]] = deque()
    for image in images:
        waiting.append(pool.submit(_pixels, image, preprocess))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _pixels(image: "Image | bytes", preprocess: Preprocess) -> NDArray[np.uint8] | BadSampleError:
    try:
        if isinstance(image, bytes):
            return read_pixels(image, preprocess)
        return evaluation_pixels(image, preprocess)
    except BadSampleError as error:
        return error


def _embed_pixels(
    model: "Model",
    batch: Sequence[NDArray[np.uint8] | BadSampleError],
    start: int,
    precision: Precision,
    counts: Counts,
) -> Floats:
    """Embed one batch whose first picture is number `start`; count each picture of it."""
    embeds = np.full((len(batch), model.config.embed_dim), np.nan, dtype=np.float32)
    readable: list[int] = []
    pictures: list[NDArray[np.uint8]] = []
    for row, pixels in enumerate(batch):
        if isinstance(pixels, BadSampleError):
            counts.drop(pixels.reason, where=f"image {start + row}")
            continue
        counts.keep()
        readable.append(row)
        pictures.append(pixels)
    if pictures:
        embeds[readable] = model.image_rows(np.stack(pictures), precision)
    return embeds
