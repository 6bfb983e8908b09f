"""A tree of words as two hash tables: how the queries are laid out for matching, and the look-ups.

A text is words with one space between them; two spaces in a row have a word of no letters between them.

Words have a record each: a run of int32 numbers, which are its value, its length in bytes, and these bytes.
The place of its record names the word. `word_slots` (open addressed) finds it: a uint64 has the upper half of
the word's hash in bits 63..32 and the record's place + 1 below. The hash is a hint: bytes are compared.

Runs of two words and more are nodes of a tree, found by where they come from and their last word, which is
exact: `gram_slots` (open addressed) has two int64 each, so that a look-up touches one line of memory:

    key    node of the run without its last word << 32 | the last word's record + 1; 0 is a free slot
    value  (query + 1) << 2, which is 0 where the run only begins longer queries; plus DUPLICATES and LONGER

The number of a node is its slot; that of a single word is its record behind all slots. Words have the same
values. Where several queries have the same words, `duplicates` has for each the next of them or -1.
"""

from typing import Any

import numpy as np

from diptych.curate.kernels import SPACE, byte_hash, grown, njit

LONGER, DUPLICATES, QUERY_BITS = 1, 2, 2
LENGTH, HEADER = 1, 2
NONE = -1
LOWER_HALF = np.uint64(0xFFFFFFFF)
N32 = np.uint64(32)
COMBINE = np.uint64(0xFF51AFD7ED558CCD)
"""An odd number whose product spreads a key over all bits: a multiplier of MurmurHash3's finaliser."""

BATCH = 1024
"""Words that are walked together. Nearly every look-up waits for memory, and these waits overlap."""


@njit(cache=True, nogil=True)
def cut_words(data: Any, start: Any, end: Any, words: Any, count: int) -> int:
    """Write where the words of a text start and end, and their hashes, behind others; return how many now."""
    starts, ends, hashes = words
    begin = start
    for place in range(start, end + 1):
        if place == end or data[place] == SPACE:
            starts[count], ends[count], hashes[count] = begin, place, byte_hash(data, begin, place)
            count, begin = count + 1, place + 1
    return count


@njit(cache=True, nogil=True)
def _holds(numbers: Any, letters: Any, record: Any, data: Any, start: Any, end: Any) -> Any:
    """Tell whether some bytes are exactly those of a word's record."""
    if numbers[record + LENGTH] != end - start:
        return False
    begin = 4 * (record + HEADER)
    for place in range(end - start):  # noqa: SIM110 — numba compiles no generators inside all()
        if letters[begin + place] != data[start + place]:
            return False
    return True


@njit(cache=True, nogil=True)
def word_record(slots: Any, numbers: Any, letters: Any, text: Any, hash_: Any) -> Any:
    """Return the record of a word, or -1, and the slot where the search ended."""
    data, start, end = text
    mask, place = len(slots) - 1, np.int64(hash_ & LOWER_HALF)
    while True:
        place &= mask
        slot = slots[place]
        if slot == 0:
            return NONE, place
        record = np.int64(slot & LOWER_HALF) - 1
        if slot >> N32 == hash_ >> N32 and _holds(numbers, letters, record, data, start, end):
            return record, place
        place += 1


@njit(cache=True, nogil=True)
def home_of(key: Any, mask: Any) -> Any:
    """Return the slot at which the search for a key begins."""
    state = np.uint64(key) * COMBINE
    return np.int64(state >> N32) & mask


@njit(cache=True, nogil=True)
def node_of(slots: Any, key: Any, place: Any) -> Any:
    """Return the slot that a key has, or the free one where it would go."""
    mask = len(slots) // 2 - 1
    while slots[2 * place] != key and slots[2 * place] != 0:
        place = (place + 1) & mask
    return place


@njit(cache=True, nogil=True)
def token_ids(data: Any, offsets: Any, held: Any, slots: Any) -> Any:
    """Write a record of every word of the queries that belong into the tree, and find it a slot.

    Args:
        data: uint8, the queries' bytes.
        offsets: (Q + 1,) int64.
        held: (Q,) bool: which of them do.
        slots: (2^k,) uint64 of zeros, more than there are words.

    Returns:
        int32 numbers, and how many different words there are.
    """
    numbers, size, known = np.zeros(1024, np.int32), 0, 0
    words = word_scratch(offsets)
    for query in np.flatnonzero(held):
        count = cut_words(data, offsets[query], offsets[query + 1], words, 0)
        for place in range(count):
            start, end, hash_ = words[0][place], words[1][place], words[2][place]
            letters = numbers.view(np.uint8)
            record, slot = word_record(slots, numbers, letters, (data, start, end), hash_)
            if record != NONE:
                continue
            slots[slot] = (hash_ & ~LOWER_HALF) | np.uint64(size + 1)
            following = size + HEADER + (end - start + 3) // 4
            numbers = grown(numbers, following)
            numbers[size:following] = 0
            numbers[size + LENGTH] = end - start
            numbers.view(np.uint8)[4 * (size + HEADER) : 4 * (size + HEADER) + end - start] = data[start:end]
            size, known = following, known + 1
    return numbers[:size].copy(), known


@njit(cache=True, nogil=True)
def word_scratch(offsets: Any) -> Any:
    """Return buffers for the words of some texts: of the longest one, and of BATCH words."""
    longest = BATCH
    for row in range(len(offsets) - 1):
        longest = max(longest, BATCH + offsets[row + 1] - offsets[row] + 2)
    return np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.uint64)


@njit(cache=True, nogil=True)
def _named(value: Any, query: Any, duplicates: Any) -> Any:
    """Return the value of a node that is a query, and link the query with those that were there before."""
    before = (value >> QUERY_BITS) - 1
    duplicates[query] = before
    return (query + 1) << QUERY_BITS | (DUPLICATES if before >= 0 else 0) | (value & LONGER)


@njit(cache=True, nogil=True)
def inserted(data: Any, offsets: Any, held: Any, words: Any, slots: Any, duplicates: Any) -> int:
    """Grow the tree of queries.

    Args:
        data: uint8, the queries' bytes.
        offsets: (Q + 1,) int64.
        held: (Q,) bool: which queries belong into it.
        words: `word_slots` and numbers, see `token_ids`; values are written here.
        slots: (2^k · 2,) int64 of zeros, more than there are runs.
        duplicates: (Q,) int32, written here.

    Returns:
        How many slots are in use.
    """
    word_slots, numbers = words
    letters, mask, used = numbers.view(np.uint8), len(slots) // 2 - 1, 0
    scratch = word_scratch(offsets)
    for query in np.flatnonzero(held):
        count, node = cut_words(data, offsets[query], offsets[query + 1], scratch, 0), 0
        for place in range(count):
            text = data, scratch[0][place], scratch[1][place]
            record, _ = word_record(word_slots, numbers, letters, text, scratch[2][place])
            last = place == count - 1
            if place == 0:
                node = mask + 1 + record
                value = numbers[record]
                numbers[record] = _named(value, query, duplicates) if last else value | LONGER
                continue
            key = node << 32 | (record + 1)
            node = node_of(slots, key, home_of(key, mask))
            used += slots[2 * node] == 0
            slots[2 * node] = key
            value = slots[2 * node + 1]
            slots[2 * node + 1] = _named(value, query, duplicates) if last else value | LONGER
    return used
