"""The learning rate as a pure function of the step: linear warm-up, then a cosine down to a floor.

Source: Radford et al. 2021, section 2.5 and table 18 (cosine schedule, 2,000 steps of warm-up).
"""

import math


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, min_lr_ratio: float = 0.0
) -> float:
    """Return the learning rate, in [0, peak], that a step uses.

    Args:
        step: from 0, as in open_clip 3.3, whose rates these are for a `min_lr_ratio` of 0.
        peak: rate at the end of the warm-up.
        warmup_steps: of the linear rise; the first one already uses peak / warmup_steps.
        total_steps: from there on the floor holds.
        min_lr_ratio: where the cosine ends, as a fraction of the peak; the paper has 0.

    >>> [learning_rate(s, peak=1.0, warmup_steps=2, total_steps=6) for s in (0, 1, 2, 4, 6)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= total_steps:
        return peak * min_lr_ratio
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    wave = 0.5 * (1.0 + math.cos(math.pi * done))
    return peak * (min_lr_ratio + (1.0 - min_lr_ratio) * wave)
