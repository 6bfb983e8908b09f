"""Block list of images, and MinHash signatures of captions; near copies of images are in `data.near_copies`.

Source: Broder 1997, "On the resemblance and containment of documents".
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.core.checks import Bools
from diptych.core.errors import DataError, EnvironmentFault
from diptych.core.files.reading import read_text
from diptych.core.seeds import numpy_rng
from diptych.curate.words import normalized_column
from diptych.data.near_copies.fingerprints import hashes_of
from diptych.data.near_copies.groups import DEFAULT_SETTINGS, DedupSettings, Words64
from diptych.data.near_copies.kernels import min_hashes

Signatures = NDArray[np.uint32]

SHA256_DIGITS, HASH_DIGITS = 64, 16
MIN_HASHES = 64


class BlockedImages(NamedTuple):
    """SHA-256 of files in hexadecimal, and (K,) perceptual hashes of whole images."""

    sha256: frozenset[str]
    hashes: Words64


def read_blocked_images(path: str | Path) -> BlockedImages:
    """Read a block list: a SHA-256 (64 hexadecimal digits) or perceptual hash (16) a line; # is a remark.

    DataError: a line is neither; a list that is read in part protects in part.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault("cannot read the block list", where=path, found=str(error)) from error
    digests: dict[int, list[str]] = {SHA256_DIGITS: [], HASH_DIGITS: []}
    for number, line in enumerate(lines, start=1):
        word = line.partition("#")[0].strip().lower()
        if not word:
            continue
        if len(word) not in digests or set(word) - set("0123456789abcdef"):
            what, fix = "a line of the block list is no hash", "correct the line, or put # before it"
            expected = f"{SHA256_DIGITS} or {HASH_DIGITS} hexadecimal digits"
            raise DataError(what, where=f"{path}: line {number}", found=word[:80], expected=expected, fix=fix)
        digests[len(word)].append(word)
    hashes = np.array([int(word, 16) for word in digests[HASH_DIGITS]], np.uint64)
    return BlockedImages(frozenset(digests[SHA256_DIGITS]), hashes)


def blocked_rows(
    fingerprints: pa.Table, blocked: BlockedImages, *, settings: DedupSettings = DEFAULT_SETTINGS
) -> Bools:
    """Return (N,) bool: which rows of `FINGERPRINTS` a block list names."""
    digests = fingerprints["sha256"].to_pylist()
    named = np.array([digest is not None and digest.hex() in blocked.sha256 for digest in digests], np.bool_)
    hashes = hashes_of(fingerprints)
    rows, _ = np.nonzero(hashes)  # an image without structure has none
    hashes = hashes[hashes != 0]
    for blocked_hash in blocked.hashes:
        named[rows[np.bitwise_count(hashes ^ blocked_hash) <= settings.blocked_bits]] = True
    return named


def caption_signatures(
    captions: pa.Array | pa.ChunkedArray, *, settings: DedupSettings = DEFAULT_SETTINGS
) -> Signatures:
    """Return (N, MIN_HASHES) uint32 MinHash signatures of (N,) captions; all ones where there are no words.

    The share of equal places of two rows estimates the Jaccard similarity of their shingles within 0.06.

    >>> a, b, c = caption_signatures(pa.array(["A red dog runs.", "a RED dog, runs", "two green cats"]))
    >>> float((a == b).mean()), float((a == c).mean())
    (1.0, 0.0)
    """
    rng = numpy_rng(0, "minhash")
    multipliers, addends = (rng.integers(0, 2**64, MIN_HASHES, np.uint64, endpoint=False) for _ in range(2))
    data, offsets = normalized_column(captions)
    odd = multipliers | np.uint64(1)
    signatures: Signatures = min_hashes(data, offsets, odd, addends, settings.shingle_words)
    return signatures
