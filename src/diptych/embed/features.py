"""Turn images and texts into rows of unit length.

The work is that of `diptych.models.encode`, with large batches and for unit length.

An unreadable image keeps its place as a row of NaN and is counted by reason: whoever computes a share later
cannot lose it from the denominator by accident.

Reads: the model's own preprocessing and tokenizer. Writes: nothing.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from diptych.core.checks import Floats
from diptych.core.errors import Reason, UsageError
from diptych.core.records import Counts, Field, Pair
from diptych.data.captions import plain
from diptych.data.images.transforms import Mode
from diptych.models.encode import EncodeSettings, Towers, encode_images, encode_texts
from diptych.models.encode import (
    Precision as Precision,
)
from diptych.models.inputs import ImageInput, is_single

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model

IMAGE_BATCH = 128
TEXT_BATCH = 512
"""Rows per step: large enough that the matrices are busy, small enough for a laptop at 224 px."""


@dataclass(frozen=True, slots=True)
class EmbeddedPairs:
    """A source after its images went through the image tower, in the source's order.

    Attributes:
        keys: N sample keys.
        image_embeds: (N, E) float32, unit length; a row of NaN is an unreadable image.
        captions: the captions of each of the N pairs.
        fields: the other columns of each of the N pairs.
        counts: what was kept and dropped; an unreadable image is dropped here, yet keeps its row.
    """

    keys: tuple[str, ...]
    image_embeds: Floats
    captions: tuple[tuple[str, ...], ...]
    fields: tuple[Mapping[str, Field], ...]
    counts: Counts


def embed_images(
    model: Towers,
    images: Iterable[ImageInput | Pair],
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int = 2,
    precision: Precision = "float32",
    preprocessing: Mode | None = None,
    counts: Counts | None = None,
    unit: bool = True,
) -> Floats:
    """Embed images with the evaluation transform.

    Args:
        model: the model, or a part of it that gives other rows; its mode (training or not) is left as it is.
        images: N Pillow images, encoded files, paths or pairs, read once and in order.
        batch_size: images per step.
        workers: decoding threads.
        precision: what the tower computes in; rows are normalised in float32 either way.
        preprocessing: "fast", or "exact" where numbers are compared with published ones (see
            `diptych.data.images.transforms`); None: the model's `bulk_mode`, fast.
        counts: receives one kept or dropped sample per image: where a pair tells its fault, under that.
        unit: scale rows to unit length.

    Returns:
        (N, E) float32, in the order given; a row of NaN where an image is unreadable.
    """
    batches = image_batches(
        model,
        images,
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        preprocessing=preprocessing,
        counts=counts,
        unit=unit,
    )
    empty = np.empty((0, model.config.embed_dim), dtype=np.float32)
    return np.concatenate([empty, *batches])


def image_batches(
    model: Towers,
    images: Iterable[ImageInput | Pair],
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int = 2,
    precision: Precision = "float32",
    preprocessing: Mode | None = None,
    counts: Counts | None = None,
    unit: bool = True,
) -> Iterator[Floats]:
    """Yield what `embed_images` returns, batch by batch: (batch_size, E) float32, the last one shorter.

    Raises:
        UsageError: a single image instead of several, an item that is none, or a batch size below 1.
    """
    if is_single(images):
        raise UsageError("a list of images is needed", found="one image", fix="write [image]")
    counts = Counts() if counts is None else counts
    settings = EncodeSettings(precision, preprocessing, workers=workers)
    origins: deque[tuple[str, Reason | None]] = deque()  # of the images that are read and not yet encoded

    def inputs() -> Iterator[ImageInput]:
        for number, image in enumerate(images):
            if isinstance(image, Pair):
                origins.append((f"{image.key} ({image.path})" if image.path else image.key, image.fault))
                yield image.image
            else:
                origins.append((str(image) if isinstance(image, PathLike) else f"image {number}", None))
                yield image

    for rows, bad in encode_images(model, inputs(), batch_size=batch_size, settings=settings, unit=unit):
        counts.keep(len(rows) - len(bad))
        for row in range(len(rows)):
            where, fault = origins.popleft()
            if row in bad:
                counts.drop(fault or bad[row].reason, plain(where))
        yield rows


def embed_texts(
    model: "Model", texts: Iterable[str], *, batch_size: int = TEXT_BATCH, precision: Precision = "float32"
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
    settings = EncodeSettings(precision)
    return encode_texts(model, texts, batch_size=batch_size, settings=settings, unit=True)


def embed_pairs(
    model: "Model",
    source: "Source",
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int = 2,
    precision: Precision = "float32",
    preprocessing: Mode = "exact",
) -> EmbeddedPairs:
    """Embed every image of a source, and keep its keys, captions and columns beside the rows.

    Images pass through; only captions and columns stay in memory. The pixels are the exact ones by default,
    because scores are made of these rows.
    """
    counts = Counts()
    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    fields: list[Mapping[str, Field]] = []

    def passed() -> Iterator[Pair]:
        for pair in source.pairs(counts):
            keys.append(pair.key)
            captions.append(pair.captions)
            fields.append(pair.fields)
            yield pair

    image_embeds = embed_images(
        model,
        passed(),
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        preprocessing=preprocessing,
        counts=counts,
    )
    return EmbeddedPairs(tuple(keys), image_embeds, tuple(captions), tuple(fields), counts)
