"""Loops of dedup, compiled by numba: neighbors among hashes, whether two thumbnails show one image, MinHash.

Source: Broder 1997, "On the resemblance and containment of documents" (MinHash); Indyk and Motwani 1998
(bands); Tarjan 1975 (union-find).
"""

from typing import Any

import numpy as np
from numba import njit

from diptych.data.near_copies.fingerprints import THUMBNAIL

WINDOW = 4096  # in a crowded bucket an entry is compared with this many that follow it: time stays linear

WHITE = 255.0
NEARLY_WHITE = 247.0  # where the lighter of two images is as bright, it may have been cut off at white
CLEAR_PIXELS = 16  # fewer pixels than this below white cannot tell how much lighter one image is
MAX_GAIN = 1.6  # a copy is at most so much lighter; beyond it, a black shoe would be a copy of a white one

SHIFTS = 5
SHIFT = 0.02  # an edge may have moved by up to twice this share of a side
INNER = THUMBNAIL - 2
"""The outermost ring of a thumbnail is not compared: its pixels are mixed with what lies beyond an edge."""
HOPELESS = 0.4
"""What is this far from agreeing under the best even frame is not looked at closely; after a round, half."""

STRICT_SIMILARITY = 0.97  # where the chroma does not agree, the luminance has to
CLIPPED_CHROMA = 0.4
"""Lightening that runs into white changes the chroma so far; what agrees less is another image."""
GRAY = 4.0  # root mean square of Cb and Cr about neutral, below which an image counts as gray

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: spreads neighboring numbers (Knuth, volume 3, section 6.4)."""


@njit(cache=True, nogil=True)
def root_of(parents: Any, row: int) -> int:
    """Return the first row of a row's group, and shorten the way there."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@njit(cache=True, nogil=True)
def join_rows(parents: Any, one: int, other: int) -> None:
    """Put two groups together; their first row stays the root."""
    one, other = root_of(parents, one), root_of(parents, other)
    parents[max(one, other)] = min(one, other)


@njit(cache=True, nogil=True)
def differing_bits(one: Any, other: Any) -> int:
    """Count the bits in which two 64-bit numbers differ."""
    bits = one ^ other
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def join_neighbors(
    entries: Any, keys: Any, hashes: Any, thumbnails: Any, sides: Any, parents: Any, limits: Any
) -> None:
    """Join the rows of one table's buckets whose hashes are near and whose thumbnails agree.

    Args:
        entries: (M,) int64, row * W + window, sorted by key and then by itself.
        keys: (M,) the sorted keys; equal ones are a bucket.
        hashes: (N, W) uint64; one of each pair is of the whole image, the first.
        thumbnails: (N, S) uint8.
        sides: (N,) int64; rows of one side are not compared.
        parents: (N,) int64 union-find, changed.
        limits: most differing bits, least agreement of the thumbnails, least agreement of their chroma.
    """
    for place in range(len(entries)):
        for other in range(place + 1, min(len(entries), place + 1 + WINDOW)):
            if keys[other] != keys[place]:
                break
            _join_pair(entries[place], entries[other], hashes, thumbnails, sides, parents, limits)


@njit(cache=True, nogil=True)
def _join_pair(
    entry: int, other_entry: int, hashes: Any, thumbnails: Any, sides: Any, parents: Any, limits: Any
) -> None:
    windows = hashes.shape[1]
    one, window = entry // windows, entry % windows
    other, other_window = other_entry // windows, other_entry % windows
    if (window > 0 and other_window > 0) or sides[one] == sides[other]:
        return
    if differing_bits(hashes[one, window], hashes[other, other_window]) > limits[0]:
        return
    if root_of(parents, one) != root_of(parents, other) and same_image(
        thumbnails[one], thumbnails[other], limits[1], limits[2]
    ):
        join_rows(parents, one, other)


