"""Adversarial fine-tuning: what is judged, a discriminator of latents, and losses (arXiv 2601.16660, section 3).

The losses pair every prediction x0' with the x0 of its own LR image (relativistic pairing, as in R3GAN,
arXiv 2501.05441): what counts is by how much one looks more real than the other.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...flowmapsr_core.errors import check
from ...flowmapsr_core.method.flow import Velocity, flow_map

DISCRIMINATORS = ("patch", "projected")
SMALLEST = 24  # cells along each side that PatchDiscriminator takes


@dataclass(frozen=True)
class Adversarial:
    """Adversarial fine-tuning of a LoRA.

    Attributes:
        rank, alpha: of the LoRA.
        lr: of the LoRA and of the discriminator.
        discriminator: "patch" judges latents; "projected" judges pictures, by a classifier's features.
        evaluations: 1 or 2, those of the prediction that is judged.
        warmup: steps that train the discriminator alone.
        reconstruction: weight mu of the guided stage's loss beside the adversarial one.
        r1, r2: weights of the gradient penalties on real and generated latents or pictures, 0 for none.
    """

    rank: int = 64
    alpha: float = 64.0
    lr: float = 1e-5
    discriminator: str = "patch"
    evaluations: int = 2
    warmup: int = 200
    reconstruction: float = 1.0
    r1: float = 0.0
    r2: float = 0.0

    def __post_init__(self) -> None:
        check(self.rank >= 1, "adversarial.rank must be at least 1")
        check(self.alpha > 0 and self.lr > 0, "adversarial.alpha and adversarial.lr must be above 0")
        known = f"{self.discriminator!r} is none of {', '.join(DISCRIMINATORS)}"
        check(self.discriminator in DISCRIMINATORS, f"adversarial.discriminator: {known}")
        check(self.evaluations in (1, 2), "adversarial.evaluations must be 1 or 2")
        check(self.warmup >= 0, "adversarial.warmup must be 0 or more")
        check(min(self.reconstruction, self.r1, self.r2) >= 0, "adversarial's weights must be 0 or more")


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (arXiv 1611.07004) on latents: (B, C, H, W) to scores (B, 1, H // 8 - 2, W // 8 - 2), high for real.

    H and W are at least SMALLEST cells; a score sees 70 x 70 of them.

    Args:
        channels: C, the codec's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 64, 4, stride=2, padding=1),
            nn.SiLU(),
            *_block(64, 128, stride=2),
            *_block(128, 256, stride=2),
            *_block(256, 512, stride=1),
            nn.Conv2d(512, 1, 4, padding=1),
        )


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 4, stride, padding=1), nn.GroupNorm(32, outputs), nn.SiLU()


def last_jump(u: Velocity, x1: Tensor, evaluations: int) -> Tensor:
    """``x0'`` after so many equal jumps from x1 (B, C, H, W), of which only the last learns.

    With two, ``x0' = X(x_h; 1/2 -> 0)`` from ``x_h = sg(X(x1; 1 -> 1/2))``; with one, ``x0' = X(x1; 1 -> 0)``.
    """
    times = [x1.new_full((len(x1),), 1 - k / evaluations, dtype=torch.float32) for k in range(evaluations + 1)]
    *earlier, last = pairwise(times)
    x = x1
    with torch.no_grad():
        for t, s in earlier:
            x = flow_map(u, x, t, s)
    return flow_map(u, x, *last)


def generator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """``E softplus(-(D(x0') - D(x0)))`` of scores of any one shape; train the generator alone with it."""
    return F.softplus(real - fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """``E softplus(-(D(x0) - D(sg x0')))`` of scores of any one shape; detach x0' before it is scored."""
    return F.softplus(fake - real).mean()


def gradient_penalty(discriminator: nn.Module, x: Tensor) -> Tensor:
    """``E |dD(x)/dx|^2`` where D is the mean score of what it sees: R1 for x0, R2 for x0' (arXiv 2501.05441)."""
    x = x.detach().requires_grad_()
    score = discriminator(x).flatten(1).mean(dim=1)
    (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


class ScoreGap:
    """Running mean of ``D(x0) - D(x0')``: training has converged where it is 0, real and fake scores having met."""

    def __init__(self, decay: float = 0.99) -> None:
        self.decay = decay
        self.mean, self.steps = 0.0, 0

    def update(self, gap: float) -> float:
        """Take in a step's mean difference; returns the running mean (at first, of all steps alike)."""
        self.steps += 1
        share = max(1 - self.decay, 1 / self.steps)
        self.mean += share * (gap - self.mean)
        return self.mean

    def state_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "steps": self.steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.mean, self.steps = state["mean"], int(state["steps"])
