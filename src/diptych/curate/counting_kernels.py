"""Loops that count words and pairs of words in hash tables over flat arrays.

A row of the table of words holds all about one word, so that looking it up touches one line of the cache:
its key, its size and number, where its bytes end in the pool, its count. The key of a word of up to eight
bytes is those bytes, so nothing else has to be compared; that of a longer one is a hash. A pair is the
numbers of its two words, which fit one integer: its bytes are never looked at.
"""

from typing import Any

import numpy as np

from diptych.curate.kernels import SPACE, njit

MAX_WORD_BYTES = 255
"""A longer run of letters is no word (text without spaces, an encoded file): it separates words."""

ROW, PLACE, PREVIOUS, WORDS, PAIRS, ENTRIES, PAIR_ENTRIES, POOL = range(8)
"""What `count` remembers between calls: the text and the byte to go on with, where the word before begins
(-1: there is none), words and pairs seen so far, entries in use, bytes of words in use."""
MARKS = 8
DONE, WORDS_FULL, PAIRS_FULL = range(3)
STRIDE = 512  # words that are looked up before their pairs are
FILL_THIRDS = 2  # tables are full when two thirds are in use: from there on looking up gets slow

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 / golden ratio: spreads neighbouring keys (Knuth, 6.4)
HALF = np.uint64(32)
KEY_BYTES = 8
PRIME = 0x100000001B3  # of the FNV hash
KEY, TAG, END, COUNT = range(4)
"""Columns of the table of words; the tag is size * 2 ** 32 + number + 1."""
NUMBER = (1 << 32) - 1


@njit(cache=True, nogil=True)
def _slot(key: int, mask: int) -> Any:
    mixed = np.uint64(key) * GOLDEN
    return np.int64((mixed ^ (mixed >> HALF)) & np.uint64(mask))


@njit(cache=True, nogil=True)
def _read(data: Any, place: int, stop: int) -> Any:
    """Return the key of the word that begins here, and its end."""
    key, end = np.int64(0), place
    short = min(stop, place + KEY_BYTES)
    while end < short and data[end] != SPACE:
        key = (key << 8) | np.int64(data[end])
        end += 1
    while end < stop and data[end] != SPACE:
        key = (key ^ np.int64(data[end])) * np.int64(PRIME)
        end += 1
    return key, end


@njit(cache=True, nogil=True)
def _is_word(data: Any, place: int, size: int, pool: Any, pool_end: int) -> bool:
    same = True
    for step in range(size):
        same &= data[place + step] == pool[pool_end - size + step]
    return same


@njit(cache=True, nogil=True)
def _row_of(data: Any, place: int, size: int, key: int, words: Any, pool: Any, at: Any) -> Any:
    """Return the row of a word, or the empty one where it would be, looking from a row on."""
    mask = len(words) - 1
    while words[at, TAG]:
        same = words[at, KEY] == key and words[at, TAG] >> 32 == size
        if same and (size <= KEY_BYTES or _is_word(data, place, size, pool, words[at, END])):
            return at
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def _enter(data: Any, place: int, size: int, key: int, row: Any, pool: Any, marks: Any) -> None:
    """Fill the empty row of a new word."""
    used = marks[POOL]
    for step in range(size):
        pool[used + step] = data[place + step]
    marks[ENTRIES] += 1
    marks[POOL] = used + size
    row[KEY], row[TAG], row[END], row[COUNT] = key, (size << 32) | marks[ENTRIES], used + size, 0


@njit(cache=True, nogil=True)
def _pair_row(pairs: Any, key: int, at: Any) -> Any:
    """Return the row of a pair, or the empty one where it would be, looking from a row on."""
    mask = len(pairs) - 1
    while pairs[at, 0] and pairs[at, 0] != key:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def _resumed(data: Any, words: Any, pool: Any, marks: Any) -> Any:
    """Return the number of the word before the one to go on with; the tables may have been emptied since."""
    place = marks[PREVIOUS]
    if place < 0:
        return 0
    key, end = _read(data, place, len(data))
    at = _row_of(data, place, end - place, key, words, pool, _slot(key, len(words) - 1))
    if words[at, TAG] == 0:
        _enter(data, place, end - place, key, words[at], pool, marks)
    return words[at, TAG] & NUMBER


