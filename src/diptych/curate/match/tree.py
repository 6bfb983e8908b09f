"""A tree of words as two hash tables, and the walk of captions through it, many words at a time.

A text is words with one space between them; two spaces in a row have a word of no letters between them.

A word has a record of int32 numbers: its value, its length in bytes, and these bytes. The record's position
names the word. `word_slots` (open addressed) finds it: a uint64 has the upper half of the word's hash in bits
63..32 and the record's position + 1 below. The hash is a hint: bytes are compared.

Runs of two words and more are nodes of a tree, found by where they come from and their last word, which is
exact: `gram_slots` (open addressed) has two int64 each, so that a look-up touches one line of memory:

    key    node of the run without its last word << 32 | the last word's record + 1; 0 is a free slot
    value  (query + 1) << 2, which is 0 where the run only begins longer queries; plus DUPLICATES and LONGER

The number of a node is its slot; that of a single word is its record behind all slots. Words have the same
values. Where several queries have the same words, `duplicates` (Q,) has for each the next of them or -1.

Captions are walked in blocks of some BATCH words. Nearly every look-up waits for memory, so every step is a
loop that asks memory for all that it needs before the next loop looks at it: these waits overlap.
"""

from typing import Any

import numpy as np

from diptych.curate.kernels import SPACE, byte_hash, grown, njit

LONGER, DUPLICATES, QUERY_BITS = 1, 2, 2
LENGTH, HEADER = 1, 2
NONE = -1
LOWER_HALF = np.uint64(0xFFFFFFFF)
N32 = np.uint64(32)
# An odd number whose product spreads a key over all bits: a multiplier of MurmurHash3's finalizer.
COMBINE = np.uint64(0xFF51AFD7ED558CCD)
BATCH = 1024


@njit(cache=True, nogil=True)
def _cut_words(data: Any, start: Any, end: Any, words: Any, count: int) -> int:
    """Write where the words of a text start and end, and their hashes, behind others; return how many now."""
    starts, ends, hashes = words
    begin = start
    for at in range(start, end + 1):
        if at == end or data[at] == SPACE:
            starts[count], ends[count], hashes[count] = begin, at, byte_hash(data, begin, at)
            count, begin = count + 1, at + 1
    return count


@njit(cache=True, nogil=True)
def _holds(numbers: Any, letters: Any, record: Any, data: Any, start: Any, end: Any) -> Any:
    """Tell whether some bytes are exactly those of a word's record."""
    if numbers[record + LENGTH] != end - start:
        return False
    begin = 4 * (record + HEADER)
    for at in range(end - start):  # noqa: SIM110 — numba compiles no generators inside all()
        if letters[begin + at] != data[start + at]:
            return False
    return True


@njit(cache=True, nogil=True)
def _word_record(slots: Any, numbers: Any, letters: Any, text: Any, hash_: Any) -> Any:
    """Return the record of a word, or -1, and the slot where the search ended."""
    data, start, end = text
    mask, at = len(slots) - 1, np.int64(hash_ & LOWER_HALF)
    while True:
        at &= mask
        slot = slots[at]
        if slot == 0:
            return NONE, at
        record = np.int64(slot & LOWER_HALF) - 1
        if slot >> N32 == hash_ >> N32 and _holds(numbers, letters, record, data, start, end):
            return record, at
        at += 1


@njit(cache=True, nogil=True)
def _home_of(key: Any, mask: Any) -> Any:
    """Return the slot at which the search for a key begins."""
    state = np.uint64(key) * COMBINE
    return np.int64(state >> N32) & mask


@njit(cache=True, nogil=True)
def _node_of(slots: Any, key: Any, at: Any) -> Any:
    """Return the slot that a key has, or the free one where it would go."""
    mask = len(slots) // 2 - 1
    while slots[2 * at] != key and slots[2 * at] != 0:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def _word_scratch(offsets: Any) -> Any:
    """Return buffers for the words of some texts: of the longest one, and of BATCH words."""
    longest = BATCH
    for row in range(len(offsets) - 1):
        longest = max(longest, BATCH + offsets[row + 1] - offsets[row] + 2)
    return np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.uint64)


