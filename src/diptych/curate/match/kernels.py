"""The walk of captions through the tree of queries (match_tree.py), many words at a time.

Captions go in blocks of some BATCH words. Every step is a loop that asks memory for all that it needs
before the next loop looks at it, for nearly every look-up waits for memory, and these waits overlap.
"""

from typing import Any

import numpy as np

from diptych.curate.kernels import SPACE, grown, njit
from diptych.curate.match.tree import (
    BATCH,
    DUPLICATES,
    LENGTH,
    LONGER,
    LOWER_HALF,
    NONE,
    QUERY_BITS,
    cut_words,
    home_of,
    node_of,
    word_record,
    word_scratch,
)

SHORT = 48
"""A caption rarely has more matches than this, and up to it comparing all with all beats a general sort."""

SPACED_OUT, BLANKS = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
SPACED_OUT[[ord(mark) for mark in ",.;:?!`"]] = True
BLANKS[[ord(blank) for blank in "\t\n\r"]] = True


@njit(cache=True, nogil=True)
def spaced_out(data: Any, offsets: Any) -> Any:
    """Write texts again as MetaCLIP does before it matches: a space on both sides of , . ; : ? ! and `.

    Args:
        data: uint8, the texts' bytes.
        offsets: (N + 1,) int64.

    Returns:
        uint8 bytes and (N + 1,) int64 offsets; tab, line feed and carriage return are spaces.
    """
    size_bound = offsets[-1] - offsets[0] + 1
    for place in range(offsets[0], offsets[-1]):
        size_bound += 2 * SPACED_OUT[data[place]]
    out, out_offsets = np.empty(size_bound, np.uint8), np.zeros(len(offsets), np.int64)
    size = 0
    for row in range(len(offsets) - 1):
        for place in range(offsets[row], offsets[row + 1]):
            byte = data[place]
            around = SPACED_OUT[byte]
            out[size] = SPACE
            out[size + around] = SPACE if BLANKS[byte] else byte
            size += 1 + around
            out[size] = SPACE
            size += around
        out_offsets[row + 1] = size
    return out[:size], out_offsets


@njit(cache=True, nogil=True)
def _recognized(data: Any, words: Any, count: int, table: Any, known: Any) -> None:
    """Find the records of some words; all their slots and then all their records are asked for at once."""
    starts, ends, hashes = words
    slots, numbers, letters, seen = table
    mask = np.uint64(len(slots) - 1)
    for place in range(count):
        seen[place] = slots[np.int64(hashes[place] & mask)]
    for place in range(count):
        record = np.int64(seen[place] & LOWER_HALF) - 1
        known[place] = numbers[record + LENGTH] if record >= 0 else 0
    for place in range(count):
        known[place] = NONE
        if ends[place] >= starts[place]:
            text = data, starts[place], ends[place]
            known[place], _ = word_record(slots, numbers, letters, text, hashes[place])


@njit(cache=True, nogil=True)
def _step(slots: Any, known: Any, level: int, walk: Any, active: int) -> None:
    """Lengthen runs by a word, and ask for all their slots at once."""
    firsts, nodes, keys, seen = walk
    mask = len(slots) // 2 - 1
    for place in range(active):
        keys[place] = nodes[place] << 32 | (known[firsts[place] + level] + 1)
        nodes[place] = home_of(keys[place], mask)
    for place in range(active):
        seen[place] = slots[2 * nodes[place]]


@njit(cache=True, nogil=True)
def _with_duplicates(hits: Any, size: int, duplicates: Any) -> Any:
    """Write the queries with the same words behind those that were found."""
    places, ids = hits
    for hit in range(size):
        query = duplicates[ids[hit]]
        while query != NONE:
            places, ids = grown(places, size), grown(ids, size)
            places[size], ids[size] = places[hit], query
            size, query = size + 1, duplicates[query]
    return (places, ids), size


@njit(cache=True, nogil=True)
def _walked(known: Any, count: int, tree: Any, walk: Any, hits: Any) -> Any:
    """Find the queries among some words: those of one word, of two, and so on while longer ones begin so.

    Behind the last word of each text stands an unknown one, so that no run goes on into the next text.
    """
    numbers, slots, duplicates = tree
    firsts, nodes, keys, seen = walk
    places, ids = grown(hits[0], count), grown(hits[1], count)
    level, roots = 1, len(slots) // 2
    active: Any = 0
    size: Any = 0
    kinds: Any = 0
    for first in range(count):
        word = known[first]
        value = np.int64(numbers[word]) if word != NONE else np.int64(0)
        places[size], ids[size] = first, (value >> QUERY_BITS) - 1
        size += value >= 1 << QUERY_BITS
        firsts[active], nodes[active] = first, roots + word
        active += (value & LONGER) & (known[first + 1] != NONE)
        kinds |= value
    while active > 0:
        _step(slots, known, level, walk, active)
        places, ids = grown(places, size + active), grown(ids, size + active)
        begun, active = active, 0
        for place in range(begun):
            first, node = firsts[place], nodes[place]
            if seen[place] != keys[place]:
                node = node_of(slots, keys[place], node)
            value = slots[2 * node + 1]  # 0 in a free slot
            places[size], ids[size] = first, (value >> QUERY_BITS) - 1
            size += value >= 1 << QUERY_BITS
            firsts[active], nodes[active] = first, node
            active += (value & LONGER) & (known[first + level + 1] != NONE)
            kinds |= value
        level += 1
    if kinds & DUPLICATES:
        return _with_duplicates((places, ids), size, duplicates)
    return (places, ids), size


