"""The loops of matching: a hash table of word n-grams, and the look-up of every n-gram of every caption.

A text is words with one space between them; two spaces in a row have a word of no letters between them. The
table is open addressed; a slot is one uint64, so that a look-up touches one line of memory:

    bits 63..32  tag, the upper half of the n-gram's hash (its lower half chooses the slot)
    bits 31..1   the place of the query's record + 1, or 0 where the n-gram only begins longer queries
    bit 0        longer queries may begin with this n-gram

A record is a run of int32 numbers: the query's id, the place of the next record with the same words or -1,
the query's length in bytes, and these bytes.

The tag is a hint. A query is reported only after its bytes were compared, so equal tags cost time, not truth;
bit 0 is believed, which may cost a look-up in vain.
"""

from typing import Any

import numpy as np

from diptych.curate.kernels import SPACE, byte_hash, grown, njit

LONGER = np.uint64(1)
TWIN, LENGTH, HEADER = 1, 2, 3
NONE = -1
LOWER_HALF = np.uint64(0xFFFFFFFF)
N1, N32 = np.uint64(1), np.uint64(32)
COMBINE = np.uint64(0xFF51AFD7ED558CCD)
"""An odd number whose product spreads a hash over all bits: a multiplier of MurmurHash3's finaliser."""

SHORT = 48
"""A caption rarely has more matches than this, and up to it insertion beats a general sort."""

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
    room = offsets[-1] - offsets[0] + 1
    for place in range(offsets[0], offsets[-1]):
        room += 2 * SPACED_OUT[data[place]]
    out, out_offsets = np.empty(room, np.uint8), np.zeros(len(offsets), np.int64)
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
def _extended(gram: Any, word: Any) -> Any:
    """Return the hash of an n-gram and one more word."""
    state = (gram + word) * COMBINE
    return state ^ (state >> N32)


@njit(cache=True, nogil=True)
def _cut(data: Any, start: Any, end: Any, ends: Any, hashes: Any) -> int:
    """Find where the words of a text end, and their hashes; return how many there are."""
    count, begin = 0, start
    for place in range(start, end + 1):
        if place == end or data[place] == SPACE:
            ends[count], hashes[count] = place, byte_hash(data, begin, place)
            count, begin = count + 1, place + 1
    return count


@njit(cache=True, nogil=True)
def _holds(records: Any, record: Any, data: Any, start: int, end: int) -> Any:
    """Tell whether some bytes are exactly those of a record's query."""
    numbers, letters = records
    if numbers[record + LENGTH] != end - start:
        return False
    begin = 4 * (record + HEADER)
    for place in range(end - start):  # noqa: SIM110 — numba compiles no generators inside all()
        if letters[begin + place] != data[start + place]:
            return False
    return True


@njit(cache=True, nogil=True)
def _insert(slots: Any, records: Any, gram: Any, record: int) -> Any:
    """Give a record its slot, or put it behind its twin; tell whether the slot was free."""
    numbers, letters = records
    begin = 4 * (record + HEADER)
    mask, tag, place = len(slots) - 1, gram >> N32, np.int64(gram & LOWER_HALF)
    while True:
        place &= mask
        slot = slots[place]
        head = np.int64((slot & LOWER_HALF) >> N1) - 1
        if slot == 0 or (slot >> N32 == tag and head < 0):
            slots[place] = (tag << N32) | (np.uint64(record + 1) << N1) | (slot & LONGER)
            return slot == 0
        if slot >> N32 == tag and _holds(records, head, letters, begin, begin + numbers[record + LENGTH]):
            numbers[record + TWIN] = numbers[head + TWIN]
            numbers[head + TWIN] = record
            return False
        place += 1


@njit(cache=True, nogil=True)
def _mark_longer(slots: Any, gram: Any) -> Any:
    """Note that queries begin with an n-gram, in the first slot with its tag; tell whether that was free."""
    mask, tag, place = len(slots) - 1, gram >> N32, np.int64(gram & LOWER_HALF)
    while slots[place & mask] != 0 and slots[place & mask] >> N32 != tag:
        place += 1
    free = slots[place & mask] == 0
    slots[place & mask] |= (tag << N32) | LONGER
    return free


@njit(cache=True, nogil=True)
def recorded(data: Any, offsets: Any, held: Any) -> Any:
    """Write a record of every query that belongs into the table.

    Args:
        data: uint8, the queries' bytes.
        offsets: (Q + 1,) int64.
        held: (Q,) bool: which of them do.

    Returns:
        int32 numbers, and how many words they have in all.
    """
    size, words = 0, 0
    for query in np.flatnonzero(held):
        size += HEADER + (offsets[query + 1] - offsets[query] + 3) // 4
    numbers = np.zeros(size, np.int32)
    letters, record = numbers.view(np.uint8), 0
    for query in np.flatnonzero(held):
        start, length = offsets[query], offsets[query + 1] - offsets[query]
        numbers[record], numbers[record + TWIN], numbers[record + LENGTH] = query, NONE, length
        begin, words = 4 * (record + HEADER), words + 1
        for place in range(length):
            letters[begin + place] = data[start + place]
            words += data[start + place] == SPACE
        record += HEADER + (length + 3) // 4
    return numbers, words