@njit(cache=True, nogil=True)
def _recorded(slots: Any, numbers: Any, size: Any, text: Any, hash_: Any) -> Any:
    """Return the record of a word, which is made if there is none; all records, and their size."""
    record, slot = _word_record(slots, numbers, numbers.view(np.uint8), text, hash_)
    if record != NONE:
        return record, numbers, size
    data, start, end = text
    slots[slot] = (hash_ & ~LOWER_HALF) | np.uint64(size + 1)
    following = size + HEADER + (end - start + 3) // 4
    numbers = grown(numbers, following)
    numbers[size:following] = 0
    numbers[size + LENGTH] = end - start
    numbers.view(np.uint8)[4 * (size + HEADER) : 4 * (size + HEADER) + end - start] = data[start:end]
    return size, numbers, following


@njit(cache=True, nogil=True)
def _named(value: Any, query: Any, duplicates: Any) -> Any:
    """Return the value of a node that is a query, and link the query with those that were there before."""
    before = (value >> QUERY_BITS) - 1
    duplicates[query] = before
    return (query + 1) << QUERY_BITS | (DUPLICATES if before >= 0 else 0) | (value & LONGER)


@njit(cache=True, nogil=True)
def inserted(data: Any, offsets: Any, inside: Any, word_slots: Any, slots: Any, duplicates: Any) -> Any:
    """Grow the tree of the queries that are `inside` it (Q,): write their words and runs, and `duplicates`.

    Both kinds of slots are zeros, more than there are words and runs. Returns the records of the words, how
    many words there are, and how many slots of runs are in use.
    """
    numbers, size, known, used = np.zeros(1024, np.int32), 0, 0, 0
    mask, scratch = len(slots) // 2 - 1, _word_scratch(offsets)
    for query in np.flatnonzero(inside):
        count, node = _cut_words(data, offsets[query], offsets[query + 1], scratch, 0), 0
        for at in range(count):
            text, before, last = (data, scratch[0][at], scratch[1][at]), size, at == count - 1
            record, numbers, size = _recorded(word_slots, numbers, size, text, scratch[2][at])
            known += size > before
            if at == 0:
                node = mask + 1 + record
                value = numbers[record]
                numbers[record] = _named(value, query, duplicates) if last else value | LONGER
                continue
            key = node << 32 | (record + 1)
            node = _node_of(slots, key, _home_of(key, mask))
            used += slots[2 * node] == 0
            slots[2 * node] = key
            value = slots[2 * node + 1]
            slots[2 * node + 1] = _named(value, query, duplicates) if last else value | LONGER
    return numbers[:size].copy(), known, used


@njit(cache=True, nogil=True)
def _recognized(data: Any, words: Any, count: int, table: Any, known: Any) -> None:
    """Find the records of some words; all their slots and then all their records are asked for at once."""
    starts, ends, hashes = words
    slots, numbers, letters, seen = table
    mask = np.uint64(len(slots) - 1)
    for at in range(count):
        seen[at] = slots[np.int64(hashes[at] & mask)]
    for at in range(count):
        record = np.int64(seen[at] & LOWER_HALF) - 1
        known[at] = numbers[record + LENGTH] if record >= 0 else 0
    for at in range(count):
        known[at] = NONE
        if ends[at] >= starts[at]:
            text = data, starts[at], ends[at]
            known[at], _ = _word_record(slots, numbers, letters, text, hashes[at])


@njit(cache=True, nogil=True)
def _step(slots: Any, known: Any, level: int, walk: Any, active: int) -> None:
    """Lengthen runs by a word, and ask for all their slots at once."""
    firsts, nodes, keys, seen = walk
    mask = len(slots) // 2 - 1
    for at in range(active):
        keys[at] = nodes[at] << 32 | (known[firsts[at] + level] + 1)
        nodes[at] = _home_of(keys[at], mask)
    for at in range(active):
        seen[at] = slots[2 * nodes[at]]


