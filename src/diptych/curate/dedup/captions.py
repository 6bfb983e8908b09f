"""MinHash signatures of captions: how many words two captions share, estimated from a few numbers each.

Reads: captions. Writes: nothing.
Source: Broder 1997, "On the resemblance and containment of documents".
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.core.seeds import numpy_rng
from diptych.curate.words import normalized_column
from diptych.data.near_copies.groups import DEFAULT_SETTINGS, DedupSettings
from diptych.data.near_copies.kernels import min_hashes

Signatures = NDArray[np.uint32]

MIN_HASHES = 64


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