@njit(cache=True, nogil=True)
def fill_table(slots: Any, numbers: Any) -> int:
    """Put the records and what their queries begin with into an empty table.

    Args:
        slots: (2^k,) uint64 of zeros, more than the words of all records.
        numbers: int32 records; twins are linked here.

    Returns:
        How many slots are in use.
    """
    letters = numbers.view(np.uint8)
    ends, hashes = np.empty(len(letters) + 1, np.int64), np.empty(len(letters) + 1, np.uint64)
    used, record = 0, 0
    while record < len(numbers):
        begin, length = 4 * (record + HEADER), numbers[record + LENGTH]
        words = _cut(letters, begin, begin + length, ends, hashes)
        gram = np.uint64(0)
        for word in range(words - 1):
            gram = _extended(gram, hashes[word])
            used += _mark_longer(slots, gram)
        numbers[record + TWIN] = NONE
        used += _insert(slots, (numbers, letters), _extended(gram, hashes[words - 1]), record)
        record += HEADER + (length + 3) // 4
    return used


@njit(cache=True, nogil=True)
def _looked_up(slots: Any, records: Any, gram: Any, data: Any, start: int, end: int) -> Any:
    """Return the first record whose words these bytes are, or -1, and whether longer ones may begin so."""
    mask, tag, place = len(slots) - 1, gram >> N32, np.int64(gram & LOWER_HALF)
    longer, seen = False, False
    while True:
        slot = slots[place & mask]
        if slot == 0:
            return NONE, longer
        if slot >> N32 == tag:
            longer = longer if seen else slot & LONGER != 0
            seen = True
            head = np.int64((slot & LOWER_HALF) >> N1) - 1
            if head >= 0 and _holds(records, head, data, start, end):
                return head, longer
        place += 1


@njit(cache=True, nogil=True)
def _unique(ids: Any, begin: Any, end: Any) -> Any:
    """Sort the ids from `begin` to `end` and drop repetitions; return where they now end."""
    if end - begin > SHORT:
        ids[begin:end] = np.sort(ids[begin:end])
    else:
        for place in range(begin + 1, end):
            entry, before = ids[place], place - 1
            while before >= begin and ids[before] > entry:
                ids[before + 1] = ids[before]
                before -= 1
            ids[before + 1] = entry
    size = begin
    for place in range(begin, end):
        if size == begin or ids[size - 1] != ids[place]:
            ids[size] = ids[place]
            size += 1
    return size


@njit(cache=True, nogil=True)
def _touch(table: Any, scratch: Any, level: int, begun: int) -> None:
    """Lengthen every n-gram of a text by a word, and ask for its slot and its record all at once.

    Nearly every look-up waits for memory. No step of these loops waits for another, so that the waits
    overlap: with 500,000 queries this doubled the speed.
    """
    slots, numbers = table
    _, hashes, firsts, grams, seen = scratch
    mask = np.uint64(len(slots) - 1)
    for place in range(begun):
        first = firsts[place]
        grams[first] = _extended(grams[first], hashes[first + level])
        seen[place] = slots[np.int64(grams[first] & mask)]
    for place in range(begun):
        head = np.int64((seen[place] & LOWER_HALF) >> N1)
        if head > 0 and seen[place] >> N32 == grams[firsts[place]] >> N32:
            seen[place] = np.uint64(numbers[head - 1 + LENGTH])


@njit(cache=True, nogil=True)
def _noted(ids: Any, size: Any, numbers: Any, record: Any) -> Any:
    """Write down the query of a record and of its twins; return the ids and how many they are now."""
    while record >= 0:
        ids = grown(ids, size)
        ids[size] = numbers[record]
        size, record = size + 1, numbers[record + TWIN]
    return ids, size


@njit(cache=True, nogil=True)
def _found(text: Any, words: int, slots: Any, records: Any, scratch: Any, ids: Any, size: Any) -> Any:
    """Write down the queries of one text: those of one word, of two, and so on while longer ones begin so."""
    data, text_start = text
    ends, _, firsts, grams, _ = scratch
    for first in range(words):
        firsts[first], grams[first] = first, 0
    begun, level = words, 0
    while begun > 0:
        _touch((slots, records[0]), scratch, level, begun)
        going = 0
        for place in range(begun):
            first = firsts[place]
            start = ends[first - 1] + 1 if first > 0 else text_start
            record, longer = _looked_up(slots, records, grams[first], data, start, ends[first + level])
            ids, size = _noted(ids, size, records[0], record)
            if longer and first + level + 1 < words:
                firsts[going] = first
                going += 1
        begun, level = going, level + 1
    return ids, size


@njit(cache=True, nogil=True)
def matched(data: Any, offsets: Any, slots: Any, numbers: Any) -> Any:
    """Find the queries in every caption.

    Args:
        data: uint8, the captions' bytes.
        offsets: (N + 1,) int64.
        slots: (2^k,) uint64, see `fill_table`.
        numbers: int32 records, see `recorded`.

    Returns:
        (N + 1,) int64 offsets into the ids, and (M,) int32 ids, ascending within a caption.
    """
    records, longest = (numbers, numbers.view(np.uint8)), 1
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row] + 1)
    ends, firsts = np.empty(longest, np.int64), np.empty(longest, np.int64)
    hashes, grams = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    scratch = (ends, hashes, firsts, grams, np.empty(longest, np.uint64))
    ids, out_offsets, size = np.empty(4 * len(offsets), np.int32), np.zeros(len(offsets), np.int64), 0
    for row in range(len(offsets) - 1):
        words = _cut(data, offsets[row], offsets[row + 1], ends, hashes)
        begin = size
        ids, size = _found((data, offsets[row]), words, slots, records, scratch, ids, size)
        size = _unique(ids, begin, size)
        out_offsets[row + 1] = size
    return out_offsets, ids[:size]


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
