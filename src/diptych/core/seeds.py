"""Named seeds: every use of randomness gets its own, derived from one seed and a name.

Two uses never share a stream, and adding a third one changes neither of the first two.

Source: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (Philox, a counter-based generator).
"""

import hashlib

import numpy as np

SEED_BITS = 63  # fits a signed 64-bit integer, as torch.Generator.manual_seed and NumPy arrays want it


def derive(seed: int, *names: str | int) -> int:
    """Derive a seed in [0, 2**63) for one named use, such as ("augment", epoch, sample).

    >>> derive(0, "order", 1) == derive(0, "order", 1), derive(0, "order", 1) == derive(0, "order", "1")
    (True, False)
    """
    digest = hashlib.blake2b(f"i{int(seed)};".encode(), digest_size=8)
    for name in names:
        # The length in front keeps ("ab", "c") and ("a", "bc") apart.
        text = name.encode("utf-8") if isinstance(name, str) else str(int(name)).encode()
        digest.update(f"{'s' if isinstance(name, str) else 'i'}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "big") >> (64 - SEED_BITS)


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator for one named use; cheap enough to make one per sample."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *names)))