@njit(cache=True, nogil=True)
def resembling(one: int, others: Any, hashes: Any, thumbnails: Any, limits: Any) -> Any:
    """Tell which other rows resemble a row directly: (M,) bool."""
    found = np.zeros(len(others), np.bool_)
    for place, other in enumerate(others):
        bits = differing_bits(hashes[one, 0], hashes[other, 0])
        for window in range(1, hashes.shape[1]):
            bits = min(bits, differing_bits(hashes[one, 0], hashes[other, window]))
            bits = min(bits, differing_bits(hashes[one, window], hashes[other, 0]))
        near = bits <= limits[0]
        found[place] = near and same_image(thumbnails[one], thumbnails[other], limits[1], limits[2])
    return found


@njit(cache=True, nogil=True)
def same_image(one: Any, other: Any, similarity: float, chroma: float) -> bool:
    """Decide whether two thumbnails can be of one image: cut, framed, lightened, darkened or made gray.

    Args:
        one: (S,) uint8, luminance, Cb, Cr; so is `other`.
        similarity: least share of the luminance's variance that must be explained.
        chroma: cosine of the chroma below which the luminance is held to `STRICT_SIMILARITY`.
    """
    cosine = _chroma_cosine(one[THUMBNAIL * THUMBNAIL :], other[THUMBNAIL * THUMBNAIL :])
    least = similarity if cosine >= chroma else max(similarity, STRICT_SIMILARITY)
    if cosine < CLIPPED_CHROMA:
        return False
    inner, inset = _framed(one, other)
    outer, outset = _framed(other, one)
    if max(inner, outer) >= least:
        return True
    if max(inner, outer) < least - HOPELESS:
        return False
    return _aligned(one, other, inset, least) or _aligned(other, one, outset, least)


@njit(cache=True, nogil=True)
def _chroma_cosine(one: Any, other: Any) -> float:
    """Return the cosine of two images' chroma about neutral; 1 for two gray ones, the least for one."""
    both, ones, others = 0.0, 0.0, 0.0
    for place in range(len(one)):
        a, b = float(one[place]) - 128, float(other[place]) - 128
        both += a * b
        ones += a * a
        others += b * b
    gray = GRAY * GRAY * len(one)
    if max(ones, others) < gray:
        return 1.0
    if min(ones, others) < gray:
        return CLIPPED_CHROMA
    return float(both / np.sqrt(ones * others))


@njit(cache=True, nogil=True)
def _framed(base: Any, cut: Any) -> Any:
    """Return how well `cut` is explained as `base` without a frame of even width, and the best width."""
    best, inset = -np.inf, 0.0
    for step in range(SHIFTS):
        edge = step * SHIFT / 2
        found = _agreement(base, cut, (edge, 1 - edge, edge, 1 - edge))
        if found > best:
            best, inset = found, edge
    return best, inset


@njit(cache=True, nogil=True)
def _aligned(base: Any, cut: Any, inset: float, enough: float) -> bool:
    """Tell whether moving the edges, across and down in turn, ever more finely, explains `cut`."""
    window = (inset, 1 - inset, inset, 1 - inset)
    best = _agreement(base, cut, window)
    for step in (SHIFT, SHIFT, SHIFT / 2, SHIFT / 2, SHIFT / 4):
        for across in (True, False):
            best, window = _moved(base, cut, window, best, step, across)
        if best >= enough:
            return True
        if best < enough - HOPELESS / 2:
            return False
    return False