@njit(cache=True, nogil=True)
def _with_duplicates(hits: Any, size: int, duplicates: Any) -> Any:
    """Write the queries with the same words behind those that were hit."""
    positions, ids = hits
    for hit in range(size):
        query = duplicates[ids[hit]]
        while query != NONE:
            positions, ids = grown(positions, size), grown(ids, size)
            positions[size], ids[size] = positions[hit], query
            size, query = size + 1, duplicates[query]
    return (positions, ids), size


@njit(cache=True, nogil=True)
def _walked(known: Any, count: int, tree: Any, walk: Any, hits: Any) -> Any:
    """Find the queries among some words: those of one word, of two, and so on while longer ones begin so.

    Behind the last word of each text stands an unknown one, so that no run goes on into the next text.
    """
    numbers, slots, duplicates = tree
    firsts, nodes, keys, seen = walk
    positions, ids = grown(hits[0], count), grown(hits[1], count)
    level, roots = 1, len(slots) // 2
    active: Any = 0
    size: Any = 0
    kinds: Any = 0
    for first in range(count):
        word = known[first]
        value = np.int64(numbers[word]) if word != NONE else np.int64(0)
        positions[size], ids[size] = first, (value >> QUERY_BITS) - 1
        size += value >= 1 << QUERY_BITS
        firsts[active], nodes[active] = first, roots + word
        active += (value & LONGER) & (known[first + 1] != NONE)
        kinds |= value
    while active > 0:
        _step(slots, known, level, walk, active)
        positions, ids = grown(positions, size + active), grown(ids, size + active)
        begun, active = active, 0
        for at in range(begun):
            first, node = firsts[at], nodes[at]
            if seen[at] != keys[at]:
                node = _node_of(slots, keys[at], node)
            value = slots[2 * node + 1]  # 0 in a free slot
            positions[size], ids[size] = first, (value >> QUERY_BITS) - 1
            size += value >= 1 << QUERY_BITS
            firsts[active], nodes[active] = first, node
            active += (value & LONGER) & (known[first + level + 1] != NONE)
            kinds |= value
        level += 1
    if kinds & DUPLICATES:
        return _with_duplicates((positions, ids), size, duplicates)
    return (positions, ids), size


@njit(cache=True, nogil=True)
def matched(data: Any, offsets: Any, words: Any, slots: Any, duplicates: Any) -> Any:
    """Return int64 `caption << 32 | query`, unsorted and repeated, for every query in every caption.

    (N + 1,) offsets into the bytes separate the captions; the tree is that of `inserted`.
    """
    word_slots, numbers = words
    scratch = _word_scratch(offsets)
    most = len(scratch[0])
    known, texts = np.empty(most, np.int64), np.empty(most, np.int64)
    table = word_slots, numbers, numbers.view(np.uint8), np.empty(most, np.uint64)
    rows = np.empty((4, most), np.int64)
    walk = rows[0], rows[1], rows[2], rows[3]
    hits = np.empty(2 * BATCH, np.int64), np.empty(2 * BATCH, np.int64)
    keys, end, row = np.empty(4 * len(offsets), np.int64), 0, 0
    while row < len(offsets) - 1:
        count = 0
        while row < len(offsets) - 1 and count < BATCH:
            following = _cut_words(data, offsets[row], offsets[row + 1], scratch, count)
            texts[count : following + 1] = row << 32
            scratch[0][following], scratch[1][following], scratch[2][following] = 0, NONE, 0
            count, row = following + 1, row + 1
        _recognized(data, scratch, count, table, known)
        hits, size = _walked(known, count, (numbers, slots, duplicates), walk, hits)
        if end + size > len(keys):
            keys = np.concatenate((keys, np.empty(end + size, np.int64)))
        positions, ids = hits
        for hit in range(size):
            keys[end + hit] = texts[positions[hit]] | ids[hit]
        end += size
    return keys[:end]
