"""A source's images as embeddings, with keys, captions and columns beside the rows.

Reads: the source. Writes: nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diptych.core.checks import Floats
from diptych.core.records import Counts, Field, Pair
from diptych.models.encode import IMAGE_BATCH, EncodeSettings, Precision, encode_images

if TYPE_CHECKING:
    from diptych.data.sources.open import Source
    from diptych.models.model import Model


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


def embed_pairs(
    model: "Model",
    source: "Source",
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int = 2,
    precision: Precision = "float32",
) -> EmbeddedPairs:
    """Embed every image of a source; images pass through, captions and columns stay in memory."""
    counts = Counts()
    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    fields: list[Mapping[str, Field]] = []

    def pairs() -> Iterator[Pair]:
        for pair in source.pairs(counts):
            keys.append(pair.key)
            captions.append(pair.captions)
            fields.append(pair.fields)
            yield pair

    settings = EncodeSettings(precision, workers=workers)
    image_embeds = encode_images(model, pairs(), batch_size=batch_size, settings=settings, counts=counts)
    return EmbeddedPairs(tuple(keys), image_embeds, tuple(captions), tuple(fields), counts)
