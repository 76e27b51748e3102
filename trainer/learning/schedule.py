"""The optimiser, and its learning rate over a run."""

import math
from dataclasses import dataclass

from ...flowmapsr_core.errors import check


@dataclass(frozen=True)
class Optimizer:
    """AdamW.

    Attributes:
        warmup: steps over which the rate rises at the start of every stage.
        decay: the rate falls to zero on a cosine over this last share of the steps before adversarial fine-tuning.
        betas: decay of the running means of the gradient and of its square.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which teach and are exported; 0 for the weights themselves.
        accumulate: parts that a batch is split into on each process, to save memory.
        checkpoint_activations: compute activations again in the backward pass, to save memory.
    """

    lr: float = 4e-4
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    warmup: int = 200
    decay: float = 0.3
    ema: float = 0.999
    accumulate: int = 1
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        check(self.lr > 0 and self.clip > 0, "optimizer.lr and optimizer.clip must be above 0")
        check(self.weight_decay >= 0 and self.warmup >= 0, "optimizer.weight_decay and warmup must be 0 or more")
        check(all(0 <= beta < 1 for beta in self.betas), "optimizer.betas must be at least 0 and below 1")
        check(0 <= self.decay <= 1 and 0 <= self.ema < 1, "optimizer.decay and optimizer.ema are shares")
        check(self.accumulate >= 1, "optimizer.accumulate must be at least 1")


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