@njit(cache=True, nogil=True)
def _moved(base: Any, cut: Any, window: Any, best: float, step: float, across: bool) -> Any:
    """Return the best of the windows whose two edges across or down are moved by a step or not."""
    top, bottom, left, right = window
    for move in range(9):
        low, high = step * (move // 3 - 1), step * (move % 3 - 1)
        moved = (top, bottom, left + low, right + high) if across else (top + low, bottom + high, left, right)
        found = _agreement(base, cut, moved)
        if found > best:
            best, window = found, moved
    return best, window


@njit(cache=True, nogil=True)
def _agreement(base: Any, cut: Any, window: Any) -> float:
    """Return 1 - (squared error / variance) of `cut` against a window of `base`, at the best lightening."""
    top, bottom, left, right = window
    light, dark = np.empty(INNER * INNER), np.empty(INNER * INNER)
    total, squares, moved_total = 0.0, 0.0, 0.0
    for row in range(INNER):
        y = min(max((top + (row + 1.5) / THUMBNAIL * (bottom - top)) * THUMBNAIL - 0.5, 0.0), THUMBNAIL - 1.0)
        above = min(int(y), THUMBNAIL - 2)
        down = y - above
        for column in range(INNER):
            x = (left + (column + 1.5) / THUMBNAIL * (right - left)) * THUMBNAIL - 0.5
            x = min(max(x, 0.0), THUMBNAIL - 1.0)
            before = min(int(x), THUMBNAIL - 2)
            across = x - before
            corner = above * THUMBNAIL + before
            upper = base[corner] * (1 - across) + base[corner + 1] * across
            lower = base[corner + THUMBNAIL] * (1 - across) + base[corner + THUMBNAIL + 1] * across
            place = row * INNER + column
            dark[place] = upper * (1 - down) + lower * down
            light[place] = cut[(row + 1) * THUMBNAIL + column + 1]
            total += light[place]
            squares += light[place] * light[place]
            moved_total += dark[place]
    variance = squares - total * total / len(light)
    if variance <= 0:
        return 0.0
    if total < moved_total:
        dark, light = light, dark
    return 1.0 - _unexplained(dark, light) / variance


@njit(cache=True, nogil=True)
def _unexplained(dark: Any, light: Any) -> float:
    """Return the squared error that is left when the darker pixels are lightened; white stays white."""
    both, squares, clear = 0.0, 0.0, 0
    for place in range(len(dark)):
        if light[place] < NEARLY_WHITE:
            both += dark[place] * light[place]
            squares += dark[place] * dark[place]
            clear += 1
    gain = 1.0
    if clear >= CLEAR_PIXELS and squares > 0:
        gain = min(max(both / squares, 1.0), MAX_GAIN)
    error = 0.0
    for place in range(len(dark)):
        lightened = gain * dark[place]
        if light[place] < NEARLY_WHITE or lightened < NEARLY_WHITE:
            error += (light[place] - min(WHITE, lightened)) ** 2
    return error


@njit(cache=True, nogil=True)
def min_hashes(data: Any, offsets: Any, multipliers: Any, addends: Any, words: int) -> Any:
    """Take the MinHash signature of each text's runs of words; a text with fewer words is one run.

    Args:
        data: uint8, normalized texts, each from its offset to the next.
        offsets: (N + 1,) int64.
        multipliers: (K,) uint64, odd; `addends` as many.
        words: in a run.

    Returns:
        (N, K) uint32; all ones for a text without words.
    """
    signatures = np.full((len(offsets) - 1, len(multipliers)), np.uint32(0xFFFFFFFF), np.uint32)
    recent = np.empty(words, np.uint64)
    for row in range(len(offsets) - 1):
        seen, hashed = 0, np.uint64(0)
        for place in range(offsets[row], offsets[row + 1] + 1):
            if place < offsets[row + 1] and data[place] != ord(" "):
                hashed = (hashed ^ np.uint64(data[place])) * MULTIPLIER
                hashed ^= hashed >> np.uint64(29)
                continue
            recent[seen % words] = hashed
            seen += 1
            hashed = np.uint64(0)
            last = place == offsets[row + 1]
            if offsets[row] < offsets[row + 1] and (seen >= words or last):
                _lower(signatures[row], _run(recent, seen, words), multipliers, addends)
    return signatures


@njit(cache=True, nogil=True)
def _run(recent: Any, seen: int, words: int) -> Any:
    """Hash the last words in their order."""
    mixed = np.uint64(0)
    for word in range(max(0, seen - words), seen):
        mixed = (mixed ^ recent[word % words]) * MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
    return mixed


@njit(cache=True, nogil=True)
def _lower(signature: Any, hashed: Any, multipliers: Any, addends: Any) -> None:
    for place in range(len(signature)):
        value = np.uint32((hashed * multipliers[place] + addends[place]) >> np.uint64(32))
        signature[place] = min(signature[place], value)