@njit(cache=True, nogil=True)
def _cut(data: Any, offsets: Any, marks: Any, cut: Any) -> Any:
    """Find the next words behind the first entry; one of no bytes stands between two texts.

    Returns:
        How many entries there are now, and DONE, or PAIRS_FULL if there is more to read.
    """
    keys, places, ends, rows = cut
    row, place, filled, state = marks[ROW], marks[PLACE], 1, PAIRS_FULL
    stop = offsets[row + 1]
    while filled < len(keys):
        key, end, ended = np.int64(0), place, place >= stop
        if ended:
            row += 1
            if row == len(offsets) - 1:
                state = DONE
                break
            place, end, stop = offsets[row], offsets[row], offsets[row + 1]
        else:
            key, end = _read(data, place, stop)
        keys[filled], places[filled], ends[filled], rows[filled] = key, place, end, row
        filled += 1
        place = place if ended else end + 1
    marks[ROW], marks[PLACE] = row, place
    return filled, state


@njit(cache=True, nogil=True)
def _number(data: Any, words: Any, pool: Any, marks: Any, numbers: Any, cut: Any, filled: int) -> Any:
    """Count words that were cut and note their numbers; 0 stands where no pair crosses.

    Their rows lie far apart in memory. All are asked for in loops of which no step waits for another.

    Returns:
        How many were counted: fewer than there are where the table is full.
    """
    keys, places, ends, rows = cut
    room, mask = len(words) * FILL_THIRDS // 3, len(words) - 1
    for step in range(1, filled):
        numbers[step] = words[_slot(keys[step], mask), KEY]
    for step in range(1, filled):
        key, place, size = keys[step], places[step], ends[step] - places[step]
        if size == 0 or size > MAX_WORD_BYTES:
            marks[PREVIOUS], numbers[step] = -1, 0
            continue
        at = _slot(key, mask)
        if numbers[step] != key or size > KEY_BYTES or words[at, TAG] >> 32 != size:
            at = _row_of(data, place, size, key, words, pool, at)
        if words[at, TAG] == 0:
            if marks[ENTRIES] >= room or marks[POOL] + size > len(pool):
                marks[ROW], marks[PLACE] = rows[step], place
                return step
            _enter(data, place, size, key, words[at], pool, marks)
        words[at, COUNT] += 1
        marks[WORDS] += 1
        numbers[step], marks[PREVIOUS] = words[at, TAG] & NUMBER, place
    return filled


@njit(cache=True, nogil=True)
def _add_pairs(numbers: Any, filled: int, pairs: Any, marks: Any, scratch: Any) -> None:
    """Count the pairs in a row of numbers.

    Their rows lie far apart in memory. All are asked for in loops of which no step waits for another.
    """
    keys, rows, held = scratch
    seen, entered, mask = 0, 0, len(pairs) - 1
    for step in range(1, filled):
        keys[seen] = (numbers[step - 1] << 32) | numbers[step]
        seen += (numbers[step - 1] != 0) & (numbers[step] != 0)
    for step in range(seen):
        rows[step] = _slot(keys[step], mask)
    for step in range(seen):
        held[step] = pairs[rows[step], 0]
    for step in range(seen):
        row = rows[step] if held[step] == keys[step] else _pair_row(pairs, keys[step], rows[step])
        entered += pairs[row, 0] == 0
        pairs[row, 0] = keys[step]
        pairs[row, 1] += 1
    marks[PAIR_ENTRIES] += entered
    marks[PAIRS] += seen


