"""Losses of CTMSR (arXiv 2503.20349): consistency training's, and distribution trajectory matching.

In the latter a frozen copy of the model maps the prediction and the HR image, both made noisy again, to time 0, and the
prediction is moved by how far apart these end, in the metric of a distance of pictures. The name is the paper's: what
is matched is each HR image and not a distribution. In the squared error of pixels it would take detail away.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...flowmapsr_core.errors import check
from ...flowmapsr_core.method.flow import Velocity, flow_map, interpolant

NEAREST = 1e-3  # mean distance at which a prediction's weight grows no further


@dataclass(frozen=True)
class Consistency:
    """The stages ``consistency`` and ``trajectory-matching``. The distances of pictures have their weights in [loss].

    Attributes:
        charbonnier: weight of the absolute error of latents.
        matching: weight of trajectory matching, times those of the distances.
        refresh: steps after which its frozen copy is made anew.
    """

    charbonnier: float = 0.5
    matching: float = 1.6
    refresh: int = 1000

    def __post_init__(self) -> None:
        check(self.charbonnier >= 0, "consistency.charbonnier must be 0 or more")
        check(self.matching > 0, "consistency.matching must be above 0")
        check(self.refresh >= 1, "consistency.refresh must be at least 1")


def trajectory_gap(u: Velocity, predicted: Tensor, x0: Tensor, x1: Tensor, tau: Tensor) -> Tensor:
    """How far apart ``u`` carries prediction and HR image from time tau: ``Delta = X(x^_tau; 0) - X(x_tau; 0)``.

    Args:
        u: the frozen copy's velocity.
        predicted, x0: states at time 0 (B, C, H, W), the prediction's and the pair's own.
        x1: state at time 1, of a noise that neither has seen; the same for both.
        tau: (B,).
    """
    zero = torch.zeros_like(tau)
    fake, real = (flow_map(u, interpolant(end, x1, tau), tau, zero) for end in (predicted, x0))
    return fake - real


def nearness(predicted: Tensor, x0: Tensor) -> Tensor:
    """The weight omega of a prediction (equation 19): one over its mean distance to x0, at most 1 / NEAREST; (B,)."""
    return 1 / (predicted - x0).abs().flatten(1).mean(dim=1).clamp(min=NEAREST)


def charbonnier(difference: Tensor) -> Tensor:
    """Mean of ``sqrt(d^2 + 1e-12)``, the absolute error with a gradient at zero; (B, C, H, W) to (B,)."""
    return (difference.square() + 1e-12).sqrt().flatten(1).mean(dim=1)