@njit(cache=True, nogil=True)
def _unique(ids: Any, begin: Any, end: Any, scratch: Any) -> Any:
    """Sort the ids from `begin` to `end` and drop repetitions; return where they now end.

    Up to SHORT of them each goes where the number of smaller ones says: no step waits for another.
    """
    size = begin
    if end - begin > SHORT:
        ids[begin:end] = np.sort(ids[begin:end])
        for place in range(begin, end):
            if size == begin or ids[size - 1] != ids[place]:
                ids[size] = ids[place]
                size += 1
        return size
    own = ids[begin:end]  # known to begin at 0: numba then compares many at once, four times as fast
    for place in range(len(own)):
        scratch[place] = NONE
    for place in range(len(own)):
        entry, smaller = own[place], 0
        for other in range(len(own)):
            smaller += own[other] < entry
        scratch[smaller] = entry
    for place in range(len(own)):
        own[size - begin] = scratch[place]
        size += scratch[place] != NONE
    return size


@njit(cache=True, nogil=True)
def _shared_out(hits: Any, size: int, texts: Any, ends: Any, ids: Any) -> Any:
    """Give each text its hits, sorted and once each; return all ids and where those of each text end.

    Args:
        hits: places of words, and ids.
        size: how many.
        texts: the number of each word's text within the block.
        ends: (B + 1,) int64: the first has where the ids end so far; the others are written here.
        ids: those of earlier texts; replaced by a larger array when it is full.
    """
    places, found = hits
    begin = ends[0]
    ids = grown(ids, begin + size)
    ends[1:] = 0
    for hit in range(size):
        ends[1 + texts[places[hit]]] += 1
    for text in range(1, len(ends)):
        ends[text] += ends[text - 1]
    for hit in range(size - 1, -1, -1):
        text = 1 + texts[places[hit]]
        ends[text] -= 1
        ids[ends[text]] = found[hit]
    scratch = np.empty(SHORT, np.int32)
    # Each entry now has where its text's ids begin.
    after = begin
    for text in range(1, len(ends)):
        start = ends[text]
        stop = ends[text + 1] if text + 1 < len(ends) else begin + size
        stop = _unique(ids, start, stop, scratch)
        for place in range(start, stop):
            ids[after + place - start] = ids[place]
        after += stop - start
        ends[text] = after
    return ids


@njit(cache=True, nogil=True)
def matched(data: Any, offsets: Any, words: Any, slots: Any, duplicates: Any) -> Any:
    """Find the queries in every caption.

    Args:
        data: uint8, the captions' bytes.
        offsets: (N + 1,) int64.
        words: `word_slots` and numbers, see `token_ids`.
        slots: (2^k · 2,) int64, see `inserted`.
        duplicates: (Q,) int32.

    Returns:
        (N + 1,) int64 offsets into the ids, and (M,) int32 ids, ascending within a caption.
    """
    word_slots, numbers = words
    scratch = word_scratch(offsets)
    most = len(scratch[0])
    known, texts = np.empty(most, np.int64), np.empty(most, np.int64)
    walk = (
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
    )
    table = word_slots, numbers, numbers.view(np.uint8), np.empty(most, np.uint64)
    hits = np.empty(2 * BATCH, np.int64), np.empty(2 * BATCH, np.int64)
    ids, ends, row = np.empty(4 * len(offsets), np.int32), np.zeros(len(offsets), np.int64), 0
    while row < len(offsets) - 1:
        first_row, count = row, 0
        while row < len(offsets) - 1 and count < BATCH:
            following = cut_words(data, offsets[row], offsets[row + 1], scratch, count)
            texts[count : following + 1] = row - first_row
            scratch[0][following], scratch[1][following], scratch[2][following] = 0, NONE, 0
            count, row = following + 1, row + 1
        _recognized(data, scratch, count, table, known)
        hits, size = _walked(known, count, (numbers, slots, duplicates), walk, hits)
        ids = _shared_out(hits, size, texts, ends[first_row : row + 1], ids)
    return ends, ids[: ends[-1]]


@njit(cache=True, nogil=True)
def merged(one: Any, other: Any) -> Any:
    """Merge two lists of matches of the same captions, which have no id in common.

    Args:
        one: (N + 1,) int64 offsets and (M,) int32 ids, ascending within a caption.
        other: the same.
    """
    (offsets, ids), (other_offsets, other_ids) = one, other
    out, out_offsets = np.empty(len(ids) + len(other_ids), np.int32), offsets + other_offsets
    for row in range(len(offsets) - 1):
        left, right = offsets[row], other_offsets[row]
        for place in range(out_offsets[row], out_offsets[row + 1]):
            ended = right == other_offsets[row + 1]
            if ended or (left < offsets[row + 1] and ids[left] < other_ids[right]):
                out[place], left = ids[left], left + 1
            else:
                out[place], right = other_ids[right], right + 1
    return out_offsets, out