@njit(cache=True, nogil=True)
def count(data: Any, offsets: Any, words: Any, pool: Any, pairs: Any, marks: Any) -> Any:
    """Count words and pairs until the texts end or a table is full; then it goes on where it stopped.

    Args:
        data: uint8, words with one space between them.
        offsets: (N + 1,) int64, where each text begins.
        words: (S, 4) int64, see above; rows without a tag are empty.
        pool: uint8, the bytes of the words one after the other.
        pairs: (T, 2) int64 keys (first number * 2 ** 32 + second, from 1) and counts; a key of 0 is empty.
        Without
            rows, pairs are not counted.
        marks: (MARKS,) int64.

    Returns:
        DONE, or which table is full.
    """
    if marks[PLACE] < 0:
        if len(offsets) == 1:
            return DONE
        marks[ROW], marks[PLACE] = 0, offsets[0]
    numbers = np.zeros(STRIDE, np.int64)
    cut = (
        np.empty(STRIDE, np.int64),
        np.empty(STRIDE, np.int64),
        np.empty(STRIDE, np.int64),
        np.empty(STRIDE, np.int64),
    )
    scratch = np.empty(STRIDE, np.int64), np.empty(STRIDE, np.int64), np.empty(STRIDE, np.int64)
    numbers[0] = _resumed(data, words, pool, marks)
    most_pairs = len(pairs) * FILL_THIRDS // 3
    while True:
        if len(pairs) and marks[PAIR_ENTRIES] + STRIDE > most_pairs:
            return PAIRS_FULL
        ready, state = _cut(data, offsets, marks, cut)
        filled = _number(data, words, pool, marks, numbers, cut, ready)
        if filled < ready:
            state = WORDS_FULL
        if len(pairs):
            _add_pairs(numbers, filled, pairs, marks, scratch)
        numbers[0] = numbers[filled - 1]
        if state == DONE:
            marks[PLACE] = marks[PREVIOUS] = -1
        if state != PAIRS_FULL:
            return state


@njit(cache=True, nogil=True)
def _free(table: Any, key: int, mark: int) -> Any:
    """Return the row for a key that is not in a table; the column `mark` is 0 where a row is empty."""
    at = _slot(key, len(table) - 1)
    while table[at, mark]:
        at = (at + 1) & (len(table) - 1)
    return at


@njit(cache=True, nogil=True)
def refill_words(old: Any, new: Any) -> None:
    """Enter the words into a larger table."""
    for row in range(len(old)):
        if old[row, TAG]:
            at = _free(new, old[row, KEY], TAG)
            for column in range(COUNT + 1):
                new[at, column] = old[row, column]


@njit(cache=True, nogil=True)
def refill_pairs(old: Any, new: Any) -> None:
    """Enter the pairs into a larger table."""
    for row in range(len(old)):
        if old[row, 0]:
            at = _free(new, old[row, 0], 0)
            new[at, 0], new[at, 1] = old[row, 0], old[row, 1]


@njit(cache=True, nogil=True)
def numbered_words(words: Any, used: int) -> Any:
    """Return where the bytes of each word end in the pool, and its count, by number.

    Args:
        words: the table.
        used: words in it.
    """
    ends, counts = np.zeros(used + 1, np.int64), np.empty(used, np.int64)
    for row in range(len(words)):
        number = words[row, TAG] & NUMBER
        if number:
            ends[number], counts[number - 1] = words[row, END], words[row, COUNT]
    return ends, counts


@njit(cache=True, nogil=True)
def ranked_pairs(pairs: Any, ranks: Any, used: int) -> Any:
    """Take the pairs out of their table, with the ranks of their words in place of the numbers.

    Args:
        pairs: the table.
        ranks: (W,) int64, the place of each word in the sorted list.
        used: pairs in the table.

    Returns:
        (used,) int64, first rank * 2 ** 32 + second, and (used,) counts, in the table's order.
    """
    keys, counts = np.empty(used, np.int64), np.empty(used, np.int64)
    size = 0
    for row in range(len(pairs)):
        if pairs[row, 0]:
            first, second = (pairs[row, 0] >> 32) - 1, (pairs[row, 0] & NUMBER) - 1
            keys[size], counts[size] = (ranks[first] << 32) | ranks[second], pairs[row, 1]
            size += 1
    return keys, counts
