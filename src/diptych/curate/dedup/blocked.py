"""Images that must not stay: a list of digests of files and of perceptual hashes.

Reads: the list. Writes: nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from diptych.core.checks import Bools
from diptych.core.errors import DataError, EnvironmentFault
from diptych.core.files.text import read_text
from diptych.data.near_copies.fingerprints import hashes_of
from diptych.data.near_copies.groups import DEFAULT_SETTINGS, DedupSettings
from diptych.data.near_copies.kernels import within_bits
from diptych.data.near_copies.stars import Words64

SHA256_DIGITS, HASH_DIGITS = 64, 16


@dataclass(frozen=True, slots=True)
class BlockedImages:
    """Images that must not stay: digests of files, and perceptual hashes.

    Attributes:
        sha256: in hexadecimal.
        hashes: (K,) uint64 of whole images.
    """

    sha256: frozenset[str]
    hashes: Words64


def read_blocked_images(path: str | Path) -> BlockedImages:
    """Read a block list: a SHA-256 (64 hexadecimal digits) or perceptual hash (16) a line; # is a remark.

    Raises:
        EnvironmentFault: the file cannot be read.
        DataError: a line is neither; a list that is read in part protects in part.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault("cannot read the block list", where=path, found=str(error)) from error
    found: dict[int, list[str]] = {SHA256_DIGITS: [], HASH_DIGITS: []}
    for number, line in enumerate(lines, start=1):
        word = line.partition("#")[0].strip().lower()
        if not word:
            continue
        if len(word) not in found or set(word) - set("0123456789abcdef"):
            raise DataError(
                "a line of the block list is no hash",
                where=f"{path}: line {number}",
                found=word[:80],
                expected=f"{SHA256_DIGITS} or {HASH_DIGITS} hexadecimal digits",
                fix="correct the line, or put # before it",
            )
        found[len(word)].append(word)
    hashes = np.array([int(word, 16) for word in found[HASH_DIGITS]], np.uint64)
    return BlockedImages(frozenset(found[SHA256_DIGITS]), hashes)


def blocked_rows(
    fingerprints: pa.Table, blocked: BlockedImages, *, settings: DedupSettings = DEFAULT_SETTINGS
) -> Bools:
    """Tell which images a block list names.

    Args:
        fingerprints: (N,) rows of `FINGERPRINTS`.
        blocked: the list.
        settings: how near a perceptual hash has to be.

    Returns:
        (N,) bool.
    """
    digests = (
        value.hex() if value is not None else "" for value in fingerprints.column("sha256").to_pylist()
    )
    named = np.fromiter((digest in blocked.sha256 for digest in digests), np.bool_, len(fingerprints))
    near: Bools = within_bits(hashes_of(fingerprints), blocked.hashes, settings.blocked_bits)
    return named | near
