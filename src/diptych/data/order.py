"""The order of samples in training, as a pure function of (seed, epoch, position).

Nothing is shuffled and nothing is remembered: position p of the endless sequence belongs to epoch p // count,
and inside an epoch a keyed permutation says which sample stands there. Resuming, other numbers of processes
or loader workers therefore cannot change the order, and the memory used is O(1) for any data set size.

Source: Luby & Rackoff 1988 (a Feistel network is a permutation whatever its round function is); Black &
Rogaway 2002, section 3 ("cycle walking" from a power of two down to any count). We use alternating unequal
halves, so the domain is a power of two and not of four, and splitmix64 (Steele, Lea & Flood 2014) as the
round function: the aim is an even shuffle, not secrecy.
"""

import numpy as np
import numpy.typing as npt

from diptych.core.errors import UsageError
from diptych.core.seeds import derive

Integers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

# Luby & Rackoff need four rounds for strong pseudo-randomness with ideal round functions; the halves of a
# small data set have a handful of bits, where more rounds are what makes every position equally likely.
_ROUNDS = 8
# Below 64 the halves would have one or two bits, and two bits cannot be shuffled evenly; cycle walking brings
# the larger domain down to the count.
_MIN_BITS = 6
_MAX_COUNT = 2**62

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def sample_at(positions: Integers, *, count: int, seed: int) -> Integers:
    """Return the samples in [0, count) at positions, of any shape, of the endless training sequence.

    Each epoch (count consecutive positions) holds every sample exactly once, in an order of its own; another
    seed gives another order.

    >>> sorted(sample_at(np.arange(5), count=5, seed=0).tolist())
    [0, 1, 2, 3, 4]
    """
    if not 1 <= count <= _MAX_COUNT:
        fix, expected = "check that the data set holds samples", f"1 to {_MAX_COUNT}"
        raise UsageError("no order over this many samples", found=count, expected=expected, fix=fix)
    if positions.size and int(positions.min()) < 0:
        what, fix = "a position of the training sequence is negative", "count samples seen from 0"
        raise UsageError(what, found=int(positions.min()), expected="0 or more", fix=fix)
    epochs, ranks = np.divmod(positions.reshape(-1), np.int64(count))
    keys = _mix(epochs.astype(np.uint64) * _GOLDEN ^ np.uint64(derive(seed, "order")))
    return _permute(ranks.astype(np.uint64), keys, count).astype(np.int64).reshape(positions.shape)


def _mix(words: _Words) -> _Words:
    """Scramble 64-bit words one to one (splitmix64's finalizer); overflow wraps, as intended."""
    words = (words ^ (words >> _S30)) * _MIX_1
    words = (words ^ (words >> _S27)) * _MIX_2
    return words ^ (words >> _S31)


def _permute(ranks: _Words, keys: _Words, count: int) -> _Words:
    """Permute ranks of [0, count) under per-element keys, walking each cycle until it is back below count."""
    if count == 1:
        return np.zeros_like(ranks)
    bits = max(_MIN_BITS, (count - 1).bit_length())
    values = _feistel(ranks, keys, bits)
    outside = np.flatnonzero(values >= np.uint64(count))
    while outside.size:
        values[outside] = _feistel(values[outside], keys[outside], bits)
        outside = outside[values[outside] >= np.uint64(count)]
    return values


def _feistel(values: _Words, keys: _Words, bits: int) -> _Words:
    """Permute [0, 2**bits) under per-element keys: each half in turn is masked with a hash of the other."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = values & low_mask, values >> low_bits
    for number in range(_ROUNDS):
        round_keys = keys + np.uint64((number * int(_GOLDEN)) % 2**64)
        if number % 2:
            low = low ^ (_mix(high ^ round_keys) & low_mask)
        else:
            high = high ^ (_mix(low ^ round_keys) & high_mask)
    return (high << low_bits) | low
