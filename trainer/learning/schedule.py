"""The learning rate over a run."""

import math

from ..recipe.recipe import Optimizer


def lr_factor(step: int, begin: int, end: int, optimizer: Optimizer) -> float:
    """Share of the learning rate at a step: linear warm-up from ``begin``, constant, cosine to zero at ``end``.

    Steps are counted over the run: ``begin`` is the stage's first, ``end`` follows the last that trains the network
    itself. A stage after that, adversarial fine-tuning, keeps the full rate.
    """
    rise = min(1.0, (step - begin + 1) / max(optimizer.warmup, 1))
    if begin >= end:
        return rise
    start = end * (1 - optimizer.decay)
    fall = min(1.0, max(0.0, (step - start) / max(end - start, 1)))
    return rise * 0.5 * (1 + math.cos(math.pi * fall))
