"""Find copies of captions by the words they share, and of anything by the cosine of its embeddings.

Reads: captions, signatures or embeddings in memory. Writes: nothing.
Source: Broder 1997, "On the resemblance and containment of documents" (MinHash); Abbas et al. 2023,
"SemDeDup" (embeddings).
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.core.errors import ArrayError
from diptych.core.seeds import numpy_rng
from diptych.curate.dedup import DEFAULT_SETTINGS, DedupSettings
from diptych.curate.dedup_groups import Bools, Rows, Words64, buckets, in_old_order, rows_by_key, stars
from diptych.curate.dedup_kernels import MULTIPLIER, join_rows, join_signatures, min_hashes
from diptych.curate.words import normalized_column

Signatures = NDArray[np.uint32]

MIN_HASHES, BANDS = 64, 16
"""Captions with a Jaccard similarity of 0.8 share a band of four with 99.98 %, those of 0.3 with 12 %."""

WORDLESS = 2**32 - 1
"""Fills the signature of a caption without words."""

CHUNK = 4096
"""Embeddings are compared in squares of this side: 64 MiB of cosines at a time."""


def caption_signatures(
    captions: pa.Array | pa.ChunkedArray, *, settings: DedupSettings = DEFAULT_SETTINGS
) -> Signatures:
    """Take the MinHash signatures of a column of captions.

    Returns:
        (N, MIN_HASHES) uint32: the share of equal places of two rows estimates the Jaccard similarity of
        their shingles within about 0.06. All ones for a caption without words.

    >>> a, b, c = caption_signatures(pa.array(["A red dog runs.", "a RED dog, runs", "two green cats"]))
    >>> float((a == b).mean()), float((a == c).mean())
    (1.0, 0.0)
    """
    rng = numpy_rng(0, "minhash")
    multipliers, addends = (rng.integers(0, 2**64, MIN_HASHES, np.uint64, endpoint=False) for _ in range(2))
    data, offsets = normalized_column(captions)
    found: Signatures = min_hashes(data, offsets, multipliers | np.uint64(1), addends, settings.shingle_words)
    return found


def caption_groups(
    signatures: Signatures,
    *,
    settings: DedupSettings = DEFAULT_SETTINGS,
    keys: pa.Array | pa.ChunkedArray | None = None,
) -> Rows:
    """Group captions that say nearly the same.

    Args:
        signatures: (N, MIN_HASHES) of `caption_signatures`; captions without words are copies of nothing.
        settings: what counts as a copy.
        keys: as for `duplicate_groups`.

    Returns:
        (N,) int64, the row that stays for each row.
    """
    order = rows_by_key(keys, len(signatures))
    ordered = np.ascontiguousarray(signatures[order])
    least = int(np.ceil(settings.min_caption_similarity * MIN_HASHES - 1e-9))
    parents = np.arange(len(ordered))
    worded = np.flatnonzero((ordered != np.uint32(WORDLESS)).any(axis=1))
    width = MIN_HASHES // BANDS
    for band in range(BANDS):
        places = np.ascontiguousarray(ordered[worded, band * width : (band + 1) * width])
        bucket = buckets(_mixed(places.astype(np.uint64)), worded)
        join_signatures(*bucket, ordered, parents, least)

    def alike(one: int, others: Rows) -> Bools:
        found: Bools = (ordered[others] == ordered[one]).sum(axis=1) >= least
        return found

    return in_old_order(stars(parents, alike), order)


def embedding_groups(
    embeds: NDArray[np.float32],
    *,
    settings: DedupSettings = DEFAULT_SETTINGS,
    keys: pa.Array | pa.ChunkedArray | None = None,
) -> Rows:
    """Group pictures or texts by the cosine of their embeddings; every pair is compared.

    Args:
        embeds: (N, E) float32, unit length; a row of NaN is a copy of nothing.
        settings: what counts as a copy.
        keys: as for `duplicate_groups`.

    Returns:
        (N,) int64, the row that stays for each row.

    Raises:
        ArrayError: not a matrix.

    >>> embedding_groups(np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)).tolist()
    [0, 1, 0]
    """
    if embeds.ndim != 2:
        raise ArrayError("embeddings are a matrix", found=embeds.shape, expected="(N, E)")
    order = rows_by_key(keys, len(embeds))
    ordered = embeds[order]
    parents = np.arange(len(ordered))
    for top in range(0, len(ordered), CHUNK):
        for left in range(top, len(ordered), CHUNK):
            near = ordered[top : top + CHUNK] @ ordered[left : left + CHUNK].T >= settings.min_cosine
            near = np.triu(near, 1) if left == top else near
            for one, other in zip(*np.nonzero(near), strict=True):
                join_rows(parents, int(one) + top, int(other) + left)

    def alike(one: int, others: Rows) -> Bools:
        found: Bools = ordered[others] @ ordered[one] >= settings.min_cosine
        return found

    return in_old_order(stars(parents, alike), order)


def _mixed(places: Words64) -> Words64:
    """Fold (N, W) numbers of 32 bits into one of 64 bits each."""
    mixed = np.zeros(len(places), np.uint64)
    for column in places.T:
        mixed = (mixed ^ column) * MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
    return mixed
