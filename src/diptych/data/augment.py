"""Change captions for training: leave words out.

Reads and writes: nothing.
Source: Wei & Zou 2019, "EDA: Easy Data Augmentation", section 2 (random deletion). The paper of CLIP leaves
captions as they are: 400 million pairs are not learnt by heart, thirty thousand are.
"""

import numpy as np

WHOLE_SHARE = 0.5
"""Of captions that lose nothing (LOG.md, 2026-11-24)."""


def drop_words(caption: str, largest_share: float, rng: np.random.Generator) -> str:
    """Leave out some of a caption's words.

    Every second caption stays whole: what will be looked for later are whole ones. Of the others a share is
    drawn evenly from 0 to `largest_share`, then each word stays or goes by itself; at least one stays.

    Args:
        caption: words between white space.
        largest_share: 0 leaves every caption as it is; below 1.
        rng: source of chance.

    Returns:
        The words that stay, in order, one space between them; the caption itself if none goes.

    >>> drop_words("red shoes", 0.0, np.random.default_rng(0))
    'red shoes'
    """
    words = caption.split()
    if largest_share <= 0 or len(words) < 2:
        return caption
    if rng.random() < WHOLE_SHARE:
        return caption
    share = rng.random() * largest_share
    chances = rng.random(len(words))
    chances[rng.integers(len(words))] = 1.0  # this one stays
    kept = [word for word, chance in zip(words, chances.tolist(), strict=True) if chance >= share]
    return caption if len(kept) == len(words) else " ".join(kept)
